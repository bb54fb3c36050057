"""Vary several pictures at once by OpenAI's SDK: openai_async.py a.jpg b.jpg …"""

import asyncio
import base64
import os
import sys
from pathlib import Path

from openai import AsyncOpenAI

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")


async def vary(client: AsyncOpenAI, photo: Path) -> None:
    answer = await client.images.create_variation(image=photo, n=2, response_format="b64_json")
    for i, picture in enumerate(answer.data or []):
        Path(f"{photo.stem}-{i}.png").write_bytes(base64.b64decode(picture.b64_json or ""))


async def main() -> None:
    api_key = os.environ.get("VARIATIONS_API_KEY", "none")
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=api_key) as client:
        await asyncio.gather(*(vary(client, Path(photo)) for photo in sys.argv[1:]))


asyncio.run(main())
