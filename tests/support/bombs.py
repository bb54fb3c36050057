"""Small files that cost much: each costs what it can in another way.

Every bomb takes the number of bytes it may have, since most grow with the upload limit.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOMBS: Final[dict[str, Callable[[int], bytes]]] = {}
"""By name; the format comes first."""

PLAIN: Final = 64
"""The side of the picture inside a bomb whose costs lie elsewhere."""

ORIENTATION: Final = 0x0112


def bomb(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    BOMBS[make.__name__] = make
    return make


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def picture(side: int = PLAIN) -> Image.Image:
    return Image.linear_gradient("L").resize((side, side)).convert("RGB")


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A file of these chunks between header and end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND")


def png_pixels(side: int = PLAIN) -> bytes:
    return png_chunk(b"IDAT", zlib.compress(bytes((3 * side + 1) * side)))


def repeated(part: bytes, size: int) -> bytes:
    return part * (size // len(part))


@bomb
def png_of_many_pixels(_size: int) -> bytes:
    return png(60_000, 60_000, png_chunk(b"IDAT", zlib.compress(bytes(9))))


@bomb
def png_of_no_pixels(_size: int) -> bytes:
    return png(0, 60_000, png_chunk(b"IDAT", zlib.compress(bytes(9))))


@bomb
def png_that_inflates_past_its_end(size: int) -> bytes:
    return png(PLAIN, PLAIN, png_chunk(b"IDAT", zlib.compress(bytes(size * 20), 1)))


@bomb
def png_with_inflating_texts(size: int) -> bytes:
    text = zlib.compress("\N{GRINNING FACE}".encode() * 262_000)
    texts = (png_chunk(b"iTXt", b"%d\0\1\0\0\0" % i + text) for i in range(size // 20_000))
    return png(PLAIN, PLAIN, *texts, png_pixels())


@bomb
def png_with_an_inflating_profile(size: int) -> bytes:
    return png(
        PLAIN, PLAIN, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(size * 20))), png_pixels()
    )


@bomb
def png_of_many_chunks(size: int) -> bytes:
    return png(PLAIN, PLAIN, repeated(png_chunk(b"abCd"), size - 1000), png_pixels())


@bomb
def png_of_many_empty_data_chunks(size: int) -> bytes:
    return png(PLAIN, PLAIN, repeated(png_chunk(b"IDAT"), size - 1000), png_pixels())


@bomb
def png_of_many_frames(size: int) -> bytes:
    control = png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    frame = struct.pack(">IIIIIHHBB", 0, PLAIN, PLAIN, 0, 0, 1, 100, 0, 0)
    frames = repeated(png_chunk(b"fcTL", frame), size - 1000)
    return png(PLAIN, PLAIN, control, png_pixels(), frames)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _after_start(data: bytes, segments: bytes) -> bytes:
    return data[:2] + segments + data[2:]


@bomb
def jpeg_of_many_pixels(_size: int) -> bytes:
    small = saved(Image.new("RGB", (0x123, 0x145)), "JPEG")
    return small.replace(b"\x01\x45\x01\x23", b"\xea\x60\xea\x60", 1)


@bomb
def jpeg_of_many_segments(size: int) -> bytes:
    segments = repeated(jpeg_segment(0xEB, b""), size - 10_000)
    return _after_start(saved(picture(), "JPEG"), segments)


@bomb
def jpeg_whose_exif_block_comes_in_crumbs(size: int) -> bytes:
    crumbs = repeated(jpeg_segment(0xE1, b"Exif\0\0a"), size - 10_000)
    return _after_start(saved(picture(), "JPEG"), crumbs)


def slow_jpeg(scans: int = 50, side: int = 7000) -> bytes:
    """A progressive file whose last scan is repeated; every scan goes over the whole picture.

    50 scans more are not too many, and at 49 megapixels take some seconds of the processor.
    """
    data = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return data[:-2] + scan * scans + data[-2:]


@bomb
def jpeg_of_many_scans(size: int) -> bytes:
    return slow_jpeg((size - 100_000) // 100)


def gif(*blocks: bytes, width: int = PLAIN, height: int = PLAIN) -> bytes:
    palette = bytes(range(6))
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + palette
    return b"GIF89a" + screen + b"".join(blocks) + b";"


def gif_frame(width: int = PLAIN, height: int = PLAIN) -> bytes:
    """A few pixels of the size that it says it has, and the end."""
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"


@bomb
def gif_of_many_pixels(_size: int) -> bytes:
    return gif(gif_frame(), width=60_000, height=60_000)


@bomb
def gif_whose_frame_is_larger_than_its_screen(_size: int) -> bytes:
    return gif(gif_frame(60_000, 60_000), width=1, height=1)


@bomb
def gif_that_is_disposed_of_before_it_is_seen(_size: int) -> bytes:
    disposal = b"!\xf9\x04\x08\0\0\0\0"
    return gif(disposal, gif_frame(13_000, 13_000), width=1, height=1)


@bomb
def gif_of_many_comments(size: int) -> bytes:
    return gif(b"!\xfe", repeated(b"\x02ab", size - 1000), b"\0", gif_frame())


@bomb
def gif_of_many_extensions(size: int) -> bytes:
    return gif(repeated(b"!\xfd\x01a\0", size - 1000), gif_frame())


@bomb
def gif_of_many_frames(size: int) -> bytes:
    data = saved(picture().convert("P"), "GIF")
    after_palette = 13 + (3 << (data[10] & 7) + 1)
    frame = data[after_palette:-1]
    return data[:-1] + repeated(frame, size - 10_000) + data[-1:]


def riff_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int, flags: int = 0) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def webp_pixels(side: int = PLAIN) -> bytes:
    """The one chunk of a lossy file."""
    return saved(picture(side), "WEBP")[12:]


@bomb
def webp_of_many_pixels(_size: int) -> bytes:
    return webp(webp_canvas(16_384, 16_384), riff_chunk(b"VP8 "))


@bomb
def webp_whose_picture_is_larger_than_its_canvas(_size: int) -> bytes:
    return webp(webp_canvas(1, 1), webp_pixels(1000))


@bomb
def webp_of_many_chunks(size: int) -> bytes:
    chunks = repeated(riff_chunk(b"abcd"), size - 10_000)
    return webp(webp_canvas(PLAIN, PLAIN), chunks, webp_pixels())


@bomb
def webp_of_many_frames(size: int) -> bytes:
    place = bytes(6) + (PLAIN - 1).to_bytes(3, "little") * 2 + bytes(4)
    frame = riff_chunk(b"ANMF", place + webp_pixels())
    animation = riff_chunk(b"ANIM", bytes(6))
    return webp(webp_canvas(PLAIN, PLAIN, 2), animation, repeated(frame, size - 1000))


def bmp(width: int, height: int, pixels: bytes, *, bits: int = 8, compression: int = 0) -> bytes:
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, bits, compression, 0, 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + header + palette + pixels


@bomb
def bmp_of_many_pixels(_size: int) -> bytes:
    return bmp(60_000, -60_000, bytes(1000))


@bomb
def bmp_of_negative_width(_size: int) -> bytes:
    return bmp(-1, 100, bytes(1000))


@bomb
def bmp_of_run_lengths(_size: int) -> bytes:
    """Run lengths fill a picture of 49 megapixels from a few bytes a row."""
    return bmp(7000, 7000, (b"\x01\x07" + b"\0\0") * 7000 + b"\0\1", compression=1)


@bomb
def bmp_of_run_lengths_beyond_the_row(size: int) -> bytes:
    return bmp(7000, 7000, repeated(b"\xff\x07", size - 2000), compression=2, bits=4)


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"", following: int = 0) -> bytes:
    """A little-endian file of one directory; ``rest`` lies at :func:`tiff_rest`."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + struct.pack("<I", following) + rest


