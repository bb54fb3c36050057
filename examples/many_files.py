"""Vary a folder of pictures by a queue and a few workers: many_files.py photos/

A file that is no picture is reported and costs the others nothing. `python -m app generate
--url …` does the same with bars, JSON lines and a contact sheet.
"""

import asyncio
import os
import sys
from pathlib import Path

from app.client import AsyncClient, ServiceError

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")
WORKERS = 4


async def work(client: AsyncClient, queue: "asyncio.Queue[Path]") -> None:
    while True:
        photo = await queue.get()
        try:
            for picture in await client.vary(photo, n=2, num_inference_steps=10):
                if picture.data:
                    Path(f"{photo.stem}-{picture.seed}.png").write_bytes(picture.data)
        except ServiceError as error:
            print(f"{photo}: {error}", file=sys.stderr)
        finally:
            queue.task_done()


async def main(folder: Path) -> None:
    queue: asyncio.Queue[Path] = asyncio.Queue()
    for photo in sorted(folder.iterdir()):
        queue.put_nowait(photo)
    async with AsyncClient(URL, timeout=3600) as client:
        workers = [asyncio.create_task(work(client, queue)) for _ in range(WORKERS)]
        everything = asyncio.create_task(queue.join())
        # A worker ends by itself only where the service cannot be reached.
        await asyncio.wait([everything, *workers], return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            if worker.done():
                worker.result()
            worker.cancel()


asyncio.run(main(Path(sys.argv[1])))
