"""WebDataset shards in the layout in which `img2dataset` writes them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from app.pictures import Picture


def jpeg(picture: Picture, quality: int = 95) -> bytes:
    """The picture as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_shards(
    folder: Path, files: Sequence[bytes], facts: Sequence[Mapping[str, Any]], each: int = 5
) -> Path:
    """``00000.tar`` and so on, with ``000000000.jpg``, ``.json`` and ``.txt`` for each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(files), each):
        shard = start // each
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for i, (data, own) in enumerate(
                zip(files[start : start + each], facts[start : start + each], strict=True)
            ):
                key = f"{shard:05}{i:04}"
                described = {
                    "url": f"http://127.0.0.1/{start + i}.jpg",
                    "key": key,
                    "status": "success",
                    "error_message": None,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    **own,
                }
                _add(tar, f"{key}.jpg", data)
                _add(tar, f"{key}.txt", b"a drawing")
                _add(tar, f"{key}.json", json.dumps(described, indent=4).encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