def tiff_rest(entries: int) -> int:
    """The offset of the data behind a directory of so many entries."""
    return 10 + 12 * entries + 4


SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16


def tiff_size(width: int, height: int, compression: int = 1) -> list[tuple[int, int, int, int]]:
    """The entries that every grey picture of 8 bits has."""
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, compression),
        (262, SHORT, 1, 1),
        (277, SHORT, 1, 1),
    ]


def compressed_big_tiff(grey: NDArray[np.uint8]) -> bytes:
    """A BigTIFF of one deflated strip, such as Pillow cannot write."""
    height, width = grey.shape
    strip = zlib.compress(grey.tobytes())
    place = 16 + 8 + 9 * 20 + 8
    strips = [(273, LONG8, 1, place), (278, LONG, 1, height), (279, LONG8, 1, len(strip))]
    entries = [*tiff_size(width, height, compression=8), *strips]
    directory = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(entries)) + directory + bytes(8) + strip


@bomb
def tiff_of_many_pixels(_size: int) -> bytes:
    return tiff([*tiff_size(60_000, 60_000), (273, LONG, 1, 8), (279, LONG, 1, 100)], bytes(100))


@bomb
def tiff_of_many_strips(size: int) -> bytes:
    count = (size - 1000) // 4
    entries = tiff_size(PLAIN, PLAIN)
    strips = [(273, LONG, count, tiff_rest(9)), (278, LONG, 1, 1), (279, LONG, 1, PLAIN)]
    return tiff([*entries, *strips], struct.pack("<I", 8) * count)


