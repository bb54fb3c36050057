"""Forms as clients really send them."""

import gzip
import io
import signal

import httpx
import pytest

from app.settings import Settings
from tests.support.client import Post
from tests.support.fakes import FakeEngine
from tests.support.problems import assert_problem
from tests.support.processes import service_process

MULTIPART = "multipart/form-data; boundary=x"
LIMIT = 300_000


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(max_upload_bytes=LIMIT)


def part(disposition: str, content: bytes) -> bytes:
    return b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (
        disposition.encode(),
        content,
    )


def sent(client: httpx.Client, body: bytes, kind: str = MULTIPART) -> httpx.Response:
    return client.post("/variations", content=body, headers={"content-type": kind})


@pytest.mark.parametrize(
    "disposition", ['name="image"', "name=\"image\"; filename*=UTF-8''photo.png"]
)
@pytest.mark.parametrize("size", [100, 5_000, 200_000])
def test_a_picture_sent_as_text_is_asked_for_as_a_file(
    client: httpx.Client, disposition: str, size: int
) -> None:
    response = sent(client, part(disposition, b"\x89PNG" + bytes(size)) + b"--x--\r\n")
    (error,) = assert_problem(response, 422)["errors"]
    assert error["field"] == "image"
    assert "-F image=@photo.jpg" in error["message"]


@pytest.mark.parametrize("end", [b"", b"--x", b"--x\r\n", b"--x-", b"--y--\r\n"])
@pytest.mark.parametrize("last", ["n", "seed"])
def test_a_form_without_its_end_is_refused_since_a_field_may_be_lost(
    client: httpx.Client, engine: FakeEngine, png: bytes, last: str, end: bytes
) -> None:
    fields = part('name="image"; filename="a"', png) + part(f'name="{last}"', b"2")
    assert sent(client, fields + b"--x--").status_code == 200
    made = len(engine.parameters)
    detail = assert_problem(sent(client, fields + end), 400)["detail"]
    assert "closing boundary is missing" in detail
    assert len(engine.parameters) == made


def test_the_end_of_a_form_may_come_in_pieces_and_have_words_behind_it(
    client: httpx.Client, png: bytes
) -> None:
    whole = part('name="image"; filename="a"', png) + b"--x--\r\nwords\r\n"
    cut = len(whole) - 10
    pieces = iter([whole[:cut], whole[cut : cut + 1], whole[cut + 1 :]])
    response = client.post("/variations", content=pieces, headers={"content-type": MULTIPART})
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br"])
def test_a_compressed_body_is_refused_by_name(
    client: httpx.Client, png: bytes, encoding: str
) -> None:
    body = gzip.compress(part('name="image"; filename="a"', png) + b"--x--")
    headers = {"content-type": MULTIPART, "content-encoding": encoding}
    response = client.post("/variations", content=body, headers=headers)
    assert encoding.lower() in assert_problem(response, 415)["detail"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_missing_boundary_is_explained(client: httpx.Client, png: bytes, kind: str) -> None:
    response = sent(client, part('name="image"; filename="a"', png) + b"--x--", kind)
    assert "let your HTTP client write that header" in assert_problem(response, 400)["detail"]


@pytest.mark.parametrize("query", ["n=3", "seed=1&n=2", "image=http://x/y.png"])
def test_parameters_in_the_address_are_refused_and_not_ignored(
    client: httpx.Client, png: bytes, query: str
) -> None:
    response = client.post(f"/variations?{query}", files={"image": ("a", png)})
    (error,) = assert_problem(response, 422)["errors"]
    assert error["field"] == query.partition("=")[0]
    assert "fields of the form" in error["message"]


FULL_DISK = """
import resource
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
serve(Settings(), FakeEngine(), FakeDecoders())
"""

NO_FOLDER = """
import tempfile
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine

tempfile.tempdir = "/nowhere"
serve(Settings(), FakeEngine(), FakeDecoders())
"""


@pytest.mark.parametrize("code", [FULL_DISK, NO_FOLDER])
def test_a_full_disk_is_the_services_fault_and_named_in_its_log(code: str, png: bytes) -> None:
    large = {"image": ("a.png", png + bytes(2_000_000))}
    with service_process(code) as service:
        service.wait_for("ready:")
        response = httpx.post(f"{service.url}/variations", files=large, timeout=60)
        assert "no room for the upload" in assert_problem(response, 503)["detail"]
        assert response.headers["retry-after"]
        small = httpx.post(f"{service.url}/variations", files={"image": ("a.png", png)}, timeout=60)
        assert small.status_code == 200
        service.signal(signal.SIGTERM)
        service.wait()
        assert "An upload could not be kept below" in service.log()


def test_base64_in_place_of_the_file_is_told_so(post: Post, client: httpx.Client) -> None:
    for text in (b"data:image/png;base64,iVBORw0KGgo=", b"iVBORw0KGgoAAAANSUhEUg", b"/9j/4AAQSk"):
        response = client.post("/variations", files={"image": ("a.png", io.BytesIO(text))})
        assert "base64" in assert_problem(response, 400)["detail"]
    assert post().status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "understood"),
    [
        ("output_format", "jpg", "jpeg"),
        ("output_format", "PNG", "png"),
        ("output_format", " WebP ", "webp"),
        ("scheduler", "Euler", "euler"),
        ("scheduler", "DPMSolver++", "dpmsolver++"),
        ("fit", "CROP", "crop"),
    ],
)
def test_names_are_understood_in_any_case(
    post: Post, field: str, value: str, understood: str
) -> None:
    response = post(**{field: value})
    assert response.status_code == 200
    assert response.json()["parameters"][field] == understood
