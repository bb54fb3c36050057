"""How much the built-in model repeats its training drawings: ``python -m benchmarks.memorisation``.

The drawings that its denoiser was trained on are drawn again from their seed, and 200 held-out ones
are varied and searched for among them by ``python -m app train memorisation``. WORK keeps them.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from app.training.dataset import draw_pairs
from app.training.demo import Plan
from app.training.world import draw, sample_held_out
from benchmarks.report import PACKAGES, recording, write

DOCS = Path(__file__).parents[1] / "docs"
INPUTS = 200
WORDS = {
    "variations": "a variation's nearest training drawing",
    "inputs_baseline": "an input's nearest training drawing",
    "variation_to_its_input": "a variation and its input",
}


def save_training_drawings(work: Path) -> Path:
    """Both drawings of each pair that the denoiser saw, as PNG files."""
    folder = work / "trained"
    if folder.exists():
        return folder
    plan = Plan()
    pairs = draw_pairs(work / "pairs", plan.denoiser_pairs, 0, lambda _: None)
    half = work / "half"
    half.mkdir(exist_ok=True)
    for i, pair in enumerate(pairs.pictures):
        for j, picture in enumerate(pair):
            Image.fromarray(picture).save(half / f"{i:05}-{j}.png", compress_level=1)
    return half.rename(folder)


def save_held_out(work: Path) -> Path:
    """Held-out drawings, which the evaluation has as its inputs too."""
    folder = work / "held-out"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(2026)
    for i, scene in enumerate(sample_held_out(INPUTS, rng)):
        Image.fromarray(draw(scene, rng)).save(folder / f"{i:03}.png")
    return folder


def main(work: Path) -> None:
    """Draw what is not there yet, measure, print and keep."""
    work.mkdir(parents=True, exist_ok=True)
    data, inputs = save_training_drawings(work), save_held_out(work)
    sheet = DOCS / "pictures" / "memorisation.png"
    options = ["--model", "demo", "--data", data, "--inputs", inputs, "-n", INPUTS]
    command = [sys.executable, "-m", "app", "train", "memorisation", *map(str, options)]
    command += ["--worst", str(sheet), "--json"]
    with recording((*PACKAGES, "faiss-cpu")) as run:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    table = [
        {"": words, "alike": f"{found[name]['alike']:.1%}", "copies": f"{found[name]['copy']:.1%}"}
        for name, words in WORDS.items()
    ]
    # Shares of pictures, which others that use the processors do not change.
    write("memorisation", run, found, table, publish_anyway=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
