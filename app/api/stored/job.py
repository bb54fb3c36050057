"""A stored request in this process: it waits, it runs, or it has ended."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any

from app import errors
from app.api import schemas
from app.api.renderers.progress import Told
from app.api.stored.database import Row, StoredPicture
from app.api.stored.log import Log
from app.api.submission import Submission
from app.engine.generation import Status
from app.errors import BadInput, GenerationFailed, Refused, VariationsError
from app.parameters import Parameters

NUMBERS_OF_A_RUN = 1_000_000
"""The events of each run are numbered from a multiple of this, so that the numbers only rise."""


class Job:
    """A stored request. It has a ``submission`` once it is in the engine of this process.

    What it wants is not known (``None``) of one that failed, or is left to another process.
    """

    def __init__(
        self, row: Row, wanted: Parameters | None = None, submission: Submission | None = None
    ) -> None:
        self.row = row
        self.wanted = wanted
        self.submission = submission
        self.log = Log(row.runs * NUMBERS_OF_A_RUN)
        self.waiters = 0
        """HTTP requests whose answer it is to be."""
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the database has it; has an error if that cannot be."""
        self.task: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[schemas.VariationsResponse]
        self._answer = asyncio.get_running_loop().create_future()
        self._queued_at = 0.0

    @property
    def status(self) -> Status:
        """Its state."""
        if self._answer.done():
            return Status.FAILED if self._answer.exception() else Status.DONE
        if self.submission is None or self.submission.generation.status is Status.QUEUED:
            return Status.QUEUED
        return Status.RUNNING  # until what was made is kept too

    @property
    def result(self) -> schemas.VariationsResponse | None:
        """Its answer, once it is done."""
        return self._answer.result() if self.status is Status.DONE else None

    @property
    def start_in(self) -> float | None:
        """Seconds until its first step, as predicted; ``None`` where nobody knows."""
        queued: schemas.Queued | None = self.log.latest("queued")
        if self.status is not Status.QUEUED or queued is None:
            return None
        return max(0.0, queued.start_in - (monotonic() - self._queued_at))

    async def answer(self) -> schemas.VariationsResponse:
        """Its answer, once it is done; raises its error."""
        if self.log.error:  # also of one that waits for another process
            raise self.log.error
        self.waiters += 1
        try:
            return await asyncio.shield(self._answer)
        finally:
            self.waiters -= 1

    async def told(self, after: int) -> AsyncGenerator[Told, None]:
        """Its events to whom they are the answer, see :meth:`Log.read`."""
        self.waiters += 1
        try:
            async with aclosing(self.log.read(after)) as events:
                async for one in events:
                    yield one
        finally:
            self.waiters -= 1

    def tell(self, told: Told) -> None:
        """Something has happened to it."""
        if isinstance(told.data, schemas.Queued):
            self._queued_at = monotonic()
        self.log.tell(told)

    def finish(self, summary: Told) -> None:
        """All its pictures have been told, and are kept."""
        variations = [one for _, one in self.log.pictures()]
        self._answer.set_result(
            schemas.VariationsResponse(**dict(summary.data), variations=variations)
        )
        self.log.tell(summary)
        self.log.end()

    def fail(self, error: VariationsError) -> None:
        """It cannot be served."""
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # seen, even where nobody waits for it
            self.log.end(error)


def ended(row: Row, pictures: Sequence[StoredPicture]) -> Job:
    """A job that ended earlier, as the database has it."""
    try:
        return _done(row, pictures) if row.error is None else _failed(row, error_of(row.error))
    except ValueError:  # those of pydantic too
        words = "Another version of the service made it, and this one cannot read it: post it again"
        return _failed(row, GenerationFailed(words))


def _failed(row: Row, error: VariationsError) -> Job:
    job = Job(row)
    job.log.last = row.last or 0
    job.fail(error)
    return job


def _done(row: Row, pictures: Sequence[StoredPicture]) -> Job:
    summary = schemas.Summary.model_validate_json(row.summary or "")
    job = Job(row, summary.parameters)
    for one in sorted(pictures, key=lambda each: each.number):
        variation = schemas.Variation.model_validate_json(one.variation)
        if one.file is not None:
            variation.b64_json = base64.b64encode(one.file).decode()
        job.log.tell(Told("picture", variation, one.number))
    job.finish(Told("done", summary, row.last))
    return job


def stored_pictures(job: Job) -> list[StoredPicture]:
    """The pictures of a job as the database takes them. Takes a while; call it in a thread."""
    return [
        StoredPicture(
            number,
            one.model_copy(update={"b64_json": None}).model_dump_json(),
            None if one.b64_json is None else base64.b64decode(one.b64_json),
        )
        for number, one in job.log.pictures()
    ]


def words_of(error: VariationsError) -> str:
    """An error as JSON."""
    words: dict[str, Any] = {"kind": type(error).__name__, "message": error.message}
    if isinstance(error, BadInput):
        words["field"] = error.field
    if isinstance(error, Refused):
        words["retry_after"] = error.retry_after
    return json.dumps(words)


def error_of(words: str) -> VariationsError:
    """The error that these words tell."""
    told = json.loads(words)
    kind, message = told.pop("kind"), told.pop("message")
    try:
        error: VariationsError = getattr(errors, kind)(message, **told)
    except (AttributeError, TypeError):  # it is of another version
        return GenerationFailed(message)
    return error
