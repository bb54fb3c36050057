"""Everything that can go wrong, as one tree that knows no HTTP.

::

    VariationsError
    ├── BadInput                 the caller can mend it; names the field
    │   ├── NotAPicture          the bytes are no picture, or a broken one
    │   ├── FormatNotAllowed     a picture, in a format that is not on the list
    │   ├── TooLarge             too many bytes or pixels
    │   └── InvalidParameter     a parameter out of its range
    ├── Refused                  nothing is wrong with the request; not now
    │   ├── QueueFull            as many requests as the queue holds are waiting
    │   └── NotReady             the worker is starting, down or stopping
    ├── DeadlineExceeded         accepted, but not finished in time
    ├── GenerationFailed         accepted, but this request's pictures could not be made
    ├── WorkerDied               accepted, but the worker ended before it was done
    └── CheckpointError          the checkpoint cannot be served; starting is no use
        └── CheckpointUnavailable  it cannot be fetched now; it may be later
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


class InvalidParameter(BadInput):
    """A parameter is out of its range or of the wrong type."""

    title = "Parameter not valid"


class Refused(VariationsError):
    """Nothing is wrong with the request, but it cannot be taken now.

    ``retry_after`` is the number of seconds after which asking again makes sense.
    """

    title = "Not accepted now"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many requests as the queue holds are already waiting."""

    title = "The queue is full"


class NotReady(Refused):
    """The worker is starting, down or stopping."""

    title = "Not ready"


class DeadlineExceeded(VariationsError):
    """The request was accepted but did not finish within its deadline."""

    title = "Deadline exceeded"


class GenerationFailed(VariationsError):
    """This request's pictures could not be made; others are not concerned."""

    title = "Generation failed"


class WorkerDied(VariationsError):
    """The worker process ended while the request was waiting or running."""

    title = "The worker ended"


class CheckpointError(VariationsError):
    """The checkpoint cannot be served: missing, unsafe, or of another kind."""

    title = "The checkpoint cannot be served"


class CheckpointUnavailable(CheckpointError):
    """The hub does not answer, or not well; the checkpoint may be had later."""

    title = "The checkpoint cannot be fetched now"
