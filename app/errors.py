"""Everything that can go wrong, as one tree that knows no HTTP.

A class's docstring says when it is raised, its :attr:`~VariationsError.title` is made of its name.
"""

import re


class VariationsError(Exception):
    """Base of all errors of this service. The message is written for the caller."""

    title = "Error"

    def __init_subclass__(cls) -> None:
        words = re.findall(r"[A-Z][a-z]*", cls.__name__)
        cls.title = " ".join(words).capitalize()

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadInput(VariationsError):
    """The request cannot be served as it is; ``field`` names the part to mend."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotAPicture(BadInput):
    """The bytes are no picture, or a truncated or corrupt one."""


class FormatNotAllowed(BadInput):
    """A picture in a format that is not on the list."""


class TooLarge(BadInput):
    """Too many bytes, or too many pixels."""


class TooSlow(BadInput):
    """The body of the request took too long to arrive."""


class TooCostly(BadInput):
    """Decoding the picture would take more CPU time, time or memory than is allowed."""


class DecoderDied(BadInput):
    """The process that decoded the picture ended before it was done."""


class InvalidParameter(BadInput):
    """A parameter is out of its range or of the wrong type."""


class NotAuthorized(VariationsError):
    """The API key is missing, or not one of those that are accepted."""


class Refused(VariationsError):
    """Nothing is wrong with the request, but it cannot be taken now.

    ``retry_after`` is the number of seconds after which asking again makes sense, ``None`` if it
    never does; ``reason`` says why in one word, for whoever counts.
    """

    reason = "refused"

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many requests as the queue holds are already waiting."""

    reason = "queue_full"


class QuotaExceeded(Refused):
    """As many requests as one API key may have are already waiting."""

    reason = "quota"


class DeadlineOutOfReach(Refused):
    """It would be finished only after the caller's deadline, or the service's."""

    reason = "deadline"


class NotReady(Refused):
    """The worker is starting, or cannot be started."""

    reason = "not_ready"


class Draining(NotReady):
    """The service is about to end, and finishes what it has accepted."""

    reason = "draining"


class DeadlineExceeded(VariationsError):
    """The request was accepted but did not finish within its deadline."""


class GenerationFailed(VariationsError):
    """This request's pictures could not be made; others are not concerned."""


class OutOfMemory(GenerationFailed):
    """The request does not fit in the device's memory, even with nothing else running."""


class AttemptsExhausted(GenerationFailed):
    """A worker ended during each of the attempts, the last time with nothing else to do."""


class WorkerUnavailable(VariationsError):
    """The worker ended before the request was done, and no other can be started."""


class CheckpointError(VariationsError):
    """The checkpoint cannot be served: missing, unsafe, or of another kind."""


class CheckpointUnavailable(CheckpointError):
    """The hub or the disk does not answer, or not well; the checkpoint may be had later."""


class DeviceUnavailable(VariationsError):
    """The device does not work; whether it does again, only a new process can find out."""
