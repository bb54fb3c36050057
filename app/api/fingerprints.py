"""Requests that are alike have the same fingerprint."""

import hashlib
from dataclasses import astuple, replace
from typing import BinaryIO

from app.parameters import Parameters


def fingerprint_of(file: BinaryIO, parameters: Parameters) -> bytes:
    """A digest of an upload's bytes and of its parameters, all but the seed.

    A retry draws a new seed, and is as like to end a worker as the request that did. Takes a while
    for a large file; call it in a thread. ``file`` is rewound.
    """
    digest = hashlib.sha256(file.read())
    file.seek(0)
    digest.update(repr(astuple(replace(parameters, seed=0))).encode())
    return digest.digest()
