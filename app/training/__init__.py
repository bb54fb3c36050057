"""The card's training procedure, and the built-in checkpoint made with it.

:mod:`~app.training.world` draws the pictures, the part modules train one part each
(:mod:`~app.training.encoder`, :mod:`~app.training.autoencoder`, :mod:`~app.training.denoiser`,
:mod:`~app.training.safety`), :mod:`~app.training.demo` runs them in order and
:mod:`~app.training.evaluate` measures the result with a :mod:`~app.training.judge` of its own.
"""
