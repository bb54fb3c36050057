"""All requests that are accepted and not yet answered, and where the worker is with each.

It mirrors the worker's line from what the worker reports, with a batcher of its own. From that it
knows who was running when a worker died, and foresees when everybody will be finished.
"""

from collections.abc import Iterator

from app.engine.generation import Job
from app.ipc.messages import DecodedSome, Encoded, Ready, Stats
from app.parameters import Parameters
from app.scheduling.batcher import Batch, Batcher, Ticket
from app.scheduling.costs import Costs
from app.scheduling.forecast import Span, foresee, tickets

NEWCOMER = ""
"""The id, in a forecast, of a request that has not been accepted yet."""


class Backlog:
    """Jobs in the order of their acceptance. Ordinary code without clock, process or event loop.

    One worker after the other works on it: :meth:`worker_ready`, then :meth:`due`, :meth:`submit`,
    :meth:`encoded`, :meth:`stepped`, :meth:`decoded` and :meth:`remove` as it gets on, then
    :meth:`worker_lost`. Of a job that nobody waits for any more the worker has to be told:
    :meth:`leave`, and it is done with it only at :meth:`dropped`.
    """

    def __init__(self) -> None:
        self.costs = Costs()
        self.quickest = Costs()
        """The lowest that each cost has been."""
        self._jobs: dict[str, Job] = {}
        self._buckets: tuple[int, ...] = (1,)
        self._line = Batcher(self._buckets)
        self._decoded_at_once = 1
        self._sent: dict[str, Job] = {}
        """What the worker has, in the order in which it got it; also what it has yet to drop."""
        self._leaving: set[str] = set()
        self._left = self._dropped = 0

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
        """It is answered, or nobody waits for it any more and the worker does not have it."""
        del self._jobs[job.request_id]
        self._sent.pop(job.request_id, None)
        self._line.cancel(job.request_id)

    @property
    def submitted(self) -> int:
        """Requests that the worker has and somebody waits for."""
        return sum(job.submitted and not job.answered for job in self._jobs.values())

    @property
    def busy(self) -> bool:
        """Whether the worker has something, if only what it has not dropped yet."""
        return any(not job.made for job in self._sent.values())

    # One worker's life

    def worker_ready(self, ready: Ready) -> None:
        """A new worker, which knows of no job yet."""
        self._buckets = ready.buckets
        self._line = Batcher(self._buckets)
        self._decoded_at_once = ready.decoded_at_once
        self.costs.measured(ready)
        self.quickest.measured(ready)

    def due(self) -> list[Job]:
        """The jobs to submit now.

        Those whose picture is there, in order; but a suspect gets the worker to itself, and while
        there are suspects everybody else waits for them.
        """
        ready = [job for job in self._waiting() if job.source is not None]
        suspects = [job for job in ready if job.suspect]
        if suspects:
            return [] if self.busy else suspects[:1]
        return [job for job in ready if not job.submitted]

    def submit(self, job: Job) -> None:
        """The worker is sent it."""
        job.submitted = True
        job.behind = self._left
        self._sent[job.request_id] = job

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more, and the worker, which has it, is told to drop it.

        Until it has, it works on it, and what happens to the worker may be its doing.
        """
        del self._jobs[job.request_id]
        job.source = None
        self._leaving.add(job.request_id)
        self._left += 1

    def dropped(self, request_id: str) -> None:
        """The worker has dropped a job that nobody waited for."""
        self.made_for_nobody(request_id)
        self._dropped += 1

    def made_for_nobody(self, request_id: str) -> Job | None:
        """The worker is done with a job that it was told to drop; gives it, if it is one."""
        if request_id not in self._leaving:
            return None
        self._leaving.discard(request_id)
        self._line.cancel(request_id)
        return self._sent.pop(request_id)

    def encoded(self, job: Job, encoded: Encoded) -> None:
        """The worker has its embedding, and its samples join the line."""
        job.embed(encoded.embedding)
        if encoded.seconds is not None:
            self.costs.learn_encode(encoded.seconds)
            self.quickest.lower_to(self.costs)
        for ticket in tickets(job.request_id, job.parameters):
            self._line.add(ticket)

    def stepped(self, stats: Stats) -> None:
        """The worker has taken a step."""
        self.costs.learn(stats)
        self.quickest.lower_to(self.costs)
        self._line.limit(stats.cap)
        taken = tuple(
            Ticket(name, index, job.parameters.size, job.parameters.rows, job.parameters.calls)
            for name, index in stats.members
            if (job := self._sent.get(name))
        )
        self._line.advance(Batch(taken, stats.size, stats.rows, stats.bucket, stats.waiting_rows))

    def decoded(self, message: DecodedSome) -> None:
        """The worker has decoded some pictures."""
        self.costs.learn_decode(message)
        self.quickest.lower_to(self.costs)

    def running(self) -> list[Job]:
        """Whose work the worker has in hand, by all that is known.

        Those in the step that is due, those with all their steps done, which it decodes, and the
        next in line to be encoded. That one it cannot have begun if it was sent after the
        cancellation of one that is not dropped yet: it reads what it is sent in order.
        """
        stepping = {ticket.request_id for ticket in self._line.running()}
        waiting = {ticket.request_id for ticket in self._line} - stepping
        there = [job for job in self._sent.values() if not job.made]
        joined = [job for job in there if job.joined and job.request_id not in waiting]
        begun = [job for job in there if not job.joined and job.behind <= self._dropped]
        return joined + begun[:1]

    def worker_lost(self) -> list[Job]:
        """The worker has died, and every job is to be submitted again; who was running.

        Among them are those that nobody waits for any more.
        """
        running = self.running()
        for job in running:
            job.deaths += 1
        for job in self._sent.values():
            job.submitted = job.joined = False
        self._line = Batcher(self._buckets)
        self._sent.clear()
        self._leaving.clear()
        self._left = self._dropped = 0
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
        line = self._line.copy()
        for name in self._leaving:
            line.cancel(name)
        return foresee(line, unencoded, undecoded, self.costs, self._decoded_at_once)

    def takes(self, parameters: Parameters) -> float:
        """Seconds that a request would take with nothing else to do, as quickly as ever seen."""
        idle, alone = Batcher(self._buckets), [(NEWCOMER, parameters)]
        return foresee(idle, alone, [], self.quickest, self._decoded_at_once)[NEWCOMER].finished

    def turn_seconds(self) -> float:
        """Seconds that the worker's present turn should take: an encode, a step, a decode."""
        batch = self._line.next()
        step = self.costs.step(batch.size, batch.bucket) if batch else 0.0
        sizes = {job.parameters.size for job in self._sent.values() if job.joined and not job.made}
        decode = max((self.costs.decode(size) for size in sizes), default=0.0)
        return self.costs.encode + step + self._decoded_at_once * decode
