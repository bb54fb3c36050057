"""Every file that leaves over HTTP says how it was made, whatever form the answer has."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image

from app.api.application import create_app
from app.pictures.encode import OutputFormat
from app.pictures.provenance import SOURCE_TYPE, Provenance, read_origin
from app.settings import Settings
from tests.support.events import streaming
from tests.support.fakes import FakeDecoders, FakeEngine
from tests.support.manifests import read_manifest, trial_certificates
from tests.support.requests import SHORT_REQUEST
from tests.support.serving import serving

Files = Callable[[httpx.Client, bytes, OutputFormat], list[bytes]]
"""Posts a picture, asking for files of a format; gives all that come."""


def _post(
    client: httpx.Client, path: str, png: bytes, headers: dict[str, str], **fields: object
) -> httpx.Response:
    data = {name: str(value) for name, value in fields.items()}
    response = client.post(path, files={"image": ("a.png", png)}, data=data, headers=headers)
    assert response.status_code == 200, response.text
    return response


def _json(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    answer = _post(client, "/variations", png, {}, n=2, seed=7, output_format=kind).json()
    return [base64.b64decode(one["b64_json"]) for one in answer["variations"]]


def _archive(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    accept = {"accept": "application/zip"}
    response = _post(client, "/variations", png, accept, n=2, seed=7, output_format=kind)
    with ZipFile(io.BytesIO(response.content)) as files:
        return [files.read(f"variation-{seed}.{kind}") for seed in (7, 8)]


def _picture(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    return [_post(client, "/variations", png, {"accept": kind.media_type}, seed=7).content]


def _events(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    with streaming(client, png, n=2, seed=7, output_format=kind) as told:
        return [base64.b64decode(data["b64_json"]) for name, data in told if name == "picture"]


def _openai(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    fields = {"n": 2, "seed": 7, "output_format": kind, "response_format": "b64_json"}
    answer = _post(client, "/v1/images/variations", png, {}, **fields).json()
    return [base64.b64decode(one["b64_json"]) for one in answer["data"]]


def _openai_urls(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    fields = {"n": 2, "seed": 7, "output_format": kind}
    answer = _post(client, "/v1/images/variations", png, {}, **fields).json()
    return [client.get(one["url"]).content for one in answer["data"]]


def _openai_events(client: httpx.Client, png: bytes, kind: OutputFormat) -> list[bytes]:
    fields = {"n": 2, "seed": 7, "output_format": kind, "stream": "true"}
    with streaming(client, png, "/v1/images/variations", **fields) as told:
        return [base64.b64decode(data["b64_json"]) for _, data in told]


FORMS = (_json, _archive, _picture, _events, _openai, _openai_urls, _openai_events)


@pytest.mark.parametrize("kind", OutputFormat)
@pytest.mark.parametrize("files", FORMS)
def test_every_form_of_answer_tells_the_origin_of_each_picture(
    client: httpx.Client, png: bytes, tmp_path: Path, files: Files, kind: OutputFormat
) -> None:
    sent = files(client, png, kind)
    assert sent
    for index, file in enumerate(sent):
        path = tmp_path / str(index)
        path.write_bytes(file)
        origin = read_origin(path)
        assert origin.parameters == replace(SHORT_REQUEST, seed=7 + index)
        assert (origin.model, origin.revision, origin.bucket) == ("fake", "v1", None)
        [embedding] = origin.embeddings
        np.testing.assert_array_equal(embedding, np.arange(24, dtype=np.float32))


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service that signs."""
    certificate, key, _ = trial_certificates(tmp_path_factory.mktemp("c2pa"))
    settings = Settings(c2pa_certificate=certificate, c2pa_key=key)
    app = create_app(settings, FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("files", FORMS)
def test_every_form_of_answer_is_signed_by_whoever_has_a_certificate(
    signing: httpx.Client, png: bytes, tmp_path: Path, files: Files
) -> None:
    for kind in OutputFormat:
        for file in files(signing, png, kind):
            assert read_manifest(file, kind) == ("Valid", "c2pa.created", SOURCE_TYPE)
            (tmp_path / "signed").write_bytes(file)
            assert read_origin(tmp_path / "signed").embeddings


def _served_with(settings: Settings, png: bytes) -> bytes:
    app = create_app(settings, FakeEngine(), FakeDecoders())
    with serving(app) as url, httpx.Client(base_url=url) as client:
        [file] = _picture(client, png, OutputFormat.PNG)
    return file


def test_the_embedding_is_left_out_where_that_is_set(png: bytes, tmp_path: Path) -> None:
    path = tmp_path / "minimal.png"
    settings = Settings(provenance=Provenance.MINIMAL, fixed_bucket=True)
    path.write_bytes(_served_with(settings, png))
    origin = read_origin(path)
    assert (origin.parameters.width, origin.bucket, origin.embeddings) == (64, 8, ())
    assert b"Embeddings" not in path.read_bytes()


def test_nothing_is_said_where_that_is_set(png: bytes) -> None:
    file = _served_with(Settings(provenance=Provenance.OFF), png)
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        assert image.info == {}
