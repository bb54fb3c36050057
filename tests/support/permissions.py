"""File permissions that hold for root too, as most containers' tests run as root."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_VERSION = 0x20080522

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")


@contextmanager
def permissions_hold() -> Iterator[None]:
    """In here this thread, and those that it starts, may do with files what their modes say."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    before, now = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for data in (before, now):
        assert libc.capget(header, data) == 0
    now[0] &= ~_OVERRIDES  # of those that are in effect
    assert libc.capset(header, now) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
