"""Everything that can go wrong, as one tree that knows no HTTP.

::

    VariationsError
    ├── BadInput                 the caller can mend it; names the field
    │   ├── NotAPicture          the bytes are no picture, or a broken one
    │   ├── FormatNotAllowed     a picture, in a format that is not on the list
    │   ├── TooLarge             too many bytes or pixels
    │   ├── TooSlow              the body took too long to arrive
    │   ├── TooCostly            decoding it would take more time or memory than is allowed
    │   ├── DecoderDied          the process that decoded it ended
    │   └── InvalidParameter     a parameter out of its range
    ├── NotAuthorized            the API key is missing, or not one of ours
    ├── Refused                  nothing is wrong with the request; not now
    │   ├── QueueFull            as many requests as the queue holds are waiting
    │   ├── QuotaExceeded        as many requests as one API key may have are waiting
    │   ├── DeadlineOutOfReach   it would not be finished in time
    │   └── NotReady             the worker is starting, or cannot be started
    │       └── Draining         the service is about to end
    ├── DeadlineExceeded         accepted, but not finished in time
    ├── GenerationFailed         accepted, but this request's pictures could not be made
    │   ├── OutOfMemory          they do not fit in the device's memory, even alone
    │   └── AttemptsExhausted    a worker ended during every one of its attempts
    ├── WorkerUnavailable        accepted, but the worker ended and no other can be started
    ├── CheckpointError          the checkpoint cannot be served; starting is no use
    │   └── CheckpointUnavailable  it cannot be had now; it may be later
    └── DeviceUnavailable        the device does not work; another process may find that it does
"""


class VariationsError(Exception):
    """Base of all errors of this service. The message is written for the caller."""

    title = "Something went wrong"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadInput(VariationsError):
    """The request cannot be served as it is; ``field`` names the part to mend."""

    title = "The request cannot be served as it is"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotAPicture(BadInput):
    """The bytes are no picture, or a truncated or corrupt one."""

    title = "Not a readable picture"


class FormatNotAllowed(BadInput):
    """A picture in a format that is not on the list."""

    title = "Picture format not allowed"


class TooLarge(BadInput):
    """Too many bytes, or too many pixels."""

    title = "Picture too large"


class TooSlow(BadInput):
    """The body of the request took too long to arrive."""

    title = "Upload too slow"


class TooCostly(BadInput):
    """Decoding the picture would take more CPU time, time or memory than is allowed."""

    title = "Picture too costly to decode"


class DecoderDied(BadInput):
    """The process that decoded the picture ended before it was done."""

    title = "Picture not decoded"


class InvalidParameter(BadInput):
    """A parameter is out of its range or of the wrong type."""

    title = "Parameter not valid"


class NotAuthorized(VariationsError):
    """The API key is missing, or not one of those that are accepted."""

    title = "Not authorized"


class Refused(VariationsError):
    """Nothing is wrong with the request, but it cannot be taken now.

    ``retry_after`` is the number of seconds after which asking again makes sense, ``None`` if it
    never does; ``reason`` says why in one word, for whoever counts.
    """

    title = "Not accepted now"
    reason = "refused"

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many requests as the queue holds are already waiting."""

    title = "The queue is full"
    reason = "queue_full"


class QuotaExceeded(Refused):
    """As many requests as one API key may have are already waiting."""

    title = "Too many requests of one key"
    reason = "quota"


class DeadlineOutOfReach(Refused):
    """It would be finished only after the caller's deadline, or the service's."""

    title = "Deadline out of reach"
    reason = "deadline"


class NotReady(Refused):
    """The worker is starting, or cannot be started."""

    title = "Not ready"
    reason = "not_ready"


class Draining(NotReady):
    """The service is about to end, and finishes what it has accepted."""

    title = "Shutting down"
    reason = "draining"


class DeadlineExceeded(VariationsError):
    """The request was accepted but did not finish within its deadline."""

    title = "Deadline exceeded"


class GenerationFailed(VariationsError):
    """This request's pictures could not be made; others are not concerned."""

    title = "Generation failed"


class OutOfMemory(GenerationFailed):
    """The request does not fit in the device's memory, even with nothing else running."""

    title = "Out of memory"


class AttemptsExhausted(GenerationFailed):
    """A worker ended during each of the attempts, the last time with nothing else to do."""

    title = "All attempts failed"


class WorkerUnavailable(VariationsError):
    """The worker ended before the request was done, and no other can be started."""

    title = "No worker"


class CheckpointError(VariationsError):
    """The checkpoint cannot be served: missing, unsafe, or of another kind."""

    title = "The checkpoint cannot be served"


class CheckpointUnavailable(CheckpointError):
    """The hub or the disk does not answer, or not well; the checkpoint may be had later."""

    title = "The checkpoint cannot be had now"


class DeviceUnavailable(VariationsError):
    """The device does not work; whether it does again, only a new process can find out."""

    title = "The device cannot be used"
