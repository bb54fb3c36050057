"""The end of connections that keep the service waiting.

uvicorn closes a connection that says nothing between two requests. It waits for ever for a first
request, for a head that comes letter by letter, and for a client that does not read its answer.
"""

import asyncio
import logging
import resource
import time
from collections.abc import Collection
from typing import Any

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

SPARE_FILES = 64
"""Of those that the process may have open, for all but connections: processes, uploads, logs."""

MOST_FILES = 8192

_READING, _ASKING = "for an answer to be read", "for a request"


class Connections:
    """Ends those that wait for their client longer than ``seconds``, and those that are too many.

    For a further request, behind one that was answered, they may wait for ``keep_alive`` seconds.

    It waits for its client while no request is under way on it, and while an answer is written; in
    the middle of a stream of events while some are not read.
    While a request's body arrives, and while it is worked on, other limits hold. ``most`` are kept
    open; of more, those go that have waited longest, so that a newcomer such as a probe gets in.
    """

    def __init__(self, seconds: float, keep_alive: float, most: int) -> None:
        self._seconds = seconds
        self._keep_alive = max(seconds, keep_alive)
        self._most = most
        self._waits: dict[Any, tuple[tuple[Any, str], float]] = {}

    async def watch(self, connections: Collection[Any]) -> None:
        """Look at uvicorn's protocol objects every second, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look(connections)
            except Exception:
                logger.exception("The connections could not be looked at")

    def look(self, connections: Collection[Any]) -> None:
        """Look once, and end those whose time is up."""
        now, before = time.monotonic(), self._waits
        self._waits = {}
        for connection in connections:
            if (wait := _waits_for_client(connection)) is not None:
                known, since = before.get(connection, (wait, now))
                self._waits[connection] = (wait, since if known == wait else now)
        late = {one for one, (wait, at) in self._waits.items() if now - at > self._most_of(wait)}
        if late:
            logger.info("Ending %d connections whose clients are too slow", len(late))
        idle = [one for one, ((_, what), _) in self._waits.items() if what == _ASKING]
        longest_first = sorted(set(idle) - late, key=lambda one: self._waits[one][1])
        surplus = longest_first[: max(0, len(connections) - self._most - len(late))]
        if surplus:
            logger.warning("Of %d connections ending %d idle ones", len(connections), len(surplus))
        for connection in (*late, *surplus):
            connection.transport.abort()

    def _most_of(self, wait: tuple[Any, str]) -> float:
        cycle, what = wait
        between = what == _ASKING and cycle is not None and not cycle.more_body
        return self._keep_alive if between else self._seconds


def _waits_for_client(connection: Any) -> tuple[Any, str] | None:
    """The thing it waits for, another one for every request; ``None`` if its client waits."""
    cycle = connection.cycle
    # Also of an earlier answer, behind which this one waits.
    unread = connection.transport.get_write_buffer_size() > 0
    if cycle is not None and not cycle.response_complete:
        written = cycle.response_started and not cycle.scope["state"].get("streams")
        return (cycle, _READING) if written or unread else None
    return (cycle, _READING if unread else _ASKING)


def most_connections() -> int:
    """The number that the process may hold, which first asks the system for more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MOST_FILES and soft != resource.RLIM_INFINITY:
        soft = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_FILES - SPARE_FILES if soft == resource.RLIM_INFINITY else soft - SPARE_FILES
