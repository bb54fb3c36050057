"""All requests that are accepted and not yet answered, and where the worker is with each.

It mirrors the worker's line from what the worker reports, with a batcher of its own. From that it
knows who was running when a worker died, and foresees when everybody will be finished.
"""

from collections.abc import Iterator

from app.engine.batcher import Batch, Batcher, Ticket
from app.engine.costs import Costs
from app.engine.forecast import Span, foresee, tickets
from app.engine.job import Job
from app.engine.messages import Encoded, Ready, Stats
from app.parameters import Parameters

NEWCOMER = ""
"""The id, in a forecast, of a request that has not been accepted yet."""


class Backlog:
    """Jobs in the order of their acceptance. Ordinary code without clock, process or event loop.

    One worker after the other works on it: :meth:`worker_ready`, then :meth:`due`,
    :meth:`encoded`, :meth:`stepped` and :meth:`remove` as it gets on, then :meth:`worker_lost`.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        self._jobs: dict[str, Job] = {}
        self._buckets: tuple[int, ...] = (1,)
        self._line = Batcher(self._buckets)
        self._decoded_at_once = 1

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def get(self, request_id: str) -> Job | None:
        """The job, unless it has been answered or its caller has gone."""
        return self._jobs.get(request_id)

    def add(self, job: Job) -> None:
        """Put a job at the end."""
        if job.request_id in self._jobs:
            raise ValueError(f"request {job.request_id!r} is already waiting for its answer")
        self._jobs[job.request_id] = job

    def remove(self, job: Job) -> None:
        """It is answered, or nobody waits for it any more."""
        del self._jobs[job.request_id]
        self._line.cancel(job.request_id)

    @property
    def submitted(self) -> int:
        """Requests that the worker has."""
        return sum(job.submitted and not job.answered for job in self._jobs.values())

    # One worker's life

    def worker_ready(self, ready: Ready) -> None:
        """A new worker, which knows of no job yet."""
        self._buckets = ready.buckets
        self._line = Batcher(self._buckets)
        self._decoded_at_once = ready.decoded_at_once
        self.costs.measured(ready)

    def due(self) -> list[Job]:
        """The jobs to submit now.

        Those whose picture is there, in order; but a suspect gets the worker to itself, and while
        there are suspects everybody else waits for them.
        """
        suspects = [job for job in self._waiting() if job.suspect]
        if suspects:
            return [] if self.submitted else suspects[:1]
        return [job for job in self._waiting() if job.source is not None and not job.submitted]

    def encoded(self, job: Job, encoded: Encoded) -> None:
        """The worker has its embedding, and its samples join the line."""
        job.embed(encoded.embedding)
        if encoded.seconds is not None:
            self.costs.learn_encode(encoded.seconds)
        for ticket in tickets(job.request_id, job.parameters):
            self._line.add(ticket)

    def stepped(self, stats: Stats) -> None:
        """The worker has taken a step."""
        self.costs.learn(stats)
        self._line.limit(stats.cap)
        taken = tuple(
            Ticket(name, index, job.parameters.size, job.parameters.rows, job.parameters.calls)
            for name, index in stats.members
            if (job := self._jobs.get(name))
        )
        self._line.advance(Batch(taken, stats.size, stats.rows, stats.bucket, stats.waiting_rows))

    def running(self) -> list[Job]:
        """Whose work the worker has in hand, by all that is known.

        Those in the step that is due, those with all their steps done, which it decodes, and the
        next in line to be encoded.
        """
        stepping = {ticket.request_id for ticket in self._line.running()}
        waiting = {ticket.request_id for ticket in self._line} - stepping
        submitted = [job for job in self._waiting() if job.submitted]
        joined = [job for job in submitted if job.joined and job.request_id not in waiting]
        return joined + [job for job in submitted if not job.joined][:1]

    def worker_lost(self) -> list[Job]:
        """The worker has died, and every job is to be submitted again; who was running."""
        running = self.running()
        for job in running:
            job.deaths += 1
        for job in self._jobs.values():
            job.submitted = job.joined = False
        self._line = Batcher(self._buckets)
        return running

    def _waiting(self) -> list[Job]:
        """Those without an answer yet; an answered job stays until its caller has taken it."""
        return [job for job in self._jobs.values() if not job.answered]

    # Foresight

    def foresee(self, newcomer: Parameters | None = None) -> dict[str, Span]:
        """When every job will be finished, by its id, and as :data:`NEWCOMER` one after them all.

        Seconds count from now, or from when there is a worker again.
        """
        in_line = {ticket.request_id for ticket in self._line}
        waiting = self._waiting()
        unencoded = [(job.request_id, job.parameters) for job in waiting if not job.joined]
        if newcomer is not None:
            unencoded.append((NEWCOMER, newcomer))
        undecoded = [
            ticket
            for job in waiting
            if job.joined and job.request_id not in in_line
            for ticket in tickets(job.request_id, job.parameters)
        ]
        return foresee(self._line, unencoded, undecoded, self.costs, self._decoded_at_once)

    def takes(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do."""
        idle, alone = Batcher(self._buckets), [(NEWCOMER, parameters)]
        return foresee(idle, alone, [], self.costs, self._decoded_at_once)[NEWCOMER].finished

    def turn_seconds(self) -> float:
        """Seconds that the worker's present turn should take: an encode, a step, a decode."""
        batch = self._line.next()
        step = self.costs.step(batch.size, batch.bucket) if batch else 0.0
        sizes = {job.parameters.size for job in self._waiting() if job.joined}
        decode = max((self.costs.decode(size) for size in sizes), default=0.0)
        return self.costs.encode + step + self._decoded_at_once * decode
