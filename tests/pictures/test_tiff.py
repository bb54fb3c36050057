"""TIFF and BMP: of every kind the picture is right, or refused by name."""

import io
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import FormatNotAllowed, NotAPicture
from app.pictures.decode import decode
from tests.support.bombs import saved, tiff, tiff_size, tiled_tiff
from tests.support.tiffs import COLOURS, COMPRESSED, Kind, expected, kinds, written

MOST = 3
"""Levels of 255: 16 bits are cut to 8 before what is premultiplied is divided again."""

ACCEPTED = [
    *(Kind(photometric, bits) for photometric in (0, 1, 3) for bits in (1, 2, 4, 8)),
    Kind(1, 16),
    *(Kind(1, 8, extra=extra) for extra in ((1,), (2,))),
    *(Kind(2, bits, extra=extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,))),
    Kind(2, 8, planar=2),
    *(Kind(5, bits) for bits in (8, 16)),
    Kind(6, 8),
]


def difference(kind: Kind) -> float:
    """The largest from the picture that the samples mean."""
    picture = decode(written(kind), max_pixels=10_000)
    return float(np.abs(picture - expected(kind)).max())


def outcome(kind: Kind) -> str:
    try:
        most = difference(kind)
    except FormatNotAllowed as refusal:
        return "refused" if refusal.message.startswith("TIFF files ") else refusal.message
    except NotAPicture as refusal:
        return refusal.message
    return "right" if most <= MOST else f"differs by up to {most}"


@pytest.mark.parametrize("photometric", COLOURS)
def test_every_kind_is_read_rightly_or_refused_by_name(photometric: int) -> None:
    outcomes = {kind: outcome(kind) for kind in kinds(photometric)}
    wrong = [f"{kind}: {one}" for kind, one in outcomes.items() if one not in ("right", "refused")]
    assert wrong == []
    assert "right" in outcomes.values()


@pytest.mark.parametrize("kind", ACCEPTED, ids=str)
def test_the_usual_kinds_are_read(kind: Kind) -> None:
    for compression in COMPRESSED:
        for order in "<>":
            for tiled in (False, True):
                one = replace(kind, compression=compression, order=order, tiled=tiled)
                assert difference(one) <= MOST, one


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind(1, 12), "12 bits"),
        (Kind(2, 12), "12 bits"),
        (Kind(1, 32, 3), "floating-point"),
        (Kind(2, 32, 3), "floating-point"),
        (Kind(1, 16, 2), "signed"),
        (Kind(1, 16, extra=(2,)), "2 samples of 16 bits"),
        (Kind(5, 8, extra=(2,)), "5 samples of 8 bits"),
        (Kind(2, 16, planar=2), "lie apart"),
        (Kind(1, 8, planar=2, extra=(2,)), "lie apart"),
        (Kind(3, 8, wide_map=False), "colour map of 8 bits"),
        (Kind(3, 4, wide_map=False), "colour map of 8 bits"),
    ],
    ids=str,
)
def test_what_would_come_out_wrong_is_refused_by_name(kind: Kind, says: str) -> None:
    with pytest.raises(FormatNotAllowed, match=says):
        decode(written(kind), max_pixels=10_000)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        *((number, "CCITT") for number in (2, 3, 4)),
        (6, "old JPEG"),
        (34661, "JBIG"),
        (34712, "JPEG 2000"),
        (34925, "LZMA"),
        (50000, "Zstandard"),
        (50001, "WebP"),
        (99, "compression 99"),
    ],
)
def test_an_unusual_compression_is_refused_by_name(number: int, says: str) -> None:
    with pytest.raises(FormatNotAllowed, match=f"TIFF files with {says}"):
        decode(tiff(tiff_size(8, 8, number), bytes(64)), max_pixels=10_000)


