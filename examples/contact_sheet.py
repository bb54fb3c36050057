"""Show a picture at several guidance scales side by side: contact_sheet.py photo.jpg"""

import asyncio
import os
import sys

from PIL import Image, ImageDraw

from app.client import AsyncClient

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")
SCALES, SEEDS = (1.0, 3.0, 7.5), 3
SIDE = 128


async def main(photo: str) -> None:
    async with AsyncClient(URL) as client:
        asked = [client.vary(photo, n=SEEDS, seed=7, guidance_scale=scale) for scale in SCALES]
        answers = await asyncio.gather(*asked)
    sheet = Image.new("RGB", (SEEDS * SIDE, len(SCALES) * (SIDE + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (scale, answer) in enumerate(zip(SCALES, answers, strict=True)):
        for picture in answer:
            place = (picture.index * SIDE, row * (SIDE + 16))
            if picture.image:
                sheet.paste(picture.image.resize((SIDE, SIDE)), place)
            label = f"guidance {scale:g}, seed {picture.seed}"
            draw.text((place[0] + 2, place[1] + SIDE + 1), label, "black")
    sheet.save("sheet.png")


asyncio.run(main(sys.argv[1]))
