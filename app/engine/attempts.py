"""Attempts: a request is tried by up to three workers, by the last one alone.

One that was in a worker's steps when it ended has used an attempt up; one that only waited has not.
So a request that ends workers fails by itself after three of them, and whoever shared a step with
it is run again.
"""

from collections.abc import Collection, Iterable

from app.engine.generation import Generation

MOST_ATTEMPTS = 3

EXHAUSTED = (
    f"A worker ended during each of the {MOST_ATTEMPTS} attempts to make these pictures, the last "
    "time with nothing else to do. The request is not run again"
)


def due(unfinished: Iterable[Generation], submitted: Collection[str]) -> list[Generation]:
    """The requests to submit now, of the ``unfinished`` in the order of their acceptance.

    A last attempt gets a worker to itself, and while there are last attempts all others wait.
    ``submitted`` are the ids of the requests that the worker has.
    """
    waiting = [one for one in unfinished if one.request_id not in submitted]
    last = [one for one in waiting if is_last(one)]
    if last:
        return [] if submitted else last[:1]
    return waiting if not any(map(is_last, unfinished)) else []


def is_last(generation: Generation) -> bool:
    """The next attempt is the last one."""
    return generation.attempts == MOST_ATTEMPTS - 1


def use_up(running: Iterable[Generation]) -> list[Generation]:
    """Count an attempt of each of these; gives those that have none left."""
    exhausted = []
    for generation in running:
        generation.attempts += 1
        if generation.attempts >= MOST_ATTEMPTS:
            exhausted.append(generation)
    return exhausted
