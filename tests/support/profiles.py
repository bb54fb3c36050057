"""ICC profiles, written from the definitions of their colour spaces (ICC.1:2022)."""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_D50: Final = (0.9642, 1.0, 0.8249)
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65_XY: Final = (0.3127, 0.3290)
_D50_XY: Final = (0.3457, 0.3585)

SRGB_CURVE: Final = struct.pack(
    ">4s4xH2x5i",
    b"para",
    3,
    *(round(65536 * value) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
)


def gamma(exponent: float) -> bytes:
    """A tone curve: linear light is the value to this power."""
    return struct.pack(">4s4xIH2x", b"curv", 1, round(256 * exponent))


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """A profile of these tags; the space it connects to is Lab for printers, else XYZ."""
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s24x4x3i48x",
        start + len(body),
        0x02400000 if kind == b"prtr" else 0x04200000,
        kind,
        space,
        b"Lab " if kind == b"prtr" else b"XYZ ",
        b"acsp",
        *_fixed(_D50),
    )
    return header[:128].ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(
    primaries: tuple[tuple[float, float], ...], white: tuple[float, float], curve: bytes
) -> bytes:
    """Three primaries and a white by their x and y, and one tone curve for all."""
    columns = np.array([_xyz(xy) for xy in primaries]).T
    columns = columns * np.linalg.solve(columns, np.array(_xyz(white)))
    response = _BRADFORD @ np.array(_D50) / (_BRADFORD @ np.array(_xyz(white)))
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(response) @ _BRADFORD @ columns
    tags = {b"wtpt": _xyz_tag(_D50)}
    for index, letter in enumerate((b"r", b"g", b"b")):
        tags[letter + b"XYZ"] = _xyz_tag(tuple(adapted[:, index]))
        tags[letter + b"TRC"] = curve
    return profile(b"RGB ", tags)


def grey_profile(curve: bytes) -> bytes:
    """One tone curve."""
    return profile(b"GRAY", {b"wtpt": _xyz_tag(_D50), b"kTRC": curve})


def cmyk_profile(inks: tuple[tuple[float, float, float], ...], dot_gain: float) -> bytes:
    """Four inks by the linear sRGB that each lets through, and the power of their coverage."""
    levels = np.linspace(0, 1, 9) ** dot_gain
    grid = np.stack(np.meshgrid(*[levels] * 4, indexing="ij"), axis=-1)
    light = np.prod(1 - grid[..., None] * (1 - np.array(inks)), axis=-2)
    lab = _lab_of(light).reshape(-1, 3)
    encoded = np.rint((lab + np.array((0, 128, 128))) * (65280 / 100, 256, 256)).clip(0, 65535)
    straight = struct.pack(">2H", 0, 65535)
    lut = struct.pack(">4s4x4B", b"mft2", 4, 3, 9, 0)
    lut += struct.pack(">9i", *_fixed((1, 0, 0, 0, 1, 0, 0, 0, 1))) + struct.pack(">2H", 2, 2)
    lut += straight * 4 + encoded.astype(">u2").tobytes() + straight * 3
    return profile(b"CMYK", {b"wtpt": _xyz_tag(_D50), b"A2B0": lut}, b"prtr")


PROFILES: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "Display P3": (
        "RGB",
        lambda: rgb_profile(((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), _D65_XY, SRGB_CURVE),
    ),
    "Adobe RGB": (
        "RGB",
        lambda: rgb_profile(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), _D65_XY, gamma(2.2)),
    ),
    "ProPhoto": (
        "RGB",
        lambda: rgb_profile(
            ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), _D50_XY, gamma(1.8)
        ),
    ),
    "linear grey": ("L", lambda: grey_profile(gamma(1.0))),
    "grey of gamma 1.8": ("L", lambda: grey_profile(gamma(1.8))),
    "coated paper": (
        "CMYK",
        lambda: cmyk_profile(
            ((0.0, 0.3, 0.8), (0.7, 0.0, 0.2), (0.95, 0.85, 0.0), (0.02, 0.02, 0.02)), 0.8
        ),
    ),
    "newspaper": (
        "CMYK",
        lambda: cmyk_profile(
            ((0.1, 0.35, 0.6), (0.6, 0.1, 0.2), (0.8, 0.7, 0.1), (0.1, 0.1, 0.1)), 0.6
        ),
    ),
}
"""Modes of the pictures that have them, and what writes them."""


def srgb_profile() -> bytes:
    """sRGB itself, as many cameras and editors write it."""
    return rgb_profile(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), _D65_XY, SRGB_CURVE)


def _fixed(values: tuple[float, ...]) -> list[int]:
    return [round(65536 * value) for value in values]


def _xyz_tag(values: tuple[float, ...]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *_fixed(values))


def _xyz(xy: tuple[float, float]) -> tuple[float, float, float]:
    x, y = xy
    return x / y, 1.0, (1 - x - y) / y


def _lab_of(linear: Floats) -> Floats:
    """Lab under D50 of linear sRGB, whose white becomes that of the paper."""
    to_xyz = np.array(
        [[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
    )
    ratios = np.cbrt((linear @ to_xyz.T / _D50).clip(1e-4))
    fx, fy, fz = np.moveaxis(ratios, -1, 0)
    return np.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), axis=-1)
