"""The pictures of a form, and what their decoding makes of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastapi import UploadFile

from app.errors import BadInput
from app.parameters import Condition, Parameters, Size
from app.pictures.fit import Fitted


class Decode(Protocol):
    """Decodes and fits a file."""

    def __call__(
        self, read: Callable[[], Awaitable[bytes]], *, size: Size | None = None
    ) -> Awaitable[Fitted]:
        """The file that ``read`` gives; with a ``size`` the picture in that size as well."""


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
        size = None if parameters.strength is None else parameters.size
        decodings = [
            _decoded(decode, image, "image", self._place(number), None if number > 1 else size)
            for number, image in enumerate(self.images, start=1)
        ]
        if self.negative:
            decodings.append(_decoded(decode, self.negative, "negative_image"))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(decoding) for decoding in decodings]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        first, *others = (task.result() for task in tasks)
        pixels = [first.pixels, *(each.pixels for each in others)]
        negative = pixels.pop() if self.negative else None
        return Condition.of(parameters, pixels, negative, start=first.picture)

    def _place(self, number: int) -> str:
        return f"Picture {number} of {len(self.images)}: " if len(self.images) > 1 else ""


async def _decoded(
    decode: Decode, upload: UploadFile, field: str, place: str = "", size: Size | None = None
) -> Fitted:
    try:
        return await decode(upload.read, size=size)
    except BadInput as error:
        raise type(error)(place + error.message, field=field) from None
