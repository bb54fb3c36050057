"""Torch: from a checkpoint and a picture to variations of it. Usable as a library.

Read :mod:`~app.pipeline.pipeline` first: its :class:`Pipeline` encodes a picture, starts samples,
steps any mix of them together and decodes the finished ones.
"""

from app.pipeline.pipeline import Decoded, Pipeline, Step
from app.pipeline.samples import Sample

__all__ = ["Decoded", "Pipeline", "Sample", "Step"]
