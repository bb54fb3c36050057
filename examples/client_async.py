"""Vary several pictures at once, in the steps that they share: client_async.py a.jpg b.jpg …"""

import asyncio
import os
import sys
from pathlib import Path

from app.client import AsyncClient

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")


async def vary(client: AsyncClient, photo: Path) -> None:
    answer = await client.vary(photo, n=2, output_format="webp")
    for picture in answer:
        if picture.data:
            Path(f"{photo.stem}-{picture.seed}.webp").write_bytes(picture.data)
    print(f"{photo}: {answer.timings['total']:.1f} s with seed {answer.parameters['seed']}")


async def main() -> None:
    async with AsyncClient(URL) as client, asyncio.TaskGroup() as group:
        for photo in sys.argv[1:]:
            group.create_task(vary(client, Path(photo)))


asyncio.run(main())
