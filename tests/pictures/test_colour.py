"""Colours: what a profile says of a picture's own is what comes out in sRGB."""

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from app.pictures import colour
from app.pictures.decode import decode
from tests.support.bombs import saved
from tests.support.pictures import in_mode
from tests.support.profiles import PROFILES, gamma, profile, rgb_profile, srgb_profile

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")

OPTIONS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}

CASES = [
    (name, file_format)
    for name, (mode, _) in PROFILES.items()
    for file_format in FORMATS
    if mode != "CMYK" or file_format in ("JPEG", "TIFF")
]


def colours(mode: str) -> Image.Image:
    """Every hue from dark to bright, or every mixture of inks, in patches of 8 × 8."""
    if mode == "L":
        values: NDArray[np.uint8] = np.arange(256, dtype=np.uint8).reshape(16, 16)
    else:
        bands = len(mode)
        levels = np.linspace(0, 255, 6 if bands == 3 else 4).astype(np.uint8)
        grid = np.stack(np.meshgrid(*[levels] * bands), axis=-1).reshape(-1, bands)
        values = np.resize(grid, (16, 16, bands))
    return Image.fromarray(values.repeat(8, axis=0).repeat(8, axis=1), mode=mode)


def by_littlecms(data: bytes, icc: bytes, mode: str) -> NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as image:
        converted = ImageCms.profileToProfile(
            image.convert(mode),
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    return np.asarray(converted, np.int16)


def decoded(data: bytes) -> NDArray[np.int16]:
    return decode(data, max_pixels=1_000_000).astype(np.int16)


@pytest.mark.parametrize(("name", "file_format"), CASES)
def test_a_picture_with_a_profile_is_converted_to_srgb(name: str, file_format: str) -> None:
    mode, write = PROFILES[name]
    image, options = colours(mode), OPTIONS[file_format]
    data = saved(image, file_format, icc_profile=write(), **options)
    given, expected = decoded(data), by_littlecms(data, write(), mode)
    assert np.abs(given - expected).mean() <= 0.5
    without = decoded(saved(image, file_format, **options))
    assert np.abs(given - without).mean() > 3


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparency_is_laid_over_white_in_srgb(mode: str) -> None:
    name = "linear grey" if mode == "LA" else "Display P3"
    icc = PROFILES[name][1]()
    image = colours("L" if mode == "LA" else "RGB").convert(mode)
    half = Image.new("L", image.size, 128)
    if mode == "P":
        image.info["transparency"] = 0
    else:
        image.putalpha(half)
    data = saved(image, "PNG", icc_profile=icc)
    with Image.open(io.BytesIO(data)) as again:
        rgba = again.convert("RGBA")
    opaque = saved(rgba.convert("RGB"), "PNG", icc_profile=icc)
    grey = saved(rgba.convert("L"), "PNG", icc_profile=icc)
    expected = by_littlecms(*((grey, icc, "L") if mode == "LA" else (opaque, icc, "RGB")))
    alpha = np.asarray(rgba.getchannel("A"), np.float64)[..., None] / 255
    over_white = expected * alpha + 255 * (1 - alpha)
    assert np.abs(decoded(data) - over_white).max() <= 2


def test_16_bit_grey_has_its_profile_too() -> None:
    icc = PROFILES["linear grey"][1]()
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    data = saved(Image.fromarray(deep), "PNG", icc_profile=icc)
    plain = saved(Image.fromarray((deep // 257).astype(np.uint8)), "PNG", icc_profile=icc)
    assert (decoded(data) == decoded(plain)).all()


def test_a_grey_picture_may_have_a_profile_of_rgb() -> None:
    icc = PROFILES["ProPhoto"][1]()
    data = saved(colours("L"), "PNG", icc_profile=icc)
    assert np.abs(decoded(data) - by_littlecms(data, icc, "RGB")).max() <= 1


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_profile_of_srgb_changes_no_byte(file_format: str) -> None:
    image, options = colours("RGB"), OPTIONS[file_format]
    data = saved(image, file_format, icc_profile=srgb_profile(), **options)
    assert (decoded(data) == decoded(saved(image, file_format, **options))).all()


def test_a_jpegs_profile_may_come_in_parts_and_in_any_order() -> None:
    icc = PROFILES["ProPhoto"][1]() + bytes(70_000)
    icc = struct.pack(">I", len(icc)) + icc[4:]
    data = saved(colours("RGB"), "JPEG", icc_profile=icc, **OPTIONS["JPEG"])
    first = data.index(b"\xff\xe2")
    length = 2 + int.from_bytes(data[first + 2 : first + 4])
    second = first + length
    assert data[second : second + 2] == b"\xff\xe2"
    end = second + 2 + int.from_bytes(data[second + 2 : second + 4])
    turned = data[:first] + data[second:end] + data[first:second] + data[end:]
    assert (decoded(turned) == decoded(data)).all()
    plain = saved(colours("RGB"), "JPEG", **OPTIONS["JPEG"])
    assert np.abs(decoded(turned) - decoded(plain)).mean() > 3


P3 = PROFILES["Display P3"][1]()

BROKEN = {
    "empty": b"\0",
    "noise": np.random.default_rng(0).bytes(3000),
    "cut off": P3[:200],
    "of no class": P3[:12] + b"link" + P3[16:],
    "of another space": P3[:16] + b"CMYK" + P3[20:],
    "without tags": profile(b"RGB ", {}),
    "with offsets far away": P3[:148] + b"\xff\xff\xff\x00" + P3[152:],
    "of a million tags": P3[:128] + struct.pack(">I", 1_000_000) + P3[132:],
    "with programs": profile(
        b"RGB ", {b"D2B0": b"mpet" + bytes(8) + struct.pack(">2H", 3, 3) + bytes(100)}
    ),
    "without a curve": rgb_profile(
        ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), (0.3127, 0.3290), b"curv" + b"\xff" * 12
    ),
    "too large": P3 + bytes(colour.MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_is_broken_is_as_none(name: str, file_format: str) -> None:
    image, options = colours("RGB"), OPTIONS[file_format]
    data = saved(image, file_format, icc_profile=BROKEN[name], **options)
    assert (decoded(data) == decoded(saved(image, file_format, **options))).all()


def test_a_profile_that_unpacks_to_gigabytes_is_as_none() -> None:
    """PNG packs its profile."""
    bomb = P3 + bytes(100 * 2**20)
    data = saved(colours("RGB"), "PNG", icc_profile=bomb)
    assert (decoded(data) == decoded(saved(colours("RGB"), "PNG"))).all()


def test_lab_has_its_own_way() -> None:
    data = saved(in_mode("LAB"), "TIFF", icc_profile=P3)
    assert (decoded(data) == decoded(saved(in_mode("LAB"), "TIFF"))).all()


def test_gamma_is_written_as_it_is_read() -> None:
    """The generator's curve, against littlecms."""
    icc = PROFILES["grey of gamma 1.8"][1]()
    assert gamma(1.8) in icc
    middle = saved(Image.new("L", (8, 8), 128), "PNG", icc_profile=icc)
    linear = (128 / 255) ** 1.8
    encoded = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(decoded(middle) - encoded).max() <= 1.5
