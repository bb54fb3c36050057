"""The memory that the real model needs, computed: ``python -m benchmarks.memory``.

The parts of Stable Diffusion 1 are run on tensors without contents, which know their sizes and
nothing else, and every allocation is counted. What a GPU takes besides is not in it: the CUDA
context (some 0.3 to 0.5 GB), cuDNN's workspaces, and what the allocator keeps in reserve.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

FIGURES = Path(__file__).with_name("results") / "memory.json"
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
SIDES = (512, 768)
ROWS = (2, 8, 16, 32)
PICTURES = (1, 4)

VIT_L = CLIPVisionConfig(
    image_size=224, patch_size=14, hidden_size=1024, intermediate_size=4096,
    num_hidden_layers=24, num_attention_heads=16, projection_dim=768,
)  # fmt: skip


def unet() -> UNet2DConditionModel:
    """The UNet of Stable Diffusion 1."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def vae() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion 1."""
    blocks = (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=blocks,
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def weights(module: nn.Module) -> int:
    """Bytes of the parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def peak(module: nn.Module, call: Callable[[int, int], object], n: int, side: int) -> int:
    """Most bytes that ``call(n, side)`` holds at once besides the weights of ``module``."""
    tracker = MemTracker()
    tracker.track_external(module)
    with torch.no_grad(), tracker:
        call(n, side)
    (total,) = tracker.get_tracker_snapshot("peak").values()
    return int(total["Total"]) - weights(module)


def figures() -> dict[str, object]:
    """Bytes, in torch's default precision: of the weights, of steps and of decodes."""
    denoiser, autoencoder = unet().eval(), vae().eval()
    encoder = weights(CLIPVisionModelWithProjection(VIT_L))

    def step(rows: int, side: int) -> Tensor:
        latents = torch.zeros(rows, 4, side // 8, side // 8)
        condition = torch.zeros(rows, 1, 768)
        result: Tensor = denoiser(latents, torch.zeros(rows), condition, return_dict=False)[0]
        return result

    def decode(pictures: int, side: int) -> Tensor:
        latents = torch.zeros(pictures, 4, side // 8, side // 8)
        result: Tensor = autoencoder.decode(latents, return_dict=False)[0]
        return result

    return {
        # The safety checker has the same tower as the encoder.
        "weights": weights(denoiser) + weights(autoencoder) + 2 * encoder,
        "step": {side: {rows: peak(denoiser, step, rows, side) for rows in ROWS} for side in SIDES},
        "decode": {
            side: {n: peak(autoencoder, decode, n, side) for n in PICTURES} for side in SIDES
        },
    }


def main() -> None:
    """Compute, write the JSON, print it."""
    found = {}
    for name, dtype in PRECISIONS.items():
        torch.set_default_dtype(dtype)
        with FakeTensorMode():
            found[name] = figures()
    FIGURES.write_text(json.dumps(found, indent=2) + "\n")
    print(FIGURES.read_text())


if __name__ == "__main__":
    main()
