"""Requests that nobody posted, for tests of what renders them."""

import asyncio

from app.api.application import create_app
from app.api.middleware.admission import Admission
from app.api.submission import Submission
from app.api.timeline import Timeline
from app.engine.generation import Generation
from app.parameters import Parameters
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.requests import MODEL, PREPROCESSING, condition_for


def submission(parameters: Parameters, timeline: Timeline | None = None) -> Submission:
    """A submission of request ``a.b``, which should take 1.5 s."""
    engine = FakeEngine()
    service = create_app(Settings(), engine, FakeDecoders()).state.service
    admission = Admission("a.b", MODEL, PREPROCESSING, 60.0, b"x", timeline or Timeline())

    async def generation() -> Generation:
        return Generation("a.b", parameters, condition_for(parameters), engine)

    return Submission(service, admission, parameters, asyncio.run(generation()), 1.5, 0.0)
