"""Runs the stored requests of this process to their ends, which go into the database first."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable
from contextlib import aclosing, suppress

from app.api.middleware.limiter import Limiter
from app.api.renderers.progress import Told, progress
from app.api.state import RETRY_UNKNOWN
from app.api.stored.database import Database
from app.api.stored.job import Job, stored_pictures, words_of
from app.api.stored.packing import pack
from app.api.stored.view import webhook_event
from app.api.stored.webhooks import Webhooks
from app.api.submission import Submission
from app.errors import GenerationFailed, NotReady, VariationsError, WorkerUnavailable
from app.pictures.encode import OutputFormat

logger = logging.getLogger(__name__)


class Runner:
    """Has the ``jobs`` that have not ended, by id; each holds a place of the limiter."""

    def __init__(self, database: Database, webhooks: Webhooks, limiter: Limiter) -> None:
        self.jobs: dict[str, Job] = {}
        self._database = database
        self._webhooks = webhooks
        self._limiter = limiter

    async def store_and_run(self, job: Job, submission: Submission) -> None:
        """Have a job stored, tell so, and run it."""
        try:
            generation = submission.generation
            packed = await asyncio.to_thread(pack, submission.parameters, generation.condition)
            await self._database.add(job.row, packed)
        except Exception as error:
            logger.exception("request %s cannot be stored", job.row.id)
            refusal = NotReady("The request cannot be stored now", retry_after=RETRY_UNKNOWN)
            refusal.__cause__ = error
            job.accepted.set_exception(refusal)
            job.accepted.exception()  # seen, though its caller may have gone
            self.leave(job, refusal)
            return
        job.accepted.set_result(None)
        await self.run(job, submission)

    async def run(self, job: Job, submission: Submission) -> None:
        """Run a stored job to its end."""
        try:
            told = progress(submission, OutputFormat(job.row.output_format))
            async with aclosing(told):
                async for one in told:
                    if one.name == "done":
                        await self._finish(job, one)
                    else:
                        job.tell(one)
        except WorkerUnavailable as error:
            submission.failed()
            if self._database.outlives:  # the next process may have a worker
                self.leave(job, error)
            else:
                await self.fail(job, error)
        except VariationsError as error:
            submission.failed()
            await self.fail(job, error)
        except Exception:
            logger.exception("unexpected error in request %s", job.row.id)
            submission.generation.cancel()
            await self.fail(job, GenerationFailed("The service met an unexpected error"))

    async def _finish(self, job: Job, done: Told) -> None:
        """First into the database: what was told to be done must not be made again."""
        pictures = await asyncio.to_thread(stored_pictures, job)
        last, summary = job.log.last + 1, done.data.model_dump_json()
        await self._keep(job, self._database.finish(job.row.id, last, summary, pictures))
        job.finish(done)
        self.tell_webhook(job)

    async def fail(self, job: Job, error: VariationsError) -> None:
        """A job cannot be served."""
        words = words_of(error)
        await self._keep(job, self._database.fail(job.row.id, job.log.last, words))
        job.fail(error)
        self.tell_webhook(job)

    async def _keep(self, job: Job, writing: Awaitable[None]) -> None:
        """Have the end of a job written; where that cannot be, it stays in memory."""
        try:
            await writing
            job.row = await self._database.by_id(job.row.id) or job.row
        except sqlite3.Error:
            logger.exception("the end of request %s cannot be stored", job.row.id)
        else:
            self.jobs.pop(job.row.id, None)
        self._limiter.give_back(job.row.id)  # who reads the end finds the place free

    def leave(self, job: Job, error: VariationsError) -> None:
        """Go on with a job no more in this process, and tell ``error`` to who still listens."""
        self.jobs.pop(job.row.id, None)
        if job.submission:
            job.submission.generation.cancel()
        if job.task and job.task is not asyncio.current_task():
            job.task.cancel()
        self._limiter.give_back(job.row.id)
        job.fail(error)

    def tell_webhook(self, job: Job) -> None:
        """A job has ended: tell who wishes it."""
        if job.row.webhook:

            async def sent() -> None:
                with suppress(sqlite3.Error):
                    await self._database.sent(job.row.id)

            body = webhook_event(job).model_dump_json(exclude_none=True)
            self._webhooks.tell(job.row.webhook, job.row.id, body, sent)