@pytest.mark.parametrize("tile", [(64, 64), (256, 16), (16, 512)])
@pytest.mark.parametrize("method", [7, 8])
def test_tiles_that_are_the_same_place_of_the_file_are_read(
    tile: tuple[int, int], method: int
) -> None:
    grey = Image.new("L", tile, 77)
    piece = saved(grey, "JPEG") if method == 7 else zlib.compress(grey.tobytes())
    assert (decode(tiled_tiff((300, 200), tile, piece, method), max_pixels=100_000) == 77).all()


def test_jpeg_pieces_that_lie_over_each_other_are_refused() -> None:
    piece = saved(Image.new("L", (16, 16)), "JPEG")
    good = tiled_tiff((32, 16), (16, 16), piece, 7)
    start = struct.pack("<I", good.rindex(b"\xff\xd8"))
    longer = struct.pack("<I", len(good)) * 2
    overlapping = good.replace(struct.pack("<I", len(piece)) * 2, longer)
    assert overlapping != good
    assert start in overlapping
    with pytest.raises(NotAPicture, match="damaged"):
        decode(overlapping, max_pixels=10_000)


@pytest.mark.parametrize("order", "<>")
def test_the_offset_of_a_next_picture_may_be_missing(order: str) -> None:
    assert difference(Kind(order=order, next_offset=False)) == 0


def bmp(bits: int, compression: int = 0, header_bytes: int = 40) -> bytes:
    width, height = 8, 4
    colours = b"".join(
        bytes((value, 0, value, 0)) for value in range(1 << bits if bits <= 8 else 0)
    )
    pixels = bytes(height * -(-width * bits // 32) * 4)
    head = struct.pack("<IiiHHI", header_bytes, width, height, 1, bits, compression)
    head = head.ljust(header_bytes, b"\0")
    start = 14 + len(head) + len(colours)
    file = struct.pack("<2sI4xI", b"BM", start + len(pixels), start)
    return file + head + colours + pixels


@pytest.mark.parametrize("bits", [1, 4, 8, 24, 32])
@pytest.mark.parametrize("header_bytes", [40, 124])
def test_plain_bmp_of_the_usual_bits_is_read(bits: int, header_bytes: int) -> None:
    assert decode(bmp(bits, header_bytes=header_bytes), max_pixels=1000).max() == 0


@pytest.mark.parametrize(
    ("bits", "compression", "says"),
    [
        (8, 1, "run-length"),
        (4, 2, "run-length"),
        (16, 3, "bit fields"),
        (32, 3, "bit fields"),
        (32, 6, "bit fields"),
        (24, 4, "JPEG"),
        (16, 0, "16 bits"),
        (2, 0, "2 bits"),
    ],
)
def test_bmp_of_another_kind_is_refused_by_name(bits: int, compression: int, says: str) -> None:
    with pytest.raises(FormatNotAllowed, match=f"BMP files .*{says}"):
        decode(bmp(bits, compression), max_pixels=1000)


# tiff2rgba takes a sample of no stated meaning for alpha, and does not multiply grey by its alpha.
DISPUTED = [kind for kind in ACCEPTED if kind.extra == (0,) or kind == Kind(1, 8, extra=(2,))]


@pytest.mark.deploy
@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if kind not in DISPUTED], ids=str)
def test_libtiffs_own_converter_agrees(kind: Kind, tmp_path: Path) -> None:
    """Where tiff2rgba reads the kind at all."""
    source, target = tmp_path / "source.tif", tmp_path / "target.tif"
    source.write_bytes(written(kind))
    run = subprocess.run(["tiff2rgba", str(source), str(target)], capture_output=True, check=False)
    if run.returncode != 0 or not target.exists():
        pytest.skip(run.stderr.decode())
    with Image.open(io.BytesIO(target.read_bytes())) as image:
        theirs = np.asarray(image.convert("RGBA"), np.float64)
    if kind.extra in ((1,), (2,)):
        alpha = theirs[..., 3:] / 255
        theirs = theirs[..., :3] * alpha + 255 * (1 - alpha)
    ours = decode(written(kind), max_pixels=10_000)
    assert np.abs(ours - theirs[..., :3]).mean() <= 2
