"""The whole service as it is run: one process for HTTP, one for the model, real requests."""

import base64
import io
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.checkpoints import configure, make_checkpoint
from tests.support.client import Post
from tests.support.events import all_events
from tests.support.pictures import quarters
from tests.support.problems import assert_problem
from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import eventually, value
from tests.support.sdk import SDKS, Sdk
from tests.support.sockets import RESET_ON_CLOSE, send_request


@pytest.fixture
def url(running: ServiceProcess) -> str:
    return running.url


def pictures(response: httpx.Response) -> list[NDArray[np.uint8]]:
    assert response.status_code == 200, response.text
    return [picture(one["b64_json"]) for one in response.json()["variations"]]


def picture(text: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def assert_same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """Equal up to rounding: within 1/255 for 99.9 % of values."""
    difference = np.abs(one.astype(int) - other)
    assert (difference <= 1).mean() >= 0.999


def test_it_says_where_it_listens_and_when_it_is_ready(running: ServiceProcess) -> None:
    first, *_, last = running.lines
    assert first.startswith("variations: listening on http://127.0.0.1:")
    assert last.startswith("variations: ready: ")
    assert last.endswith(" on cpu float32, 64x64, at most 16 rows a step")


def test_a_picture_becomes_different_variations_of_the_asked_size(post: Post) -> None:
    first, second = pictures(post(n=2, num_inference_steps=4, seed=3))
    assert first.shape == second.shape == (64, 64, 3)
    assert np.abs(first.astype(int) - second).mean() > 1


def test_a_photograph_of_12_megapixels_goes_the_whole_way(post: Post) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(quarters((64, 48))).resize((4000, 3000))
    photo.save(file, format="JPEG", exif=exif.tobytes())
    response = post(file.getvalue(), n=4, num_inference_steps=2, output_format="jpeg")
    assert len(pictures(response)) == 4


def test_picture_i_of_n_is_the_picture_of_seed_plus_i(post: Post) -> None:
    together = pictures(post(n=3, seed=7, num_inference_steps=4))
    for index, one in enumerate(together):
        (alone,) = pictures(post(n=1, seed=7 + index, num_inference_steps=4))
        assert_same(one, alone)


def test_single_steps_hold_rows_of_requests_with_different_solvers_and_step_counts(
    client: httpx.Client, url: str, png: bytes
) -> None:
    wishes = [
        {"scheduler": scheduler, "num_inference_steps": steps, "n": n, "guidance_scale": scale}
        for scheduler, steps, n, scale in (
            ("pndm", "24", "2", "3"),
            ("ddim", "28", "1", "1"),
            ("euler", "32", "1", "7.5"),
            ("heun", "15", "1", "3"),
            ("dpmsolver++", "30", "2", "1"),
            ("unipc", "26", "1", "5"),
        )
    ]

    def steps_over(name: str, bound: str) -> float:
        """The number of steps that held more than ``bound`` of these."""
        name = f"variations_step_{name}"
        total = value(client, f"{name}_count")
        return total - value(client, f"{name}_bucket", {"le": bound})

    def post_one(wish: dict[str, str]) -> httpx.Response:
        with httpx.Client(base_url=url, timeout=60) as own:
            return own.post("/variations", files={"image": ("a.png", png)}, data=wish)

    before = [steps_over("requests", "2.0"), steps_over("schedules", "2.0")]
    ok = value(client, "variations_pictures_total", {"outcome": "ok"})
    with ThreadPoolExecutor(len(wishes)) as callers:
        for response in callers.map(post_one, wishes):
            assert response.status_code == 200, response.text
    after = [steps_over("requests", "2.0"), steps_over("schedules", "2.0")]
    assert after[0] > before[0]
    assert after[1] > before[1]
    assert value(client, "variations_pictures_total", {"outcome": "ok"}) == ok + 8
    assert value(client, "variations_queue_requests") == 0


@pytest.mark.parametrize("way", ["closed", "reset"])
def test_a_client_that_leaves_cancels_its_pictures(
    client: httpx.Client, post: Post, png: bytes, url: str, way: str
) -> None:
    def cancelled() -> float:
        return value(client, "variations_pictures_total", {"outcome": "cancelled"})

    before = cancelled()
    connection = send_request(url, png, num_inference_steps="100", n="8")
    eventually(lambda: value(client, "variations_queue_requests") == 1)
    if way == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    connection.close()
    eventually(lambda: cancelled() == before + 8)
    assert value(client, "variations_queue_requests") == 0
    assert post(num_inference_steps=1).status_code == 200


def test_a_stream_of_events_brings_the_same_pictures(
    client: httpx.Client, post: Post, png: bytes
) -> None:
    wish = {"n": 2, "num_inference_steps": 8, "seed": 3}
    (first, queued), *between, (last, done) = all_events(client, png, **wish)
    assert (first, last) == ("queued", "done")
    assert queued["start_in"] >= 0
    steps = [data["done"] for name, data in between if name == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == [9, 9]
    streamed = {data["index"]: data for name, data in between if name == "picture"}
    for one, other in zip(pictures(post(**wish)), (streamed[0], streamed[1]), strict=True):
        assert_same(one, picture(other["b64_json"]))
    assert done["parameters"]["seed"] == 3


LONG_WISH: dict[str, Any] = {"scheduler": "heun", "num_inference_steps": 100, "seed": 3}


def test_a_picture_is_shown_while_it_is_made(client: httpx.Client, png: bytes) -> None:
    told = all_events(client, png, **LONG_WISH, previews="true")
    shown = [data for name, data in told if name == "preview"]
    assert shown
    assert {picture(one["b64_json"]).shape for one in shown} == {(32, 32, 3)}


@pytest.mark.parametrize("make", SDKS.values(), ids=SDKS)
def test_openais_sdk_streams_the_same_picture(
    post: Post, url: str, png: bytes, make: Callable[[str], Sdk]
) -> None:
    *_, last = make(url).stream(png, partial_images=3, **LONG_WISH)
    assert last.type == "image_edit.completed"
    [alone] = pictures(post(**LONG_WISH))
    assert_same(picture(last.b64_json), alone)


def test_ctrl_c_while_it_starts_ends_it_cleanly(tiny_checkpoint: Path) -> None:
    with service_process(model=str(tiny_checkpoint), device="cpu") as service:
        service.wait_for("listening")
        service.signal(signal.SIGINT)
        service.assert_clean_end()


def test_when_the_worker_dies_its_callers_only_wait_longer(
    client: httpx.Client, post: Post, png: bytes, running: ServiceProcess
) -> None:
    wish = {"num_inference_steps": 60, "n": 4, "seed": 5}
    before = pictures(post(**wish))
    with ThreadPoolExecutor(2) as caller:
        answer = caller.submit(post, **wish)
        stream = caller.submit(all_events, client, png, **wish)
        eventually(lambda: value(client, "variations_queue_requests") == 2)
        assert running.worker_pid
        os.kill(running.worker_pid, signal.SIGKILL)
        eventually(lambda: value(client, "variations_worker_up") == 0)
        readiness = client.get("/readyz")
        assert readiness.status_code == 503
        assert "SIGKILL" in readiness.json()["reason"] or "ended" in readiness.json()["reason"]
        assert client.get("/healthz").status_code == 200
        for one, other in zip(pictures(answer.result()), before, strict=True):
            assert_same(one, other)
        names = [name for name, _ in stream.result()]
        assert (names.count("restarted"), names.count("picture"), names[-1]) == (1, 4, "done")
    cause = {"cause": "signal"}
    assert value(client, "variations_worker_restarts_total", cause) == 1
    assert value(client, "variations_replayed_requests_total") == 2
    eventually(lambda: client.get("/readyz").status_code == 200)


def test_a_deadline_that_an_idle_service_could_not_meet_is_refused_before_anything_is_made(
    client: httpx.Client, png: bytes
) -> None:
    counted = {"reason": "own_deadline"}
    before = value(client, "variations_refusals_total", counted)
    for seconds in ("0.0001", "0.002"):
        response = client.post(
            "/variations",
            files={"image": ("a.png", png)},
            headers={"x-request-timeout": seconds},
        )
        assert "the least that can be asked for" in assert_problem(response, 503)["detail"]
        assert response.headers["x-should-retry"] == "false"
    assert value(client, "variations_refusals_total", counted) == before + 2


def test_a_refused_deadline_tells_when_to_come_back(
    client: httpx.Client, post: Post, png: bytes
) -> None:
    """It is refused for what is before it; a shorter one would overtake that."""
    asked = {"num_inference_steps": 12, "n": 8, "scheduler": "heun"}
    alone = post(**asked).json()["timings"]["total"]
    with ThreadPoolExecutor(8) as callers:
        before = [callers.submit(post, **asked) for _ in range(8)]
        eventually(lambda: value(client, "variations_queue_requests") == 8)
        assert value(client, "variations_predicted_wait_seconds") >= 0
        refused = client.post(
            "/variations",
            files={"image": ("a.png", png)},
            data={name: str(given) for name, given in asked.items()},
            headers={"x-request-timeout": str(1.2 * alone)},
        )
        body = assert_problem(refused, 503)
        assert body["type"] == "urn:variations:deadline-out-of-reach"
        assert body["retry_after"] > 0
        assert {one.result().status_code for one in before} == {200}
    reason = {"reason": "deadline"}
    assert value(client, "variations_refusals_total", reason) == 1


def test_an_answer_tells_what_was_predicted_for_it(post: Post) -> None:
    timings = post(num_inference_steps=30, n=2).json()["timings"]
    assert 0 < timings["predicted"] < 10 * timings["total"]


def test_a_checkpoint_with_a_scheduler_that_there_is_no_table_of_serves_by_default(
    tmp_path: Path, png: bytes
) -> None:
    folder = make_checkpoint(tmp_path / "ancestral")
    configure(
        folder,
        "scheduler",
        _class_name="EulerAncestralDiscreteScheduler",
        skip_prk_steps=None,
        num_train_timesteps=60,
    )
    with service_process(model=str(folder), device="cpu", dtype="float32", max_rows="4") as service:
        service.wait_for("ready:")

        def post(**fields: str) -> httpx.Response:
            url = f"{service.url}/variations"
            return httpx.post(url, files={"image": ("a.png", png)}, data=fields, timeout=60)

        model = httpx.get(service.url).json()["model"]
        offered = ["ddim", "euler", "lms", "heun", "kdpm2", "deis", "dpmsolver++"]
        assert model["scheduler"] == "ddim"
        assert model["schedulers"] == [*offered, "dpmsolver++_karras", "unipc"]
        assert post().json()["parameters"]["scheduler"] == "ddim"
        assert post(scheduler="dpmsolver++_karras", num_inference_steps="100").status_code == 200
        for fields, wrong, says in (
            ({"scheduler": "pndm"}, "scheduler", "can be ddim, euler, lms"),
            ({"num_inference_steps": "61"}, "num_inference_steps", "1, 2, 5, 20, 50"),
            (
                {"num_inference_steps": "100", "scheduler": "deis"},
                "num_inference_steps",
                "deis cannot make 100 steps",
            ),
        ):
            [error] = assert_problem(post(**fields), 422)["errors"]
            assert error["field"] == wrong
            assert says in error["message"]
        service.signal(signal.SIGINT)
        service.assert_clean_end()
