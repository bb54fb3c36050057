"""Self-hosted image variations: a picture in, variations of it out.

The way of a request, through two processes::

    the API process, which never imports torch
        api          HTTP: admits a request, decodes its picture, writes the answer
        engine       foresees when a request would be done; its supervisor keeps the worker alive,
                     takes requests in line and asks back for the pixels when there is room
    ── one pipe, plain data (engine.messages): Submit, Cancel → ← Encoded, Stats, Done, Failed, … ──
    the worker process, which owns the device
        worker       a loop: receive, encode, step, decode, report; samples queue here
        (engine)     its batcher says before each step which samples take part
        pipeline     torch: checkpoint, encoder, folded UNet, solver tables, VAE, safety checker

The picture's pixels are dropped on both sides once it is encoded; from its embedding a request is
run again if the worker dies. Beside the way stand ``parameters`` and ``errors`` (what all share),
``settings`` (the only reader of the environment), ``metrics`` (every Prometheus object),
``tracing``, ``logs``, ``cli`` and ``training`` (which makes ``checkpoints/demo``).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("variations")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"
