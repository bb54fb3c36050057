"""Write four variations of a picture, and tell how far they are: client_sync.py photo.jpg"""

import os
import sys
from pathlib import Path

from app.client import Client, Progress, Queued, Step, Variation

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")


def show(told: Progress) -> None:
    match told:
        case Queued(position, start_in):
            print(f"{position} requests before this one; begins in {start_in:.1f} s")
        case Step(done, of, finish_in):
            print(f"step {min(done)} of {of}; done in {finish_in:.1f} s")
        case Variation(seed=seed):
            print(f"the picture of seed {seed} is there")


photo = Path(sys.argv[1])
with Client(URL) as client:
    for picture in client.vary(photo, n=4, seed=7, on_progress=show):
        if picture.data:  # else the safety checker has stopped it
            Path(f"{photo.stem}-{picture.seed}.png").write_bytes(picture.data)
