"""What files say of how their pictures were made."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.errors import NotRepeatable
from app.pictures.encode import OutputFormat, encode
from app.pictures.provenance import SOURCE_TYPE, XMP_KEYWORD, Origin, read_origin
from tests.support.pictures import quarters
from tests.support.requests import MODEL, SHORT_REQUEST

EMBEDDING = np.random.default_rng(1).normal(size=768).astype(np.float32)
ORIGIN = Origin.of(MODEL, replace(SHORT_REQUEST, n=4), 2, (EMBEDDING, -EMBEDDING), bucket=8)


def written(
    folder: Path, output_format: OutputFormat = OutputFormat.PNG, origin: Origin | None = ORIGIN
) -> Path:
    path = folder / f"picture.{output_format}"
    path.write_bytes(encode(quarters(), output_format, origin))
    return path


def with_xmp(folder: Path, xmp: bytes) -> Path:
    path = folder / "other.jpg"
    Image.fromarray(quarters()).save(path, xmp=xmp)
    return path


def described(path: Path) -> dict[str, Any]:
    """The XMP properties of a file as Pillow reads them."""
    with Image.open(path) as image:
        properties: dict[str, Any] = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    return properties


def test_an_origin_is_that_of_one_picture_made_alone() -> None:
    assert ORIGIN.parameters == replace(SHORT_REQUEST, n=1, seed=SHORT_REQUEST.seed + 2)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_every_format_says_that_a_model_made_it_and_which(
    tmp_path: Path, output_format: OutputFormat
) -> None:
    properties = described(written(tmp_path, output_format))
    assert properties["DigitalSourceType"] == SOURCE_TYPE
    assert properties["AISystemUsed"] == "fake"
    assert properties["AISystemVersionUsed"] == "v1"
    assert properties["CreatorTool"].startswith("variations ")


@pytest.mark.parametrize("output_format", OutputFormat)
def test_an_origin_is_read_back_to_the_bit(tmp_path: Path, output_format: OutputFormat) -> None:
    read = read_origin(written(tmp_path, output_format))
    assert replace(read, embeddings=()) == replace(ORIGIN, embeddings=())
    for embedding, expected in zip(read.embeddings, ORIGIN.embeddings, strict=True):
        np.testing.assert_array_equal(embedding, expected)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_the_same_picture_and_origin_make_the_same_bytes(output_format: OutputFormat) -> None:
    again = replace(ORIGIN, embeddings=tuple(each.copy() for each in ORIGIN.embeddings))
    assert encode(quarters(), output_format, ORIGIN) == encode(quarters(), output_format, again)


@pytest.mark.parametrize("output_format", OutputFormat)
def test_an_origin_changes_no_pixel(tmp_path: Path, output_format: OutputFormat) -> None:
    with Image.open(written(tmp_path, output_format)) as image:
        told = np.asarray(image)
    with Image.open(written(tmp_path, output_format, None)) as image:
        assert "xmp" not in image.info
        np.testing.assert_array_equal(told, np.asarray(image))


def test_png_tells_people_in_its_text_too(tmp_path: Path) -> None:
    with Image.open(written(tmp_path)) as image:
        assert image.text["Software"].startswith("variations ")  # type: ignore[attr-defined]
        assert image.text["parameters"] == ORIGIN.to_json()  # type: ignore[attr-defined]
    assert '"seed":9' in ORIGIN.to_json()


def test_several_pictures_and_a_negative_one_are_looked_at_again(tmp_path: Path) -> None:
    mixed = replace(SHORT_REQUEST, weight=(0.25, 0.75), negative_image=True)
    seen = EMBEDDING, 2 * EMBEDDING, 3 * EMBEDDING
    read = read_origin(written(tmp_path, origin=Origin.of(MODEL, mixed, 0, seen)))
    assert read.parameters == mixed
    looks, against = read.condition().rows
    assert [weight for _, weight in looks.pictures] == [0.25, 0.75]
    told = [picture for row in (looks, against) for picture, _ in row.pictures]
    for picture, expected in zip(told, seen, strict=True):
        np.testing.assert_array_equal(picture, expected)


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    odd = replace(ORIGIN, model='a<b> "é"\x01\udcff')
    assert described(written(tmp_path, origin=odd))["AISystemUsed"] == 'a<b> "é"??'
    assert read_origin(written(tmp_path, origin=odd)).model == 'a<b> "é"??'


def test_what_another_program_has_written_anew_is_found(tmp_path: Path) -> None:
    """As elements, in several descriptions, and with another prefix."""
    json = ORIGIN.to_json().replace("<", "&lt;")
    xmp = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
    <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
    <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="x"/>
    <rdf:Description rdf:about="" xmlns:ns1="urn:x-variations:provenance#">
    <ns1:Parameters>{json}</ns1:Parameters></rdf:Description></rdf:RDF></x:xmpmeta>"""
    read = read_origin(with_xmp(tmp_path, xmp.encode()))
    assert read == replace(ORIGIN, embeddings=())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda xmp: b"<x", "no PNG, JPEG or WebP file, or a damaged one"),
        (lambda xmp: b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", "damaged"),
        (lambda xmp: b"<x/>", "does not say how its picture was made"),
        (lambda xmp: xmp.replace(b'"version":1', b'"version":2'), "its version is 2, not 1"),
        (lambda xmp: xmp.replace(b'"seed":9', b'"seed":"a"'), "parameters: seed: Input should be"),
        (lambda xmp: xmp.replace(b'"seed"', b'"sneed":1,"seed"'), "nothing is known of sneed"),
        (lambda xmp: xmp.replace(b'"version":1', b""), "Invalid JSON"),
        (lambda xmp: xmp.replace(b'Embeddings="', b'Embeddings="AADAfw== '), "is not finite"),
        (lambda xmp: xmp.replace(b'Embeddings="', b'Embeddings="%% '), "base64"),
    ],
)
def test_what_cannot_be_read_back_is_named(tmp_path: Path, change: Any, says: str) -> None:
    path = with_xmp(tmp_path, change(ORIGIN.to_xmp()))
    with pytest.raises(NotRepeatable, match=says) as raised:
        read_origin(path)
    assert raised.value.message.startswith("other.jpg ")


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no picture")
    with pytest.raises(NotRepeatable, match=r"notes\.txt is no PNG, JPEG or WebP file"):
        read_origin(path)


def test_a_picture_of_elsewhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotRepeatable, match="does not say how its picture was made"):
        read_origin(written(tmp_path, origin=None))


def test_compressed_text_of_a_png_is_read_too(tmp_path: Path) -> None:
    """As programs write it that save a PNG anew."""
    text, path = PngInfo(), tmp_path / "anew.png"
    text.add_itxt(XMP_KEYWORD, ORIGIN.to_xmp().decode(), zip=True)
    Image.fromarray(quarters()).save(path, pnginfo=text)
    assert read_origin(path).parameters == ORIGIN.parameters


def test_what_starts_from_the_picture_itself_cannot_be_repeated() -> None:
    origin = replace(ORIGIN, parameters=replace(ORIGIN.parameters, strength=0.5))
    with pytest.raises(NotRepeatable, match="not in the file: post that picture again"):
        origin.condition()
