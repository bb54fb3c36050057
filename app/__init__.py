"""Self-hosted image variations: a picture in, variations of it out.

The way of a request: :mod:`app.api` (HTTP) → :mod:`app.engine` (queue, batcher, supervisor)
→ one pipe → :mod:`app.worker` (the process that owns the device) → :mod:`app.pipeline` (torch).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("variations")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"
