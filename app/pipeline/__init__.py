"""The model on its device: a library that knows nothing of queues, processes or HTTP.

:class:`Pipeline` is the whole of it: ``preprocessing`` fits a picture, ``condition`` makes rows of
what a request looks at, ``start`` makes samples of them, ``step`` takes any samples further
together until none has steps left, ``decode`` makes pictures of them.

It is loaded by ``devices``, ``hub`` (with ``download``), ``known`` and ``checkpoint``; ``files``
says which files of a checkpoint are read, and reads them with care. A request then meets, in this
order: ``folding`` (the UNet without cross-attention), ``solver`` and ``solvers`` (schedulers as
tables), ``samples`` (the steps), ``denoiser`` (the UNet call in them, which ``graphs`` record on a
GPU), ``previews``, ``decoding``, ``safety`` and ``training_index`` (near-copies of training
pictures, found by ``descriptors``). ``selfcheck`` tells how far off a device computes.
"""

from app.pipeline.pipeline import Pipeline
from app.pipeline.previews import Previews
from app.pipeline.safety import Decoded
from app.pipeline.samples import Row, Sample, Step
from app.pipeline.starting import Posterior

__all__ = ["Decoded", "Pipeline", "Posterior", "Previews", "Row", "Sample", "Step"]
