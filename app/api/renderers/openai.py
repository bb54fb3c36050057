"""A generation as OpenAI's SDK reads it: one answer, or a stream of events."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Any

from fastapi.sse import format_sse_event

from app.api import openai
from app.api.renderers.answer import summary
from app.api.submission import Submission
from app.engine.generation import Event, Finished, PictureReady, PreviewReady, Result, StepDone
from app.errors import AllFlagged
from app.pictures import Picture
from app.pictures.encode import OutputFormat, encode, encode_base64, encode_preview


def written(
    submission: Submission, result: Result, output_format: OutputFormat
) -> list[bytes | None]:
    """The pictures as files, ``None`` for a flagged one. Takes a while; call it in a thread.

    Raises :class:`AllFlagged` where there is no other.
    """
    _check_flagged(result)
    began = time.perf_counter()
    files = [None if each is None else encode(each, output_format) for each in result.pictures]
    submission.admission.timeline.passed("write", began)
    return files


def render_images(
    submission: Submission,
    result: Result,
    output_format: OutputFormat,
    files: Sequence[bytes | None],
    urls: Sequence[str] | None,
) -> bytes:
    """The answer of ``POST /v1/images/variations``: with ``urls`` of those not flagged, or data.

    Takes a while; call it in a thread.
    """
    parameters = submission.parameters
    addresses = iter(urls or ())
    data, flagged = [], []
    for index, file in enumerate(files):
        whose: dict[str, Any] = {"index": index, "seed": parameters.seed_of(index)}
        if file is None:
            flagged.append(openai.Flagged(**whose, note=openai.FLAGGED_NOTE))
        elif urls is not None:
            data.append(openai.Image(**whose, url=next(addresses)))
        else:
            data.append(openai.Image(**whose, b64_json=base64.b64encode(file).decode()))
    summed_up = summary(submission, result, output_format)
    answer = openai.ImagesResponse(
        created=summed_up.created,
        data=data,
        size=_size(submission),
        output_format=output_format,
        flagged=flagged,
        model=summed_up.model,
        parameters=summed_up.parameters,
        timings=summed_up.timings,
    )
    return answer.model_dump_json(exclude_none=True).encode()


class Images:
    """What the stream of ``POST /v1/images/variations`` says of each event.

    Of each picture there are at most ``partials`` previews, spread over its steps.
    """

    def __init__(self, submission: Submission, output_format: OutputFormat, partials: int) -> None:
        self._submission = submission
        self._output_format = output_format
        self._partials = partials
        self._progress = [0.0] * submission.parameters.n
        self._due = [1] * submission.parameters.n
        self._shown = [0] * submission.parameters.n

    async def tell(self, event: Event) -> bytes:
        """One event on the wire, or none."""
        match event:
            case StepDone(done, of):
                self._progress = [each / of for each in done]
            case PreviewReady(index, picture):
                return await self._partial(index, picture)
            case PictureReady(index, picture):
                return await self._completed(index, picture)
            case Finished(result):
                self._submission.worked(result)
                _check_flagged(result)
                self._submission.answered()
            case _:  # of queues and restarts OpenAI's clients know nothing
                pass
        return b""

    async def _partial(self, index: int, picture: Picture) -> bytes:
        parts = self._partials + 1
        if self._progress[index] < self._due[index] / parts:
            return b""
        self._due[index] = int(self._progress[index] * parts) + 1
        number = self._shown[index]
        self._shown[index] += 1
        data = await asyncio.to_thread(encode_preview, picture)
        return _event(
            openai.PartialImage(
                **self._common(index, data, OutputFormat.JPEG), partial_image_index=number
            )
        )

    async def _completed(self, index: int, picture: Picture | None) -> bytes:
        if picture is None:
            seed = self._submission.parameters.seed_of(index)
            return _event(openai.FlaggedImage(index=index, seed=seed, note=openai.FLAGGED_NOTE))
        began = time.perf_counter()
        data = await asyncio.to_thread(encode_base64, picture, self._output_format)
        self._submission.admission.timeline.passed("write", began)
        return _event(openai.CompletedImage(**self._common(index, data, self._output_format)))

    def _common(self, index: int, data: str, output_format: OutputFormat) -> dict[str, Any]:
        return {
            "b64_json": data,
            "created_at": int(time.time()),
            "size": _size(self._submission),
            "output_format": output_format,
            "index": index,
            "seed": self._submission.parameters.seed_of(index),
        }


def _event(data: openai.StreamEvent) -> bytes:
    return format_sse_event(event=data.type, data_str=data.model_dump_json())


def _check_flagged(result: Result) -> None:
    if all(picture is None for picture in result.pictures):
        raise AllFlagged("The safety checker stopped every picture; other seeds make other ones")


def _size(submission: Submission) -> str:
    parameters = submission.parameters
    return f"{parameters.width}x{parameters.height}"
