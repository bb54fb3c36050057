"""What can go wrong between a caller and a service.

::

    ClientError
    ├── Unreachable        there was no answer, or it broke off, or it is not this service's
    └── ServiceError       the service answered with an error
        ├── InvalidRequest 4xx: something about the request is to be mended
        ├── NotAuthorized  401, 403: the API key is missing or wrong
        └── Busy           429, 503: it cannot be taken now
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from app.errors import VariationsError


class ClientError(VariationsError, title="The service cannot be used"):
    """Base of all errors of the client."""


class Unreachable(ClientError, title="The service does not answer"):
    """There was no answer, or it broke off, or what answered is not this service."""


class ServiceError(ClientError, title="The service answered with an error"):
    """The service answered with an error. ``str(error)`` is ``detail``.

    ``type``, ``title``, ``status`` and ``detail`` are those of RFC 9457; ``fields`` says of each
    field that is wrong what would be right, ``field`` is the first of them. ``retry_after`` are the
    seconds after which asking again makes sense, where the service tells; it does not where
    ``should_retry`` is false.
    """

    def __init__(
        self, status: int, problem: Mapping[str, Any], *, should_retry: bool | None = None
    ) -> None:
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Status {status}"
        self.title = str(problem.get("title") or phrase)
        self.detail = str(problem.get("detail") or phrase)
        super().__init__(self.detail)
        self.status = status
        self.type = str(problem.get("type") or "about:blank")
        self.request_id = str(problem.get("request_id") or "")
        self.fields = {one["field"]: one["message"] for one in problem.get("errors") or ()}
        self.field: str | None = next(iter(self.fields), None)
        self.retry_after: float | None = problem.get("retry_after")
        told = self.retry_after is not None
        self.should_retry = told if should_retry is None else should_retry


class InvalidRequest(ServiceError, title="The request cannot be served as it is"):
    """Something about the request is to be mended: ``field`` names the part."""


class NotAuthorized(ServiceError, title="Not authorized"):
    """The API key is missing, or not one of those that are accepted."""


class Busy(ServiceError, title="Not accepted now"):
    """Nothing is wrong with the request, but it cannot be taken now."""


def error_of(
    status: int, problem: Mapping[str, Any], *, should_retry: bool | None = None
) -> ServiceError:
    """The error for a status, of the class that fits it."""
    kind = ServiceError
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        kind = NotAuthorized
    elif status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        kind = Busy
    elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = InvalidRequest
    return kind(status, problem, should_retry=should_retry)
