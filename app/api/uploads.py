"""The pictures of a form, and what their decoding makes of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fastapi import UploadFile

from app.errors import BadInput
from app.parameters import Condition, EncoderInput, Parameters

Decode = Callable[[Callable[[], Awaitable[bytes]]], Awaitable[EncoderInput]]
"""Decodes and fits the file that it is given the reading of."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """The pictures to look at, at least one, and perhaps one to look away from."""

    images: Sequence[UploadFile]
    negative: UploadFile | None = None

    def __len__(self) -> int:
        return len(self.images) + (self.negative is not None)

    async def condition(self, parameters: Parameters, decode: Decode) -> Condition:
        """What a request with these pictures asks for; they are decoded at the same time.

        Raises what :meth:`app.pictures.sandbox.Decoders.decode` does, with the field and the number
        of the picture that it is about. All others are then given up.
        """
        negative = None
        try:
            async with asyncio.TaskGroup() as group:
                pictures = [
                    group.create_task(_decoded(decode, image, "image", self._place(number)))
                    for number, image in enumerate(self.images, start=1)
                ]
                if self.negative:
                    decoding = _decoded(decode, self.negative, "negative_image")
                    negative = group.create_task(decoding)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        pixels = [picture.result() for picture in pictures]
        return Condition.of(parameters, pixels, negative.result() if negative else None)

    def _place(self, number: int) -> str:
        return f"Picture {number} of {len(self.images)}: " if len(self.images) > 1 else ""


async def _decoded(decode: Decode, upload: UploadFile, field: str, place: str = "") -> EncoderInput:
    try:
        return await decode(upload.read)
    except BadInput as error:
        raise type(error)(place + error.message, field=field) from None
