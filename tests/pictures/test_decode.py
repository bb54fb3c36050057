"""Whatever a camera, a scanner or an attacker may send."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin

from app.errors import BadInput, FormatNotAllowed, NotAPicture, TooLarge
from app.pictures import decode as uploads
from app.pictures.decode import decode
from app.pictures.formats import FORMATS, jpeg
from tests.support.bombs import (
    BOMBS,
    PLAIN,
    compressed_big_tiff,
    jpeg_segment,
    png_chunk,
    saved,
)
from tests.support.pictures import gradient, in_mode, quarters

MAX_PIXELS = 20_000_000

PNG_MODES = ("1", "L", "P", "RGB", "LA", "RGBA", "I;16")

LOSSLESS = ("PNG", "BMP", "TIFF", "WEBP")


def decoded(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    return decode(data, max_pixels=max_pixels)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_listed_format_is_read(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixels = decoded(saved(Image.fromarray(quarters()), file_format, **options))
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - quarters()).mean() < (1 if file_format in LOSSLESS else 8)


def test_the_format_is_told_by_the_bytes_not_by_a_name_or_type(png: bytes) -> None:
    assert decoded(png).shape == (30, 40, 3)


@pytest.mark.parametrize("mode", PNG_MODES)
def test_png_of_every_mode_becomes_rgb(mode: str) -> None:
    assert_ramp(decoded(saved(in_mode(mode), "PNG")))


@pytest.mark.parametrize("mode", [*PNG_MODES, "RGBX", "CMYK", "YCbCr", "LAB", "I;16B"])
def test_tiff_of_every_mode_becomes_rgb(mode: str) -> None:
    assert_ramp(decoded(saved(in_mode(mode), "TIFF")))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_every_mode_becomes_rgb(mode: str) -> None:
    assert_ramp(decoded(saved(in_mode(mode), "JPEG", quality=95)))


def assert_ramp(pixels: NDArray[np.uint8]) -> None:
    """The picture goes from black to white."""
    assert pixels.shape == (16, 64, 3)
    assert pixels[0, 0].max() < 50
    assert pixels[-1, -1].min() > 200


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = (gradient().astype(np.uint16) * 257).astype(np.uint16)
    pixels = decoded(saved(Image.fromarray(values), "PNG"))
    assert (pixels == gradient()[..., None]).all()


def test_what_is_transparent_lies_over_white() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (255, 0, 0, 128)
    pixels = decoded(saved(Image.fromarray(rgba), "PNG"))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 7].tolist() == [255, 127, 127]


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_lies_over_white(file_format: str) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.paste(0, (0, 0, 4, 8))
    pixels = decoded(saved(image, file_format, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 7].tolist() == [200, 10, 20]


@pytest.mark.parametrize(("mode", "key"), [("1", 0), ("L", 0), ("I;16", 0), ("RGB", (0, 0, 0))])
def test_a_transparent_colour_lies_over_white(mode: str, key: int | tuple[int, ...]) -> None:
    pixels = decoded(saved(in_mode(mode), "PNG", transparency=key))
    assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(quarters())
    if orientation in STORED:
        stored = stored.transpose(STORED[orientation])
    pixels = decoded(saved(stored, file_format, exif=exif.tobytes()))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - quarters()).mean() < 12


def hex_text(exif: Image.Exif) -> bytes:
    """The text that ImageMagick writes."""
    block = exif.tobytes()
    return f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()


def xmp_packet(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'
    ) % orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("way", ["tEXt", "zTXt", "iTXt", "packed iTXt", "old name"])
def test_an_orientation_in_a_text_of_a_png_is_applied(way: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = xmp_packet(orientation)
    chunk = {
        "tEXt": png_chunk(b"tEXt", b"Raw profile type exif\0" + hex_text(exif)),
        "old name": png_chunk(b"tEXt", b"Raw profile type APP1\0" + hex_text(exif)),
        "zTXt": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hex_text(exif))),
        "iTXt": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "packed iTXt": png_chunk(
            b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0name\0" + zlib.compress(xmp)
        ),
    }[way]
    stored = Image.fromarray(quarters())
    if orientation in STORED:
        stored = stored.transpose(STORED[orientation])
    data = saved(stored, "PNG")
    assert (decoded(data[:33] + chunk + data[33:]) == quarters()).all()


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nno digits\n"),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + b"no stream"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(9)),
        png_chunk(b"tEXt", b""),
        png_chunk(b"eXIf", b""),
    ],
)
def test_a_broken_text_of_a_png_does_not_refuse_the_picture(chunk: bytes) -> None:
    data = saved(Image.fromarray(quarters()), "PNG")
    assert (decoded(data[:33] + chunk + data[33:]) == quarters()).all()


def test_the_exif_chunk_of_a_png_goes_before_its_texts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    chunk = png_chunk(b"tEXt", b"Raw profile type exif\0" + hex_text(exif))
    data = saved(Image.fromarray(quarters()), "PNG", exif=Image.Exif().tobytes())
    assert b"eXIf" in data
    assert (decoded(data[:33] + chunk + data[33:]) == quarters()).all()


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_transparent_colour_of_16_bits_is_compared_whole(interlaced: bool) -> None:
    key = (0x1234, 0x5678, 0x9ABC)
    near = (0x1235, 0x5678, 0x9ABC)
    pixels = np.array([[key, near, key, (0, 0, 0)]], ">u2")
    rows = [pixels[0]]
    if interlaced:  # the passes that a picture of four pixels in a row has
        rows = [pixels[0, :1], pixels[0, 2:3], pixels[0, 1::2]]
    header = struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, interlaced)
    data = b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            png_chunk(b"tRNS", struct.pack(">HHH", *key)),
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
            png_chunk(b"IEND"),
        )
    )
    white, seen = [255, 255, 255], [0x12, 0x56, 0x9A]
    assert decoded(data)[0].tolist() == [white, seen, white, [0, 0, 0]]


# What a camera that writes this orientation has done to the upright picture.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_refuse_the_picture() -> None:
    data = saved(Image.fromarray(quarters()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decoded(data).shape == (30, 40, 3)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.fromarray(quarters()), Image.new("RGB", (40, 30), "white")
    for file_format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(first, file_format, save_all=True, append_images=[second])
        assert np.abs(decoded(data).astype(int) - quarters()).mean() < 20, file_format


def test_a_photograph_of_12_megapixels_with_rotation_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(quarters((64, 48))).resize((4000, 3000))
    assert decoded(saved(photo, "JPEG", exif=exif.tobytes())).shape == (4000, 3000, 3)


def test_a_phone_photo_with_a_second_picture_inside_is_a_jpeg() -> None:
    extra = [Image.new("RGB", (20, 20))]
    data = saved(Image.fromarray(quarters()), "MPO", save_all=True, append_images=extra)
    assert decoded(data).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"8BPS\0\1" + bytes(30), "Photoshop"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\1\0\1\0\x10\x10" + bytes(20), "ICO"),
        (b"P6\n2 2\n255\n" + bytes(12), "PNM"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000"),
    ],
)
def test_a_known_format_that_is_not_listed_is_named(data: bytes, name: str) -> None:
    with pytest.raises(FormatNotAllowed, match=rf"{name} files are not accepted; send PNG, JPEG"):
        decoded(data)


@pytest.mark.parametrize(
    "data", [b"", b"hello", bytes(100), b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(NotAPicture) as refusal:
        decoded(data)
    assert refusal.value.field == "image"


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(file_format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), file_format)
    with pytest.raises(NotAPicture):
        decoded(data[: int(len(data) * kept)])


@pytest.mark.parametrize("limit_of_pillow", [None, Image.MAX_IMAGE_PIXELS])
@pytest.mark.parametrize("file_format", FORMATS)
def test_too_many_pixels_are_refused_from_the_header(
    file_format: str, limit_of_pillow: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = BOMBS[f"{file_format.lower()}_of_many_pixels"](0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit_of_pillow)
    monkeypatch.setattr(Image.Image, "load", _never)
    with pytest.raises(TooLarge, match="at most 20,000,000 pixels"):
        decoded(data)


BOMB_BYTES = 2 * 2**20


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_or_costs_no_more_than_its_first_picture(name: str) -> None:
    data = BOMBS[name](BOMB_BYTES)
    assert len(data) <= BOMB_BYTES
    if name in HARMLESS:
        assert decoded(data).shape == (PLAIN, PLAIN, 3)
        return
    with pytest.raises(BadInput) as refusal:
        decoded(data)
    assert isinstance(refusal.value, UNUSUAL.get(name, TooLarge))
    assert refusal.value.field == "image"


HARMLESS = frozenset(
    (
        "gif_of_many_frames",
        "png_of_many_frames",
        "png_that_inflates_past_its_end",
        "png_whose_orientation_is_many_numbers",
        "png_with_an_inflating_profile",
        "png_with_inflating_texts",
        "tiff_of_many_directories",
        "tiff_of_many_rationals",
        "tiff_whose_directory_leads_to_itself",
        "webp_of_many_frames",
        "webp_whose_orientation_is_many_numbers",
    )
)
"""Bombs whose cost would lie in what is left out."""

UNUSUAL = {
    "bmp_of_run_lengths": FormatNotAllowed,
    "bmp_of_run_lengths_beyond_the_row": FormatNotAllowed,
    "png_of_no_pixels": NotAPicture,
    "tiff_of_one_jpeg_of_many_scans": FormatNotAllowed,
    "tiff_of_one_sequential_jpeg_of_many_scans": FormatNotAllowed,
    "webp_whose_picture_is_larger_than_its_canvas": NotAPicture,
}


@pytest.mark.parametrize(
    ("size", "answer"), [((70_000, 1), TooLarge), ((1, 65_536), TooLarge), ((65_535, 1), None)]
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_a_side_may_be_as_long_as_most_formats_allow(
    size: tuple[int, int], answer: type[TooLarge] | None, file_format: str
) -> None:
    data = saved(Image.new("L", size, 200), file_format)
    if answer is None:
        assert decoded(data).shape == (size[1], size[0], 3)
        return
    with pytest.raises(answer, match="no side may be longer than 65,535 pixels"):
        decoded(data)


@pytest.mark.parametrize("size", [(1, 20_000_000), (20_000_000, 1)])
def test_a_thread_of_a_picture_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="no side may be longer"):
        decoded(saved(Image.new("1", size), "TIFF", compression="tiff_adobe_deflate"))


@pytest.mark.parametrize("mode", ["RGB", "I;16", "LAB", "LA", "P"])
@pytest.mark.parametrize("size", [(3, 1100), (1100, 3), (701, 997)])
def test_strips_leave_no_seams(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(in_mode(mode).resize(size, Image.Resampling.NEAREST), "TIFF")
    whole = decoded(data)
    monkeypatch.setattr(uploads, "_STRIP_PIXELS", 1000)
    assert (decoded(data) == whole).all()


COMPRESSIONS = ("raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "jpeg", "packbits")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_compressions_of_tiff_that_many_use_are_read(compression: str) -> None:
    pixels = decoded(saved(Image.fromarray(quarters()), "TIFF", compression=compression))
    assert np.abs(pixels.astype(int) - quarters()).mean() < 8


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_may_lack_its_end_mark(mode: str, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    whole = saved(Image.fromarray(noise).convert(mode), "JPEG", **options)
    assert whole.endswith(b"\xff\xd9")
    assert (decoded(whole[:-2]) == decoded(whole)).all()
    for cut in (20, 30, len(whole) // 4, len(whole) // 2):
        with pytest.raises(NotAPicture, match="damaged or cut off"):
            decoded(whole[:-cut])


@pytest.mark.parametrize("length", [7, 9, 12, 15])
def test_a_jpeg_may_have_a_stunted_jfif_segment(length: int) -> None:
    whole = saved(Image.fromarray(quarters()), "JPEG")
    assert whole[2:4] == b"\xff\xe0"
    rest = whole[4 + int.from_bytes(whole[4:6]) :]
    stunted = whole[:4] + length.to_bytes(2) + whole[6 : 4 + length] + rest
    assert (decoded(stunted) == decoded(whole)).all()


def test_a_big_tiff_is_read() -> None:
    plain = saved(Image.fromarray(gradient()), "TIFF", big_tiff=True)
    for data in (plain, compressed_big_tiff(gradient())):
        assert data.startswith(b"II+")
        assert (decoded(data) == gradient()[..., None]).all()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        *((file_format, {}) for file_format in FORMATS),
        ("JPEG", {"progressive": True}),
        ("WEBP", {"lossless": True}),
        *(("TIFF", {"compression": compression}) for compression in COMPRESSIONS),
    ],
)
def test_a_broken_picture_leaves_nothing_on_standard_error(
    file_format: str, options: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    """The descriptor to which C libraries write on their own, between the lines of the log."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (64, 64, 3), np.uint8)
    good = saved(Image.fromarray(noise), file_format, **options)
    third = len(good) // 3
    for filling in (random.bytes(third), bytes(third), b"\xff" * third):
        with suppress(BadInput):
            decoded(good[:third] + filling + good[2 * third :])
    assert capfd.readouterr().err == ""


