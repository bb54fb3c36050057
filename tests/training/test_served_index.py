"""The service with an index of training pictures: a near-copy is marked in every way of asking."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from app.parameters import Condition, ModelConfig
from app.pictures import Picture
from app.pictures.decode import decode
from app.pipeline import Pipeline
from tests.support.events import all_events
from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import value
from tests.support.sdk import SyncSdk

pytestmark = [
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
    pytest.mark.timeout(300),  # two models are loaded before the first test
]

STEPS, SEED = 6, 3
WISH: dict[str, Any] = {"n": 2, "seed": SEED, "num_inference_steps": STEPS}
NAME = "memorised ü.jpg"


@pytest.fixture(scope="module")
def image(drawings: list[Picture]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(drawings[0]).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, drawings: list[Picture], image: bytes) -> Path:
    """Of drawings, and of what the model makes from :data:`SEED`, as a poor JPEG."""
    data, out = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("index")
    pipeline = Pipeline.load(ModelConfig("demo", device="cpu"))
    parameters = pipeline.model.defaults(seed=SEED, num_inference_steps=STEPS)
    pixels = pipeline.preprocessing(decode(image, max_pixels=10**6), parameters.fit)
    condition = Condition.guided(pixels, parameters.guidance_scale)
    [made] = pipeline.generate(condition, parameters)
    assert made.picture is not None
    Image.fromarray(made.picture).save(data / NAME, quality=40)
    for i, drawing in enumerate(drawings):
        Image.fromarray(drawing).save(data / f"{i}.png")

    arguments = ["--data", str(data), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, ["train", "index", *arguments])

    assert result.exit_code == 0, result.output
    told = {"descriptor": "outline (ours)", "threshold": 0.9, "pictures": 13, "unreadable": 0}
    assert json.loads(result.stdout) == told
    return out


@pytest.fixture(scope="module")
def running(index: Path) -> Iterator[ServiceProcess]:
    with service_process(
        device="cpu", max_rows="4", training_index=str(index), training_names="true"
    ) as service:
        service.wait_for("ready:")
        yield service


@pytest.fixture
def client(running: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, image: bytes, accept: str, **fields: object) -> httpx.Response:
    data = {name: str(one) for name, one in fields.items()}
    answer = client.post(
        "/variations", files={"image": image}, data=data, headers={"accept": accept}
    )
    assert answer.status_code == 200, answer.text
    return answer


def assert_marked(first: dict[str, Any] | None, second: dict[str, Any] | None) -> None:
    """The first picture is known from training, the second is not."""
    assert first
    assert (first["of"], first["threshold"]) == (NAME, 0.9)
    assert 0.9 <= first["score"] <= 1
    assert second is None


def test_the_json_answer_marks_a_near_copy_and_it_is_counted(
    client: httpx.Client, image: bytes
) -> None:
    before = value(client, "variations_near_duplicates_total")

    answer = post(client, image, "application/json", **WISH).json()

    assert_marked(*(one["near_duplicate"] for one in answer["variations"]))
    assert value(client, "variations_near_duplicates_total") == before + 1
    assert client.get("/").json()["model"]["near_duplicate_threshold"] == 0.9


def test_an_event_an_archive_and_a_picture_by_itself_tell_the_same(
    client: httpx.Client, image: bytes
) -> None:
    told = [data for name, data in all_events(client, image, **WISH) if name == "picture"]
    told.sort(key=lambda data: int(data["index"]))
    assert_marked(*(data["near_duplicate"] for data in told))

    with ZipFile(io.BytesIO(post(client, image, "application/zip", **WISH).content)) as archive:
        described = json.loads(archive.read("parameters.json"))
    assert_marked(*(one["near_duplicate"] for one in described["variations"]))

    alone = post(client, image, "image/png", **(WISH | {"n": 1}))
    score, *known = alone.headers["x-near-duplicate"].split(";")
    assert 0.9 <= float(score) <= 1
    assert known == ["threshold=0.900", 'of="memorised%20%C3%BC.jpg"']
    with Image.open(io.BytesIO(alone.content)) as shown:
        assert np.asarray(shown).shape == (96, 96, 3)
    other = post(client, image, "image/png", **(WISH | {"n": 1, "seed": SEED + 1}))
    assert "x-near-duplicate" not in other.headers


def test_openais_sdk_finds_the_mark_too(running: ServiceProcess, image: bytes) -> None:
    asked: dict[str, Any] = {"seed": SEED, "num_inference_steps": STEPS}
    sdk = SyncSdk(running.url)

    whole = sdk.variation(image, n=2, response_format="b64_json", extra_body=asked)
    streamed = [event.model_dump() for event in sdk.stream(image, n=2, **asked)]
    streamed.sort(key=lambda event: int(event["index"]))

    assert whole.data
    marks = [one.model_dump().get("near_duplicate") for one in whole.data]
    assert_marked(marks[0], marks[1])
    assert_marked(*(event.get("near_duplicate") for event in streamed))
