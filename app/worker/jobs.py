"""Encoding and decoding of several requests' pictures, each of which may fail by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from app.ipc.messages import Submit
from app.parameters import Condition
from app.pipeline import Decoded, Pipeline, Posterior, Row, Sample
from app.scheduling.batcher import Ticket
from app.worker.retry import Retry, raise_if_lost

Encoding = tuple[Submit, "Beginning | Exception"]
Decoding = tuple[Ticket, Decoded | Exception, Sequence[float]]
Member = tuple[Ticket, Sample]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a request's samples start with: their rows, and the latents that they begin from.

    ``latents_seconds`` were those of the encoding to latents.
    """

    rows: Sequence[Row]
    begins_from: Posterior | None = None
    latents_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Encodings:
    """What became of each request, and the moment at which all were there."""

    each: list[Encoding]
    ended: float

    def seconds(self, submit: Submit, began: float) -> float:
        """A request's share, by its pictures, of the encoding to embeddings."""
        latents = sum(one.latents_seconds for _, one in self.each if isinstance(one, Beginning))
        images = sum(one.parameters.images for one, _ in self.each)
        return (self.ended - began - latents) * submit.parameters.images / images


@dataclass(frozen=True, slots=True)
class Decodings:
    """What became of each sample, and the moment at which all had been decoded.

    With each sample go the moments at which its decode began, was checked for safety, and ended.
    """

    each: list[Decoding]
    ended: float


class Jobs:
    """What is done beside the steps, or between them. It knows nothing of the loop's state.

    An error of one request is its outcome; one of a lost device comes through.
    """

    def __init__(self, pipeline: Pipeline, retry: Retry) -> None:
        self._pipeline = pipeline
        self._retry = retry

    def encode(self, submits: Sequence[Submit]) -> Encodings:
        """Encode the conditions of some requests, together if that is possible."""
        each = self._retry.in_halves("encode", submits, self._encode, self._encode_alone)
        return Encodings(each, perf_counter())

    def decode(self, members: Sequence[Member]) -> Decodings:
        """Decode and check samples of one size, together if that is possible."""
        each = self._retry.in_halves("decode", members, self._decode, self._decode_alone)
        return Decodings(each, perf_counter())

    def _encode(self, submits: Sequence[Submit]) -> list[Encoding]:
        rows = self._pipeline.conditions([submit.condition for submit in submits])
        return [
            (submit, self._beginning(submit.condition, of_submit))
            for submit, of_submit in zip(submits, rows, strict=True)
        ]

    def _beginning(self, condition: Condition, rows: Sequence[Row]) -> Beginning:
        if condition.start is None:
            return Beginning(rows)
        began = perf_counter()
        latents = self._pipeline.posterior(condition.start)
        return Beginning(rows, latents, perf_counter() - began)

    def _encode_alone(self, submit: Submit) -> list[Encoding]:
        try:
            return self._retry.alone("encode", lambda: self._encode([submit]))
        except Exception as error:
            raise_if_lost(error)
            return [(submit, error)]

    def _decode(self, members: Sequence[Member]) -> list[Decoding]:
        moments = [perf_counter()]
        decoded = self._pipeline.decode(
            [sample for _, sample in members], before_check=lambda: moments.append(perf_counter())
        )
        moments.append(perf_counter())
        return [(ticket, each, moments) for (ticket, _), each in zip(members, decoded, strict=True)]

    def _decode_alone(self, member: Member) -> list[Decoding]:
        try:
            return self._retry.alone("decode", lambda: self._decode([member]))
        except Exception as error:
            raise_if_lost(error)
            return [(member[0], error, ())]
