"""TIFF files of every kind, written from known samples (TIFF 6.0)."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

SIDES = (21, 34)
"""Height and width: no multiples of a strip or of a tile."""

ROWS_PER_STRIP, TILE = 5, 16

COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Samples of a colour, by photometric interpretation."""

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file; ``order`` is ``<`` or ``>``."""

    photometric: int = 2
    bits: int = 8
    number_format: int = 1
    planar: int = 1
    extra: tuple[int, ...] = ()
    compression: int = 1
    tiled: bool = False
    order: str = "<"
    wide_map: bool = True
    next_offset: bool = True

    def __str__(self) -> str:
        return (
            f"photometric {self.photometric}, {self.bits} bits, format {self.number_format}, "
            f"planar {self.planar}, extra {self.extra}, compression {self.compression}, "
            f"tiled {self.tiled}, order {self.order}"
        )


def kinds(photometric: int) -> Iterator[Kind]:
    """All kinds of these colours."""
    for bits, number_format, planar, extra, compression, tiled, order in product(
        (1, 2, 4, 8, 12, 16, 32),
        (1, 2, 3),
        (1, 2),
        ((), (0,), (1,), (2,)),
        COMPRESSED,
        (False, True),
        "<>",
    ):
        if number_format == 3 and bits != 32:
            continue
        yield Kind(photometric, bits, number_format, planar, extra, compression, tiled, order)


def samples_of(kind: Kind) -> Samples:
    """Values from 0 to 1, ``[height, width, samples]``; alpha in the end."""
    number = COLOURS[kind.photometric] + len(kind.extra)
    values = np.random.default_rng(7).random((*SIDES, number))
    if kind.extra == (1,):
        values[..., :-1] *= values[..., -1:]
    return values


def written(kind: Kind) -> bytes:
    """The file."""
    stored = _stored(samples_of(kind), kind)
    planes = [stored] if kind.planar == 1 else np.split(stored, stored.shape[2], axis=2)
    pieces = [COMPRESSED[kind.compression](one) for plane in planes for one in _cut(plane, kind)]
    height, width, number = stored.shape
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [kind.bits] * number),
        259: ("H", [kind.compression]),
        262: ("H", [kind.photometric]),
        277: ("H", [number]),
        284: ("H", [kind.planar]),
        339: ("H", [kind.number_format] * number),
    }
    if kind.extra:
        tags[338] = ("H", list(kind.extra))
    if kind.photometric == 3:
        tags[320] = ("H", colour_map(kind).T.ravel().tolist())
    if kind.photometric == 6:
        tags[530] = ("H", [1, 1])
    place, size = (324, 325) if kind.tiled else (273, 279)
    if kind.tiled:
        tags |= {322: ("H", [TILE]), 323: ("H", [TILE])}
    else:
        tags[278] = ("H", [ROWS_PER_STRIP])
    tags[size] = ("I", [len(piece) for piece in pieces])
    tags[place] = ("I", [0] * len(pieces))
    return _assembled(tags, place, pieces, kind)


def colour_map(kind: Kind) -> NDArray[np.int64]:
    """``[colours, 3]``; of 16 bits, or as some programs write them, of 8."""
    most = 65535 if kind.wide_map else 255
    return np.random.default_rng(3).integers(0, most + 1, (1 << min(kind.bits, 8), 3))


def expected(kind: Kind) -> NDArray[np.float64]:
    """The picture in sRGB, over white, ``[height, width, 3]`` from 0 to 255."""
    values = _stored(samples_of(kind), kind) / float((1 << kind.bits) - 1)
    colours = values[..., : COLOURS[kind.photometric]]
    match kind.photometric:
        case 0:
            rgb = 1 - colours.repeat(3, axis=2)
        case 1:
            rgb = colours.repeat(3, axis=2)
        case 3:
            indices = _stored(samples_of(kind), kind)[..., 0].astype(int)
            rgb = colour_map(kind)[indices] / 65535
        case 5:
            rgb = (1 - colours[..., :3]) * (1 - colours[..., 3:])
        case 6:
            luma, blue, red = np.moveaxis(255 * colours, 2, 0)
            blue, red = blue - 128, red - 128
            rgb = np.stack(
                (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue),
                axis=2,
            )
            rgb = rgb.clip(0, 255) / 255
        case _:
            rgb = colours
    if kind.extra in ((1,), (2,)):
        alpha = values[..., -1:]
        rgb = rgb + (1 - alpha) if kind.extra == (1,) else rgb * alpha + (1 - alpha)
    return 255 * rgb


def _stored(values: Samples, kind: Kind) -> NDArray[np.float64]:
    """Whole numbers as the file holds them."""
    return np.rint(values * ((1 << kind.bits) - 1))


def _cut(plane: NDArray[np.float64], kind: Kind) -> list[bytes]:
    if not kind.tiled:
        rows = range(0, plane.shape[0], ROWS_PER_STRIP)
        return [_packed(plane[top : top + ROWS_PER_STRIP], kind) for top in rows]
    padded = np.pad(plane, [(0, -side % TILE) for side in plane.shape[:2]] + [(0, 0)])
    return [
        _packed(padded[top : top + TILE, left : left + TILE], kind)
        for top in range(0, padded.shape[0], TILE)
        for left in range(0, padded.shape[1], TILE)
    ]


def _packed(block: NDArray[np.float64], kind: Kind) -> bytes:
    """Rows of samples in the file's order of bytes, each row from a byte's beginning."""
    if kind.number_format == 3:
        return (block / ((1 << 32) - 1)).astype(f"{kind.order}f4").tobytes()
    if kind.bits in (8, 16, 32):
        return block.astype(f"{kind.order}u{kind.bits // 8}").tobytes()
    rows = block.reshape(block.shape[0], -1).astype(np.uint16)
    bits = rows[..., None] >> np.arange(kind.bits - 1, -1, -1) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def _lzw(data: bytes) -> bytes:
    """Codes of 9 bits alone: the table is cleared before they would have to grow."""
    codes: list[int] = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    text = "".join(f"{code:09b}" for code in [*codes, 257])
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def _packbits(data: bytes) -> bytes:
    runs = (data[start : start + 128] for start in range(0, len(data), 128))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


COMPRESSED: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    5: _lzw,
    8: zlib.compress,
    32946: zlib.compress,
    32773: _packbits,
}
"""Ways of compression that this can write."""


def _assembled(
    tags: dict[int, tuple[str, list[int]]], place: int, pieces: list[bytes], kind: Kind
) -> bytes:
    """The pieces, then what does not fit into the directory, then the directory."""
    starts = np.cumsum([8, *map(len, pieces)])
    tags[place] = ("I", starts[:-1].tolist())
    body, entries = b"".join(pieces), b""
    for tag, (code, values) in sorted(tags.items()):
        packed = struct.pack(f"{kind.order}{len(values)}{code}", *values)
        if len(packed) > 4:
            where = struct.pack(f"{kind.order}I", 8 + len(body))
            body += packed
            packed = where
        number = {"H": 3, "I": 4}[code]
        entries += struct.pack(f"{kind.order}HHI", tag, number, len(values)) + packed.ljust(
            4, b"\0"
        )
    head = b"II" if kind.order == "<" else b"MM"
    head += struct.pack(f"{kind.order}HI", 42, 8 + len(body))
    count = struct.pack(f"{kind.order}H", len(tags))
    return head + body + count + entries + bytes(4 * kind.next_offset)
