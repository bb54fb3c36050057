"""A model of another world's pictures: ``python -m benchmarks.fine_tuning WORK``.

Drawings with kinds and colours that the built-in model never saw become WebDataset shards by the
real `img2dataset`. The start is made of the built-in model's parts as a text-to-image model is: its
UNet's cross-attention has random weights, so that it knows nothing of picture embeddings. `train
convert` and `train variations` do the rest, and retrieval is measured before and after. What is
done already in WORK is not done again, so it goes on where it was stopped.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from app.parameters import ModelConfig
from app.pipeline import Pipeline
from app.training.evaluate import Pictures, retrieval, vary
from app.training.export import CHECKPOINT
from app.training.looking import sheet
from app.training.world import CHANGED, draw, sample_held_out, training_scenes
from benchmarks.report import PACKAGES, recording, write
from tests.support.img2dataset import install, make_shards

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = 4000
INPUTS = 200
STEPS = 600
RANDOM_SEED = 20_261
"""Of the cross-attention's random weights: not 0, from whose weights the built-in model's own
training began, so that the rest of its UNet still understands them."""
SETTINGS = {
    "steps": STEPS,
    "batch-size": 32,
    "learning-rate": 1e-3,
    "warmup": 100,
    "ema-decay": 0.995,
    "min-snr": 5,
    "seed": 1,
    "save-every": 50,
    "look-every": 500,
}


def draw_pictures(folder: Path) -> Path:
    """Drawings of the changed world's training scenes, as PNG files."""
    half = folder.with_suffix(".half")
    half.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((1, 0))
    scenes = training_scenes(rng, blocked_share=0.0)
    for i in range(PICTURES):
        Image.fromarray(draw(next(scenes), rng, CHANGED)).save(half / f"{i:05}.png")
    return half.rename(folder)


def make_text_to_image(folder: Path) -> Path:
    """The built-in model's parts without its encoder, cross-attention with random weights."""
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("image_encoder", "*.json~"))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    torch.manual_seed(RANDOM_SEED)
    fresh = UNet2DConditionModel.from_config(unet.config).state_dict()
    cross = {name: value for name, value in fresh.items() if "attn2" in name}
    unet.load_state_dict(cross, strict=False)
    unet.save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    del index["image_encoder"]
    index["_class_name"] = "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "text_encoder").mkdir()
    return folder


def train(command: str, **options: object) -> None:
    """``python -m app train COMMAND``; raises where it does not exit with 0."""
    given = [f"--{name}={value}" for name, value in options.items() if value is not True]
    flags = [f"--{name}" for name, value in options.items() if value is True]
    subprocess.run([sys.executable, "-m", "app", "train", command, *given, *flags], check=True)


def measure(checkpoint: Path, inputs: Pictures, grid: Path) -> float:
    """Top-1 retrieval of a variation of each input; the first eight as a sheet in ``grid``."""
    config = ModelConfig(str(checkpoint), device="cpu", dtype="float32", safety_checker=False)
    pipeline = Pipeline.load(config)
    parameters = pipeline.model.defaults(
        n=1, guidance_scale=5.0, num_inference_steps=25, scheduler="dpmsolver++"
    )
    varied = vary(pipeline, inputs, parameters, "variations", lambda *_: None)
    four = vary(pipeline, inputs[:8], replace(parameters, n=4), "grid", lambda *_: None)
    rows = four.reshape(8, 4, *four.shape[1:])
    grid.parent.mkdir(parents=True, exist_ok=True)
    sheet([[one, *own] for one, own in zip(inputs, rows, strict=False)]).save(grid, optimize=True)
    return retrieval(pipeline, inputs, varied, parameters)


def main(work: Path) -> None:
    """Make what is not there yet, train, measure, print and keep."""
    drawn, shards, text, start, tuned = (
        work / name for name in ("drawn", "shards", "text-to-image", "start", "tuned")
    )
    if not drawn.exists():
        draw_pictures(drawn)
    if not shards.exists():
        half = make_shards(
            install(work / "img2dataset"), drawn, work / "half", {}, side=96, each=1000
        )
        half.rename(shards)
    if not text.exists():
        make_text_to_image(text)
    if not (start / "model_index.json").exists():
        train("convert", model=text, encoder=CHECKPOINT, out=start)
        shutil.copy(CHECKPOINT / "variations.json", start)
    rng = np.random.default_rng(2026)
    inputs = np.stack([draw(scene, rng, CHANGED) for scene in sample_held_out(INPUTS, rng)])
    resume = {"resume": True} if (tuned / "training").exists() else {}
    looks = {"validation": drawn, "cpu": True}
    train("variations", model=start, data=shards, out=tuned, **SETTINGS, **looks, **resume)
    with recording((*PACKAGES, "accelerate", "webdataset")) as run:
        figures = {
            name: measure(folder, inputs, DOCS / "pictures" / f"fine-tuning-{name}.png")
            for name, folder in (("before", start), ("after", tuned))
        }
    table = [
        {"": f"{name} fine-tuning", "retrieval, top-1": f"{found:.1%}"}
        for name, found in figures.items()
    ]
    everything = {**figures, "inputs": INPUTS, "pictures": PICTURES, "settings": SETTINGS}
    # Shares of pictures, which others that use the processors do not change.
    write("fine_tuning", run, everything, table, publish_anyway=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
