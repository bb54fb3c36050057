"""The model on its device: a library that knows nothing of requests, processes or HTTP.

:class:`Pipeline` is the whole of it: ``encode`` a picture, ``start`` samples from its embedding,
``step`` any samples together until none has steps left, ``decode`` them.

It is loaded by ``devices``, ``hub``, ``known`` and ``checkpoint``. A picture then meets, in this
order: ``preprocessing``, ``folding`` (the UNet without cross-attention), ``solver`` (schedulers as
tables), ``samples`` (the steps), ``decoding`` and ``safety``.
"""

from app.pipeline.decoding import Decoded
from app.pipeline.pipeline import Pipeline
from app.pipeline.samples import Sample, Step

__all__ = ["Decoded", "Pipeline", "Sample", "Step"]
