"""API keys, compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers

from app.errors import NotAuthorized

ANYBODY = ""
"""The caller's name where no keys are configured."""


class Keys:
    """The accepted keys. Only their digests are kept, so that none can end up in a log."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def caller(self, headers: Headers) -> str:
        """A short name for whoever brings a key; raises :class:`NotAuthorized` without a good one.

        Every key is looked at, whichever fits: how long it takes tells nothing.
        """
        if not self._digests:
            return ANYBODY
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip())
        fits = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or True not in fits:
            raise NotAuthorized(
                "An API key is needed: send the header Authorization: Bearer KEY"
                if scheme.lower() != "bearer"
                else "The API key is not one of those that are accepted"
            )
        return digest.hex()[:8]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
