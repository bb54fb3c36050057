"""The process that owns the device, started by the engine.

:mod:`~app.worker.startup` gets it ready, with :mod:`~app.worker.warmup`, which has
:mod:`~app.worker.selfcheck` look at what the device computes, and :mod:`~app.worker.measuring` at
what steps take. From then on :mod:`~app.worker.loop` takes turns: receive, encode, step, decode,
report. A request under way is a :mod:`~app.worker.state`; the encodes and decodes are the
:mod:`~app.worker.jobs` of a :mod:`~app.worker.side`; what fails is tried again by
:mod:`~app.worker.retry`; :mod:`~app.worker.tuning` corrects the row cap and the
:mod:`~app.worker.threads`. In a thread of its own :mod:`~app.worker.device` tells how full the GPU
is.
"""
