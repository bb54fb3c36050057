"""Trying again: alone several times, together in halves down to the one that fails."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from app.errors import InvalidParameter, VariationsError
from app.ipc.messages import Failure, WorkStage
from app.pipeline.devices import ran_out_of_memory

TRIES = 5
"""Of what fails by itself: an error that passes, another program's memory, fails no request."""

NOT_ENOUGH_MEMORY = "The device's memory does not hold this request, even with nothing else running"

logger = logging.getLogger(__name__)

Member = TypeVar("Member")
T = TypeVar("T")


class Retry:
    """Runs work that may fail; ``make_room`` is called where memory ran out, before another try.

    Errors of a lost device always come through at once.
    """

    def __init__(self, make_room: Callable[[WorkStage], None]) -> None:
        self._make_room = make_room

    def alone(
        self, stage: WorkStage, attempt: Callable[[], T], smaller: Callable[[], T] | None = None
    ) -> T:
        """The result of the first of :data:`TRIES` attempts that succeeds, or the last's error.

        From the third on, ``smaller`` is attempted instead where there is such a way. Our own
        errors are about the request and would come again, so they are raised at once.
        """
        first = TRIES // 2
        *attempts, last = [attempt] * first + [smaller or attempt] * (TRIES - first)
        for each in attempts:
            try:
                return each()
            except VariationsError:
                raise
            except Exception as error:
                short_of_memory = _may_come_again(stage, error)
            self._prepare_another(stage, short_of_memory)
        return last()

    def in_halves(
        self,
        stage: WorkStage,
        members: Sequence[Member],
        together: Callable[[Sequence[Member]], list[T]],
        alone: Callable[[Member], list[T]],
    ) -> list[T]:
        """The results of ``together``, tried with all members, then with halves of them.

        ``alone`` does it for a single one.
        """
        if len(members) == 1:
            return alone(members[0])
        try:
            return together(members)
        except Exception as error:
            short_of_memory = _may_come_again(stage, error)
        self._prepare_another(stage, short_of_memory)
        middle = len(members) // 2
        return [
            result
            for half in (members[:middle], members[middle:])
            for result in self.in_halves(stage, half, together, alone)
        ]

    def _prepare_another(self, stage: WorkStage, short_of_memory: bool) -> None:
        """To be called after the ``except``: in it, the error's traceback holds what failed.

        Its tensors would be in use, and so none of the memory that ran out could be freed.
        """
        if short_of_memory:
            self._make_room(stage)


def _may_come_again(stage: WorkStage, error: Exception) -> bool:
    """True where memory ran out; raises the error where trying again is of no use."""
    raise_if_lost(error)
    logger.warning("In %s: %s: %s; trying again", stage, type(error).__name__, str(error))
    return ran_out_of_memory(error)


def raise_if_lost(error: Exception) -> None:
    """Raise an error that says the device is lost: the process must end, and another start."""
    if isinstance(error, torch.AcceleratorError) and not ran_out_of_memory(error):
        raise error


def for_the_caller(error: Exception, otherwise: str) -> tuple[str, Failure]:
    """Our own words about an error, and never those of a library."""
    match error:
        case InvalidParameter():
            return error.message, "steps"
        case VariationsError():
            return error.message, "failed"
        case _ if ran_out_of_memory(error):
            return NOT_ENOUGH_MEMORY, "memory"
        case _:
            return otherwise, "failed"
