"""The stored requests: accepted, resumed, found, cancelled."""

import asyncio
import logging
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary
from zipfile import BadZipFile

from app.api.middleware.admission import Admission
from app.api.state import RETRY_UNKNOWN
from app.api.stored.database import Database, Row
from app.api.stored.job import Job, ended, error_of
from app.api.stored.packing import unpack
from app.api.stored.runner import Runner
from app.api.stored.webhooks import Webhooks
from app.api.submission import Submission, Submitting
from app.engine.generation import Status
from app.errors import (
    Cancelled,
    GenerationFailed,
    KeyReused,
    NoSuchRequest,
    NotReady,
    VariationsError,
)
from app.metrics.stored import StoreMetrics
from app.parameters import Condition
from app.pictures.encode import OutputFormat
from app.settings import Settings

if TYPE_CHECKING:
    from app.api.state import Service

LOOK_SECONDS = 0.1
EXPIRE_SECONDS = 60.0

_UNAVAILABLE = 503
_FORGOTTEN = "What this Idempotency-Key stood for has just been forgotten; ask again"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request is stored with, besides what the engine is asked for."""

    fingerprint: str
    output_format: OutputFormat
    webhook: str | None = None


class StoredRequests:
    """Requests whose work outlasts the HTTP requests that brought it.

    Each holds a place in the queue until it has ended. What ended is in the database alone.
    """

    def __init__(self, database: Database, webhooks: Webhooks, metrics: StoreMetrics) -> None:
        self._database = database
        self._webhooks = webhooks
        self._metrics = metrics
        self._runner: Runner
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._tasks: list[asyncio.Task[None]] = []
        self._service: Service

    @classmethod
    def of(cls, settings: Settings, metrics: StoreMetrics) -> Self:
        """The store that the settings speak of."""
        database = Database(settings.store, settings.store_bytes, settings.store_seconds)
        secret = settings.webhook_secret
        words = secret.get_secret_value() if secret else None
        metrics.watch(
            lambda: database.usage.requests - database.usage.ended,
            lambda: database.usage.ended,
            lambda: database.usage.bytes,
        )
        return cls(database, Webhooks(settings.webhook_origins, words, metrics), metrics)

    async def start(self, service: "Service") -> None:
        """Open the database, and go on with what is in it as soon as there is a worker."""
        self._service = service
        self._runner = Runner(self._database, self._webhooks, service.limiter)
        try:
            await self._database.open()
        except sqlite3.Error as error:
            raise SystemExit(
                f"The store {service.settings.store} cannot be opened: {error}. One service has it "
                "at a time; VARIATIONS_STORE names another file."
            ) from error
        waiting = [
            await self._load(row, packed) for row, packed in await self._database.unfinished()
        ]
        for row in await self._database.untold():
            if job := await self._job_of(row.id):
                self._runner.tell_webhook(job)
        self._tasks = [
            asyncio.create_task(self._resume(waiting)),
            asyncio.create_task(self._expire()),
        ]

    async def stop(self) -> None:
        """Leave what has not ended to the next process."""
        tasks = [*self._tasks, *(job.task for job in self._runner.jobs.values() if job.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._webhooks.stop()

    async def close(self) -> None:
        """Close the database."""
        await self._database.close()

    def check_webhook(self, url: str) -> None:
        """Raise :class:`InvalidParameter` for an address that may not be told."""
        self._webhooks.check(url)

    def suspend(self) -> None:
        """Leave to the next process what waits for its first step, and whose answer nobody awaits.

        Nothing, where no other process will find it.
        """
        if not self._database.outlives:
            return
        for job in list(self._runner.jobs.values()):
            if job.status is Status.QUEUED and not job.waiters and job.accepted.done():
                self._runner.leave(
                    job, NotReady("It is left to the next start", retry_after=RETRY_UNKNOWN)
                )

    # Accepting

    async def knows(self, admission: Admission) -> bool:
        """There is a request with the idempotency key of this one, if it has one."""
        return await self._with_key(admission) is not None

    async def accept(self, admission: Admission, wish: Wish, submitting: Submitting) -> Job:
        """The job of an admitted request: what ``submitting`` submits, or what its key stands for.

        Raises what ``submitting`` raises, :class:`KeyReused` where the key came with another form,
        and :class:`NotReady` where it cannot be stored.
        """
        if admission.idempotency_key is None:
            return await self._begin(admission, wish, submitting)
        name = admission.caller, admission.idempotency_key
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            row = await self._with_key(admission)
            if row is None:
                return await self._begin(admission, wish, submitting)
        if row.fingerprint != wish.fingerprint:
            self._metrics.repeated("other_form")
            raise KeyReused(
                "This Idempotency-Key came with another form, or to another path, before; another "
                "request needs another key",
                field="Idempotency-Key",
            )
        self._service.limiter.give_back(admission.request_id)  # the first one has a place
        self._metrics.repeated("joined" if row.id in self._runner.jobs else "answered")
        if (job := await self._job_of(row.id)) is None:
            raise NotReady(_FORGOTTEN, retry_after=1.0)
        return job

    async def _with_key(self, admission: Admission) -> Row | None:
        """The request that has this one's key; of one that failed for the time being the key is
        free again.
        """
        owner, key = admission.caller, admission.idempotency_key
        if key is None:
            return None
        for job in self._runner.jobs.values():
            if (job.row.owner, job.row.idempotency_key) == (owner, key):
                return job.row
        row = await self._database.by_key(owner, key)
        if row and row.error and error_of(row.error).status == _UNAVAILABLE:
            await self._database.remove(row.id)
            return None
        return row

    async def _begin(self, admission: Admission, wish: Wish, submitting: Submitting) -> Job:
        if admission.is_repeat:  # and so has no place
            raise NotReady(_FORGOTTEN, retry_after=1.0)
        submission = await submitting()
        model = submission.admission.model
        row = Row(
            id=admission.request_id,
            owner=admission.caller,
            idempotency_key=admission.idempotency_key,
            fingerprint=wish.fingerprint,
            output_format=wish.output_format,
            model=f"{model.id}@{model.revision}",
            webhook=wish.webhook,
            created=time.time(),
        )
        job = self._runner.jobs[row.id] = Job(row, submission.parameters, submission)
        self._service.limiter.keep(row.id, row.owner)
        admission.generation = None  # whose end does not cancel it any more
        job.task = asyncio.create_task(self._runner.store_and_run(job, submission))
        await asyncio.shield(job.accepted)
        return job

    # Going on after a start

    async def _load(self, row: Row, packed: bytes) -> tuple[Job, Condition]:
        """A job that another process left."""
        try:
            wanted, condition = await asyncio.to_thread(unpack, packed)
        except (ValueError, TypeError, KeyError, BadZipFile):
            logger.exception("request %s cannot be read", row.id)
            wanted, condition = None, Condition(())
        job = self._runner.jobs[row.id] = Job(row, wanted)
        job.accepted.set_result(None)
        self._service.limiter.keep(row.id, row.owner)
        return job, condition

    async def _resume(self, waiting: list[tuple[Job, Condition]]) -> None:
        for job, condition in waiting:
            while not self._service.engine.accepting:  # noqa: ASYNC110 - it has no event of this
                await asyncio.sleep(LOOK_SECONDS)
            if job.row.id not in self._runner.jobs:  # cancelled meanwhile
                continue
            try:
                job.submission = self._resubmit(job, condition)
            except NotReady as error:
                self._runner.leave(job, error)
            except VariationsError as error:
                await self._runner.fail(job, error)
            except Exception:  # those behind it shall not wait for ever
                logger.exception("request %s cannot be taken up again", job.row.id)
                await self._runner.fail(
                    job, GenerationFailed("The service met an unexpected error")
                )
            else:
                job.task = asyncio.create_task(self._runner.run(job, job.submission))

    def _resubmit(self, job: Job, condition: Condition) -> Submission:
        service, row = self._service, job.row
        model, preprocessing = service.engine.model, service.engine.preprocessing
        if job.wanted is None:
            raise GenerationFailed("Another version of the service accepted it: post it again")
        if model is None or preprocessing is None or row.model != f"{model.id}@{model.revision}":
            raise GenerationFailed(
                f"It was accepted for {row.model}, and another model is served now: post it again"
            )
        size, scheduler = job.wanted.size, job.wanted.scheduler
        if size not in model.sizes or scheduler not in model.schedulers:
            raise GenerationFailed(
                f"{size[0]}x{size[1]} with {scheduler.value} is not offered any more: post it again"
            )
        seconds = service.settings.request_timeout
        admission = Admission(
            row.id, model, preprocessing, seconds, b"", caller=row.owner, accepted=True
        )
        predicted = service.engine.predict(job.wanted).finished
        generation = service.engine.submit(row.id, job.wanted, condition, seconds)
        now = time.perf_counter()
        return Submission(service, admission, job.wanted, generation, predicted, now)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            with suppress(sqlite3.Error):
                await self._database.expire()

    # For their owners

    async def find(self, request_id: str, owner: str) -> Job:
        """The owner's request with this id. Raises :class:`NoSuchRequest`."""
        job = await self._job_of(request_id)
        if job is None or job.row.owner != owner:
            raise NoSuchRequest("There is no such request: it has expired, or never was")
        return job

    async def cancel(self, job: Job) -> None:
        """Cancel a job if it has not ended, and forget it."""
        if job.row.id in self._runner.jobs:
            self._runner.leave(job, Cancelled("The request was cancelled"))
            if job.task:
                await asyncio.gather(job.task, return_exceptions=True)
        await self._database.remove(job.row.id)

    async def _job_of(self, request_id: str) -> Job | None:
        """The job with this id, if there is one still."""
        if job := self._runner.jobs.get(request_id):
            return job
        if (found := await self._database.whole(request_id)) is None:
            return None
        row, pictures = found
        if row.expires is None:
            left = Job(row)
            left.log.end(NotReady("It waits for the next start", retry_after=RETRY_UNKNOWN))
            return left
        return ended(row, pictures)
