"""Training: image-variation models of one's own, and the built-in checkpoint.

Of one's own, by the card's recipe (``train variations``)::

    commands, data_commands   the command lines
    job           a run from its options to the finished checkpoint
    start         what it starts from; text-to-image checkpoints converted
    sources       data sets as files; sieve leaves pictures out, examples makes batches of the rest
    recipe        settings and presets; objective is the loss, optimizer the optimizer
    finetune      the loop, on Accelerate; looking draws pictures meanwhile
    checkpoint    writes the result, with the model card of card
    copies        near-copies and their index, for data_check and memorisation

The built-in one: :mod:`~app.training.world` draws the pictures, the part modules train one part
each (:mod:`~app.training.encoder`, :mod:`~app.training.autoencoder`,
:mod:`~app.training.denoiser`, :mod:`~app.training.safety`), :mod:`~app.training.demo` runs them in
order and :mod:`~app.training.evaluate` measures the result with a :mod:`~app.training.judge` of its
own.
"""