def test_metadata_does_not_change_the_picture(png: bytes) -> None:
    plain = decoded(png)
    with Image.open(io.BytesIO(png)) as image:
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Comment", "a comment", zip=True)
        icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        told = {"icc_profile": icc, "xmp": b"<x/>", "dpi": (300, 300)}
        assert (decoded(saved(image, "PNG", pnginfo=texts, **told)) == plain).all()
        assert (decoded(saved(image, "TIFF", **told)) == plain).all()
        webp = {"lossless": True, "exact": True}
        assert (decoded(saved(image, "WEBP", **webp, **told)) == plain).all()
        jpeg = decoded(saved(image, "JPEG"))
        assert (decoded(saved(image, "JPEG", comment="a comment", **told)) == jpeg).all()


def test_the_colours_of_an_adobe_jpeg_are_told_by_its_marker() -> None:
    image = Image.fromarray(quarters()).convert("CMYK")
    pixels = decoded(saved(image, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - quarters()).mean() < 8
    kept = decoded(saved(Image.fromarray(quarters()), "JPEG", quality=95, keep_rgb=True))
    assert np.abs(kept.astype(int) - quarters()).mean() < 8


def test_a_progressive_photograph_with_a_film_behind_it_is_read() -> None:
    film = np.random.default_rng(0).bytes(20_000_000)
    assert film.count(b"\xff\xda") > jpeg.MAX_SCANS
    data = saved(Image.fromarray(quarters()), "JPEG", progressive=True) + film
    assert decoded(data).shape == (30, 40, 3)


def test_a_scan_cannot_hide_in_a_comment() -> None:
    """An end in a comment between the scans is none, nor is a scan in it."""
    data = saved(Image.new("L", (64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    comment = jpeg_segment(0xFE, b"\xff\xd9" + b"\xff\xda" * 100)
    assert decoded(data[:start] + comment + scan + data[-2:]).shape == (64, 64, 3)
    with pytest.raises(TooLarge, match="more than 64 scans"):
        decoded(data[:start] + comment + scan * 64 + data[-2:])


def test_a_directory_over_the_header_of_a_tiff_is_refused() -> None:
    """Cut down, it would say that the directory is elsewhere."""
    data = bytearray(saved(Image.new("L", (8, 8)), "TIFF"))
    data[4:8] = struct.pack("<I", 2)
    with pytest.raises(NotAPicture):
        decoded(bytes(data))


def test_too_little_memory_is_not_the_pictures_fault(
    png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        decoded(png)


def test_a_picture_of_exactly_the_limit_is_accepted(png: bytes) -> None:
    assert decoded(png, max_pixels=40 * 30).shape == (30, 40, 3)
    with pytest.raises(TooLarge, match="The picture is 40×30; at most 1,199 pixels are accepted"):
        decoded(png, max_pixels=40 * 30 - 1)


def _never(*_: object) -> None:
    raise AssertionError("the picture was decoded")


def test_damaged_files_of_every_format_give_a_picture_or_a_refusal_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    for file_format in FORMATS * 30:
        data = bytearray(saved(Image.fromarray(quarters()), file_format))
        for place in random.integers(0, min(len(data), 200), 3):
            data[place] = random.integers(0, 256)
        with suppress(BadInput):
            assert decoded(bytes(data)).shape[2] == 3
