"""A generation as OpenAI's SDK reads it: one answer, or a stream of events."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi.sse import format_sse_event

from app.api import openai, schemas
from app.api.renderers.progress import Told
from app.errors import AllFlagged
from app.parameters import Parameters
from app.pictures.encode import OutputFormat


def render_images(answer: schemas.VariationsResponse, urls: Sequence[str] | None) -> bytes:
    """The answer of ``POST /v1/images/variations``: with ``urls`` of those not flagged, or data.

    Takes a while; call it in a thread.
    """
    addresses = iter(urls or ())
    data, flagged = [], []
    for one in answer.variations:
        whose: dict[str, Any] = {"index": one.index, "seed": one.seed}
        if one.flagged:
            flagged.append(openai.Flagged(**whose, note=openai.FLAGGED_NOTE))
            continue
        whose["near_duplicate"] = one.near_duplicate
        if urls is not None:
            data.append(openai.Image(**whose, url=next(addresses)))
        else:
            data.append(openai.Image(**whose, b64_json=one.b64_json))
    images = openai.ImagesResponse(
        created=answer.created,
        data=data,
        size=_size(answer.parameters),
        output_format=answer.parameters.output_format,
        flagged=flagged,
        model=answer.model,
        parameters=answer.parameters,
        timings=answer.timings,
    )
    return images.model_dump_json(exclude_none=True).encode()


def check_flagged(flagged: Sequence[bool]) -> None:
    """Raise :class:`AllFlagged` where the safety checker has stopped every picture."""
    if all(flagged):
        raise AllFlagged("The safety checker stopped every picture; other seeds make other ones")


class Images:
    """The words of the stream of ``POST /v1/images/variations``.

    Of each picture there are at most ``partials`` previews, spread over its steps.
    """

    def __init__(self, parameters: Parameters, output_format: OutputFormat, partials: int) -> None:
        self._parameters = parameters
        self._output_format = output_format
        self._partials = partials
        self._progress = [0.0] * parameters.n
        self._due = [1] * parameters.n
        self._shown = [0] * parameters.n
        self._flagged: list[bool] = []

    def __call__(self, told: Told) -> bytes:
        """One event on the wire, or none. Raises :class:`AllFlagged` at the end where all are."""
        match told.data:
            case schemas.Step(done=done, of=of):
                self._progress = [each / of for each in done]
            case schemas.Preview() as preview:
                return self._partial(preview)
            case schemas.Variation() as variation:
                return self._completed(variation)
            case schemas.Summary():
                check_flagged(self._flagged)
            case _:  # of queues and restarts OpenAI's clients know nothing
                pass
        return b""

    def _partial(self, preview: schemas.Preview) -> bytes:
        parts, index = self._partials + 1, preview.index
        if self._progress[index] < self._due[index] / parts:
            return b""
        self._due[index] = int(self._progress[index] * parts) + 1
        number = self._shown[index]
        self._shown[index] += 1
        common = self._common(index, preview.b64_json, OutputFormat.JPEG)
        return _event(openai.PartialImage(**common, partial_image_index=number))

    def _completed(self, one: schemas.Variation) -> bytes:
        self._flagged.append(one.flagged)
        if one.b64_json is None:
            note = openai.FLAGGED_NOTE
            return _event(openai.FlaggedImage(index=one.index, seed=one.seed, note=note))
        common = self._common(one.index, one.b64_json, self._output_format)
        return _event(openai.CompletedImage(**common, near_duplicate=one.near_duplicate))

    def _common(self, index: int, data: str, output_format: OutputFormat) -> dict[str, Any]:
        return {
            "b64_json": data,
            "created_at": int(time.time()),
            "size": _size(self._parameters),
            "output_format": output_format,
            "index": index,
            "seed": self._parameters.seed_of(index),
        }


def _event(data: openai.StreamEvent) -> bytes:
    return format_sse_event(event=data.type, data_str=data.model_dump_json(exclude_none=True))


def _size(parameters: Parameters) -> str:
    return f"{parameters.width}x{parameters.height}"
