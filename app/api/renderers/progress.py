"""What happens to a submission, as the wire models in which every kind of stream tells it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import BaseModel

from app.api import schemas
from app.api.renderers.answer import summary, variation
from app.api.submission import Submission
from app.engine.generation import (
    Event,
    Failed,
    Finished,
    PictureReady,
    PreviewReady,
    Queued,
    Restarted,
    StepDone,
)
from app.pictures import Picture
from app.pictures.encode import PREVIEW_TYPE, OutputFormat, encode_preview


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a stream; ``number`` is its place among those of a stored request."""

    name: str
    data: BaseModel
    number: int | None = None


async def progress(
    submission: Submission, output_format: OutputFormat
) -> AsyncGenerator[Told, None]:
    """All that happens to a submission, up to its end; raises the generation's error."""
    async with aclosing(submission.generation.events()) as events:
        async for event in events:
            yield await _told(submission, output_format, event)
    submission.answered()


async def _told(submission: Submission, output_format: OutputFormat, event: Event) -> Told:
    match event:
        case Queued(position, start_in):
            return Told("queued", schemas.Queued(position=position, start_in=start_in))
        case StepDone(done, of):
            finish_in = submission.generation.finishes_in
            return Told("step", schemas.Step(done=done, of=of, finish_in=finish_in))
        case PreviewReady(index, picture):
            return Told("preview", await asyncio.to_thread(_preview, index, picture))
        case PictureReady(index, picture, near_duplicate):
            began = time.perf_counter()
            arguments = submission, index, picture, output_format, near_duplicate
            written = await asyncio.to_thread(variation, *arguments)
            submission.admission.timeline.passed("write", began)
            return Told("picture", written)
        case Restarted():
            return Told("restarted", schemas.Restarted())
        case Finished(result):
            submission.worked(result)
            return Told("done", summary(submission, result, output_format))
        case Failed(error):
            raise error


def _preview(index: int, picture: Picture) -> schemas.Preview:
    height, width, _ = picture.shape
    return schemas.Preview(
        index=index,
        b64_json=encode_preview(picture),
        media_type=PREVIEW_TYPE,
        width=width,
        height=height,
    )
