"""The model card of a checkpoint: what it was made from and how, its licence and its limits."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

_LICENCE = "creativeml-openrail-m"
"""Of Stable Diffusion 1.x, for a start that names none."""

_LIMITS = """\
## Limits

Those of Stable Diffusion image variations: no perfect photorealism; no legible text; trouble with
composition; faces and people may come out wrong; the autoencoder is lossy. Where it started from
Stable Diffusion, it was trained on LAION before, which contains adult material, and can reinforce
social biases, with white and Western cultures as its default; it is not fit for a product without
additional safety measures. It may reproduce pictures that are frequent in its training data:
`python -m app train memorisation` measures how many of its variations are near-copies of them.
The safety checker, where there is one, is that of the model it started from: it was not trained
for these pictures. Do not use it to make hostile, demeaning, deceptive or non-consensual pictures.
"""


def licence_of(model: Path) -> str:
    """The licence that the card in ``model`` names, or that of Stable Diffusion 1.x."""
    card = model / "README.md"
    if not card.exists():
        return _LICENCE
    data = ModelCard(card.read_text(), ignore_metadata_errors=True).data
    return str(getattr(data, "license", None) or _LICENCE)


def write_card(name: str, licence: str, about: str, facts: Mapping[str, object]) -> str:
    """The card of model ``name`` as Markdown; ``facts`` become a table."""
    data = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["stable-diffusion", "image-variations"],
    )
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
{data.to_yaml()}
---

# {name}: image variations

{about}

```python
from diffusers import StableDiffusionImageVariationPipeline

pipeline = StableDiffusionImageVariationPipeline.from_pretrained("{name}")
```

## How it was made

| | |
|---|---|
{rows}

{_LIMITS}
## Licence

{licence}, as of the model that it started from.
"""
