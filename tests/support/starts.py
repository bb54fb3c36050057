"""Text-to-image checkpoints with random weights, to start a training from."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.checkpoints import Kind, make_checkpoint

_TEXT_PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}


def make_text_to_image(
    folder: Path, *, kind: Kind = "tiny", safetensors: bool = True, safety_checker: bool = True
) -> tuple[Path, Path]:
    """Write a text-to-image checkpoint, and beside it a vision encoder; the folders of both.

    Its text encoder and tokenizer are there by their files, which nothing reads.
    """
    model, encoder = folder / "text-to-image", folder / "encoder"
    make_checkpoint(model, kind=kind, safetensors=safetensors, safety_checker=safety_checker)
    shutil.move(model / "image_encoder", encoder)
    shutil.copy(model / "feature_extractor" / "preprocessor_config.json", encoder)
    for part in _TEXT_PARTS:
        (model / part).mkdir()
        (model / part / "config.json").write_text("{}")
    index = json.loads((model / "model_index.json").read_text())
    del index["image_encoder"]
    index |= {"_class_name": "StableDiffusionPipeline", **_TEXT_PARTS}
    (model / "model_index.json").write_text(json.dumps(index))
    return model, encoder


def change_index(model: Path, **changes: Any) -> None:
    """Change keys of a checkpoint's ``model_index.json``."""
    path = model / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
