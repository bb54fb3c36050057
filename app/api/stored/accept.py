"""From a form to a stored request."""

import asyncio

from starlette.requests import Request

from app.api.middleware.admission import Admission
from app.api.middleware.idempotency import fingerprint
from app.api.state import service_of
from app.api.stored.job import Job
from app.api.stored.requests import Wish
from app.api.submission import Submitting
from app.pictures.encode import OutputFormat


def is_keyed(request: Request) -> bool:
    """The request has an idempotency key, so its work outlasts it."""
    admission: Admission = request.state.admission
    return admission.idempotency_key is not None


async def store(
    request: Request,
    submitting: Submitting,
    output_format: OutputFormat,
    webhook: str | None = None,
) -> Job:
    """The job of a request, or of the one that it repeats.

    Raises what :meth:`StoredRequests.accept` raises.
    """
    path = request.scope["route"].path
    form = await request.form()
    digest = await asyncio.to_thread(fingerprint, path, form, output_format)
    wish = Wish(digest, output_format, webhook)
    return await service_of(request).stored.accept(request.state.admission, wish, submitting)
