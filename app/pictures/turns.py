"""Turns: who may use one of a few decoders next, and how long a further one would wait."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from time import monotonic

_WEIGHT = 0.2
"""Of a new duration, against all before it."""


class Turns:
    """Lets ``at_once`` jobs run at a time; belongs to one event loop.

    The next is of the caller with the fewest running, and of several such of the one whose last
    turn is longest ago. Where there are several callers, by their names, the last that is free is
    for one with none running: one caller's many slow jobs do not hold up another's one.
    """

    def __init__(self, at_once: int, clock: Callable[[], float] = monotonic) -> None:
        self._at_once = at_once
        self._clock = clock
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By caller; none is empty."""
        self._last_turn: dict[str, int] = {}
        """Number of the last turn of each caller, counted over all."""
        self._running: dict[object, tuple[str, float]] = {}
        """The caller of each job that runs, and the moment of its start."""
        self._seconds: dict[str, float] = {}
        """Seconds of a caller's job, learned from those that have ended."""

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for the turn of a job, which runs while the context lasts."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._call()
        ended = False
        try:
            await turn
            yield
            ended = True
        except Exception:  # if badly; but one that is cancelled tells nothing of its length
            ended = True
            raise
        finally:
            self._end(caller, turn, ended)

    def wait(self, caller: str, jobs: int = 1) -> float:
        """Seconds until the last of so many further jobs of this caller would begin.

        The turns are run forward. A job takes as long as its caller's did of late; one that has
        taken longer is taken to be half done.
        """
        now = self._clock()
        running = [
            (max(self._typical(who) - (now - since), now - since), who)
            for who, since in self._running.values()
        ]
        heapify(running)
        counts = Counter(who for _, who in running)
        waiting = {who: len(jobs) for who, jobs in self._waiting.items()}
        waiting[caller] = waiting.get(caller, 0) + jobs
        last_turn, clock = dict(self._last_turn), 0.0
        while True:
            while not self._has_room(who := _first(waiting, counts, last_turn), counts):
                clock, ended = heappop(running)
                counts[ended] -= 1
            _note(who, last_turn)
            waiting[who] -= 1
            if not waiting[who]:
                if who == caller:
                    return clock
                del waiting[who]
            counts[who] += 1
            heappush(running, (clock + self._typical(who), who))

    def _has_room(self, caller: str, running: Counter[str]) -> bool:
        """A job of this caller may run beside those that do."""
        kept = 1 if caller and running[caller] and self._at_once > 1 else 0
        return running.total() + kept < self._at_once

    def _typical(self, caller: str) -> float:
        """Seconds of a caller's job; of one that is not known, those of the quickest caller."""
        so_far = (self._clock() - began for who, began in self._running.values() if who == caller)
        learned = self._seconds.get(caller, min(self._seconds.values(), default=0.0))
        return max(learned, *so_far, 0.0)

    def _call(self) -> None:
        while self._waiting:
            counts = Counter(who for who, _ in self._running.values())
            caller = _first(self._waiting, counts, self._last_turn)
            if not self._has_room(caller, counts):
                return
            _note(caller, self._last_turn)
            turn = self._waiting[caller].popleft()
            if not self._waiting[caller]:
                del self._waiting[caller]
            self._running[turn] = (caller, self._clock())
            if not turn.done():
                turn.set_result(None)

    def _end(self, caller: str, turn: asyncio.Future[None], learn: bool) -> None:
        if turn in self._running:
            _, began = self._running.pop(turn)
            if learn:
                seconds = self._clock() - began
                known = self._seconds.get(caller, seconds)
                self._seconds[caller] = known + _WEIGHT * (seconds - known)
        else:  # it was cancelled while it waited
            self._waiting[caller].remove(turn)
            if not self._waiting[caller]:
                del self._waiting[caller]
        self._call()


def _first(waiting: Iterable[str], running: Counter[str], last_turn: Mapping[str, int]) -> str:
    """The caller whose turn it is."""
    return min(waiting, key=lambda name: (running[name], last_turn.get(name, 0)))


def _note(caller: str, last_turn: dict[str, int]) -> None:
    last_turn[caller] = 1 + max(last_turn.values(), default=0)
