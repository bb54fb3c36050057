"""The real `img2dataset`, in a virtual environment of its own, fed by a server on loopback."""

import csv
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SCORES = ("AESTHETIC_SCORE", "pwatermark", "punsafe")
"""Columns of LAION's tables that are handed on into each picture's JSON file."""


def install(folder: Path) -> Path:
    """The tool's program, in a virtual environment in ``folder`` that is made if need be."""
    program = folder / "bin" / "img2dataset"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "img2dataset"]
        subprocess.run(pip, check=True)
    return program


def make_shards(
    program: Path,
    pictures: Path,
    out: Path,
    scores: Mapping[str, Sequence[float]],
    *,
    side: int,
    each: int,
) -> Path:
    """Download the files in ``pictures`` into shards of ``each`` in ``out``, by the tool.

    ``scores`` has a list of numbers for each of some of :data:`SCORES`, in the files' order.
    """
    handler = partial(_Silent, directory=str(pictures))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        table = out.with_suffix(".csv")
        _write_table(table, pictures, server.server_port, scores)
        options = {
            "url_list": table,
            "input_format": "csv",
            "url_col": "url",
            "caption_col": "caption",
            "save_additional_columns": str(list(scores)).replace("'", '"'),
            "output_format": "webdataset",
            "output_folder": out,
            "image_size": side,
            "resize_mode": "keep_ratio_largest",
            "resize_only_if_bigger": True,
            "number_sample_per_shard": each,
            "processes_count": 1,
            "thread_count": 4,
            "disallowed_header_directives": "[]",
        }
        command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
        environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    finally:
        server.shutdown()
        server.server_close()
    return out


def _write_table(
    table: Path, pictures: Path, port: int, scores: Mapping[str, Sequence[float]]
) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption", *scores])
        names = sorted(path.name for path in pictures.iterdir())
        for name, *known in zip(names, *scores.values(), strict=True):
            writer.writerow([f"http://127.0.0.1:{port}/{name}", "a drawing", *known])


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass
