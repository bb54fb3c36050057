"""Everything that can go wrong: one class for each error, with the title that a caller reads.

``status`` is the number by which HTTP tells it; a class has its base's unless it names its own.
"""

from typing import Any


class VariationsError(Exception):
    """Base of all errors of this service. The message is written for the caller."""

    title = "Something went wrong"
    status = 500

    def __init_subclass__(cls, *, title: str, status: int | None = None, **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.title = title
        cls.status = status or cls.status

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadInput(VariationsError, title="The request cannot be served as it is", status=422):
    """The caller can mend it; ``field`` names the part to mend."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class NotAPicture(BadInput, title="Not a readable picture", status=400):
    """The bytes are no picture, or a truncated or corrupt one."""


class FormatNotAllowed(BadInput, title="Picture format not allowed", status=415):
    """A picture in a format that is not on the list."""


class TooLarge(BadInput, title="Picture too large", status=413):
    """Too many bytes, or too many pixels."""


class TooSlow(BadInput, title="Upload too slow", status=408):
    """The body of the request took too long to arrive."""


class TooCostly(BadInput, title="Picture too costly to decode", status=413):
    """Decoding the picture would take more CPU time, time or memory than is allowed."""


class DecoderDied(BadInput, title="Picture not decoded"):
    """The process that decoded the picture ended before it was done."""


class InvalidParameter(BadInput, title="Parameter not valid"):
    """A parameter is out of its range or of the wrong type."""


class UnknownModel(BadInput, title="No such model", status=404):
    """Another model is asked for than the one that is served."""


class NoSuchPicture(VariationsError, title="No such picture", status=404):
    """At this address there is no picture, or no longer."""


class NoSuchRequest(VariationsError, title="No such request", status=404):
    """Of this caller there is no stored request with this id, or no longer."""


class Cancelled(VariationsError, title="Cancelled", status=410):
    """The stored request was cancelled by its owner."""


class KeyReused(BadInput, title="Idempotency key used before"):
    """An idempotency key came with another form than before."""


class NotAuthorized(VariationsError, title="Not authorized", status=401):
    """The API key is missing, or not one of those that are accepted."""


class NotAcceptable(VariationsError, title="No such form of answer", status=406):
    """The caller takes no form of answer that there is."""


class Refused(VariationsError, title="Not accepted now", status=503):
    """Nothing is wrong with the request, but it cannot be taken now.

    ``retry_after`` is the number of seconds after which asking again makes sense, ``None`` if it
    never does; ``reason`` says why in one word, for whoever counts.
    """

    reason = "refused"

    def __init_subclass__(cls, *, reason: str, **others: Any) -> None:
        super().__init_subclass__(**others)
        cls.reason = reason

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused, title="The queue is full", status=429, reason="queue_full"):
    """As many requests as the queue holds are already waiting."""


class QuotaExceeded(Refused, title="Too many requests of one key", status=429, reason="quota"):
    """As many requests as one API key may have are already waiting."""


class ShareExceeded(Refused, title="Share of the queue used up", status=429, reason="share"):
    """One API key has its even share of the queue, which others use too."""


class TooManyUploads(Refused, title="Too many uploads", status=429, reason="uploads"):
    """As many uploads as one caller may have are arriving."""


class DeadlineOutOfReach(Refused, title="Deadline out of reach", reason="deadline"):
    """It would be finished only after the caller's deadline, or the service's."""


class OwnDeadlineOutOfReach(
    DeadlineOutOfReach, title="Own deadline out of reach", reason="own_deadline"
):
    """The caller's own deadline is shorter than the work, or the upload, takes by itself."""


class NotReady(Refused, title="Not ready", reason="not_ready"):
    """The worker is starting, or cannot be started."""


class Draining(NotReady, title="Shutting down", reason="draining"):
    """The service is about to end, and finishes what it has accepted."""


class DeadlineExceeded(VariationsError, title="Deadline exceeded", status=504):
    """The request was accepted but did not finish within the service's time."""


class OwnDeadlineExceeded(DeadlineExceeded, title="Own deadline exceeded"):
    """The same, within the shorter time that its caller gave it."""

    reason = OwnDeadlineOutOfReach.reason


class NotRepeatable(VariationsError, title="The picture cannot be repeated", status=422):
    """A file does not say, or not rightly, what it takes to make its picture again."""


class SigningFailed(VariationsError, title="The file could not be signed"):
    """The service's certificate does not do any more: it has expired, say."""


class AllFlagged(VariationsError, title="Stopped by the safety checker", status=422):
    """The safety checker has stopped every picture, and the answer could hold nothing else."""


class GenerationFailed(VariationsError, title="Generation failed"):
    """This request's pictures could not be made; others are not concerned."""


class OutOfMemory(GenerationFailed, title="Out of memory", status=503):
    """The request does not fit in the device's memory, even with nothing else running."""


class AttemptsExhausted(GenerationFailed, title="All attempts failed"):
    """A worker ended during each of the attempts, the last time with nothing else to do."""


class WorkerUnavailable(VariationsError, title="No worker", status=503):
    """The worker ended before the request was done, and no other can be started."""


class CheckpointError(VariationsError, title="The checkpoint cannot be served", status=503):
    """The checkpoint cannot be served: missing, unsafe, or of another kind."""


class CheckpointUnavailable(CheckpointError, title="The checkpoint cannot be had now"):
    """The hub or the disk does not answer, or not well; the checkpoint may be had later."""


class TrainingIndexError(CheckpointError, title="The index of training pictures cannot be used"):
    """The index with which variations are compared is missing, broken, or of another descriptor."""


class DeviceUnavailable(VariationsError, title="The device cannot be used", status=503):
    """The device does not work; whether it does again, only a new process can find out."""
