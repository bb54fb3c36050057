"""Self-hosted image variations: a picture in, variations of it out.

``api`` (HTTP) stands over ``engine`` (requests become answers), that over ``scheduling`` and
``ipc``; these it shares with ``worker``, which stands over ``pipeline`` (torch). Below all are
``pictures``, ``parameters`` and ``errors``. docs/architecture.md has the life of a request.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("variations")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"