@bomb
def tiff_whose_tile_is_larger_than_its_picture(size: int) -> bytes:
    tile = zlib.compress(bytes(min(2**31 - 2**20, size * 200)), 1)
    start = tiff_rest(10)
    entries = tiff_size(PLAIN, PLAIN, compression=8)
    tiles = [(322, LONG, 1, 46_320), (323, LONG, 1, 46_320), (324, LONG, 1, start)]
    return tiff([*entries, *tiles, (325, LONG, 1, len(tile))], tile)


def tiled_tiff(size: tuple[int, int], tile: tuple[int, int], piece: bytes, method: int) -> bytes:
    """A grey picture all of whose tiles are one and the same piece of the file."""
    count = math.prod(-(-side // step) for side, step in zip(size, tile, strict=True))
    start = tiff_rest(10)
    entries = [
        *tiff_size(*size, compression=method),
        (322, LONG, 1, tile[0]),
        (323, LONG, 1, tile[1]),
        (324, LONG, count, start),
        (325, LONG, count, start + 4 * count),
    ]
    if count == 1:
        return tiff([*entries[:-2], (324, LONG, 1, start), (325, LONG, 1, len(piece))], piece)
    table = struct.pack("<I", start + 8 * count) * count + struct.pack("<I", len(piece)) * count
    return tiff(entries, table + piece)


@bomb
def tiff_of_one_tall_tile_many_times(_size: int) -> bytes:
    """The picture shows one row of each tile, and four thousand times that is decoded."""
    tile = zlib.compress(bytes(16 * 65_520), 9)
    return tiled_tiff((65_520, 1), (16, 65_520), tile, 8)


@bomb
def tiff_of_one_jpeg_of_many_scans(_size: int) -> bytes:
    data = saved(Image.new("L", (1024, 1024)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return tiled_tiff((4096, 4096), (1024, 1024), data[:-2] + scan * 85 + data[-2:], 7)


@bomb
def tiff_of_one_sequential_jpeg_of_many_scans(_size: int) -> bytes:
    data = saved(Image.new("L", (1024, 1024)), "JPEG")
    scan = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return tiled_tiff((4096, 4096), (1024, 1024), data[:-2] + scan * 85 + data[-2:], 7)


def _plain_tiff(*extra: tuple[int, int, int, int], rest: bytes = b"", following: int = 0) -> bytes:
    """A picture whose pixels are the file's first bytes, over and over."""
    strips = [(273, LONG, 1, 8), (278, LONG, 1, PLAIN), (279, LONG, 1, PLAIN * PLAIN)]
    entries = [*tiff_size(PLAIN, PLAIN), *strips, *extra]
    return tiff(entries, rest + bytes(PLAIN * PLAIN), following)


@bomb
def tiff_of_many_directories(size: int) -> bytes:
    """Each directory leads to the next, and the last to the first."""
    base = len(_plain_tiff())
    count = (size - base) // 6
    chain = b"".join(
        struct.pack("<HI", 0, base + 6 * (i + 1) if i + 1 < count else 8) for i in range(count)
    )
    return _plain_tiff(following=base) + chain


@bomb
def tiff_whose_directory_leads_to_itself(_size: int) -> bytes:
    return _plain_tiff(following=8)


@bomb
def tiff_of_many_rationals(size: int) -> bytes:
    """An EXIF directory and the resolution are of numbers that each become an object."""
    count = (size // 2 - 6000) // 8
    start = tiff_rest(11)
    numbers = struct.pack("<II", 1, 3) * count
    exif = struct.pack("<HHHIII", 1, 33434, RATIONAL, count, start, 0)
    return _plain_tiff(
        (282, RATIONAL, count, start),
        (34665, LONG, 1, start + len(numbers)),
        rest=numbers + exif,
    )


def oriented(kind: int, count: int) -> bytes:
    """An EXIF block whose orientation is so many numbers."""
    entry = struct.pack("<HHII", ORIENTATION, kind, count, 26)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + struct.pack("<II", 1, 3) * count


@bomb
def png_whose_orientation_is_many_numbers(size: int) -> bytes:
    block = oriented(RATIONAL, (size - 2000) // 8)
    return png(PLAIN, PLAIN, png_chunk(b"eXIf", block), png_pixels())


@bomb
def webp_whose_orientation_is_many_numbers(size: int) -> bytes:
    block = oriented(RATIONAL, (size - 10_000) // 8)
    return webp(webp_canvas(PLAIN, PLAIN, 8), webp_pixels(), riff_chunk(b"EXIF", block))
