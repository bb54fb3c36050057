"""The image is built and run as in production: read-only, unprivileged, stopped by a signal."""

import base64
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.deploy.engine import (
    HEADERS,
    KEY,
    LOCKED_DOWN,
    build,
    call,
    context_copy,
    post,
    running,
    wait_until_ready,
)
from tests.support.checkpoints import make_checkpoint
from tests.support.hub import REPOSITORY, Hub

pytestmark = pytest.mark.deploy


def test_the_dockerfile_is_clean() -> None:
    assert call("hadolint", "Dockerfile") == ""


@pytest.mark.parametrize(
    ("options", "user"), [((), "10001"), (("--user=4321:0",), "4321")], ids=["own", "arbitrary"]
)
def test_it_works_with_a_read_only_root_and_no_privileges(
    image: str, options: tuple[str, ...], user: str
) -> None:
    with running(image, *LOCKED_DOWN, *options, VARIATIONS_API_KEYS=KEY) as container:
        wait_until_ready(container.url)
        answer = post(container.url, n=2, seed=7)
        assert answer.status_code == 200, answer.text
        for variation in answer.json()["variations"]:
            with Image.open(io.BytesIO(base64.b64decode(variation["b64_json"]))) as picture:
                assert picture.size == (96, 96)
        call("podman", "healthcheck", "run", container.name)
        assert call("podman", "exec", container.name, "id", "-u").strip() == user
        call("podman", "kill", "--signal=TERM", container.name)
        assert container.wait() == 0, container.log()
        assert "Traceback" not in container.log()


def test_what_was_accepted_is_answered_after_sigterm(image: str) -> None:
    with running(image, *LOCKED_DOWN, VARIATIONS_API_KEYS=KEY) as container:
        url = container.url
        wait_until_ready(url)
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(post, url, n=4, num_inference_steps=50)
            _wait_until_stepping(url)
            call("podman", "kill", "--signal=TERM", container.name)
            assert not answer.done()
            assert answer.result().status_code == 200
        assert container.wait() == 0, container.log()


def _wait_until_stepping(url: str) -> None:
    while "variations_step_seconds_count 0.0" in httpx.get(f"{url}/metrics").text:
        pass


def test_strangers_are_not_let_in_by_default(image: str) -> None:
    with running(image) as container:
        assert container.wait() == 2
        assert "VARIATIONS_API_KEYS" in container.log()


def test_changed_code_is_the_only_layer_to_pull(image: str, tmp_path: Path) -> None:
    context = context_copy(tmp_path)
    with (context / "app" / "__init__.py").open("a") as module:
        module.write("\n# changed\n")
    changed = f"{image}-changed"
    build(changed, tmp_path, context)
    old, new = (
        call("podman", "inspect", "--format={{json .RootFS.Layers}}", name)
        for name in (image, changed)
    )
    assert old.split(",")[:-1] == new.split(",")[:-1]
    assert old != new


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(make_checkpoint(tmp_path / "repository")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_checkpoint_can_be_in_the_image(image: str, hub: Hub, tmp_path: Path) -> None:
    tag = f"{image}-baked"
    build(tag, tmp_path, MODEL=REPOSITORY, REVISION="v2.0", HF_ENDPOINT=hub.url)
    fetched = len(hub.fetched)
    assert fetched
    with running(tag, *LOCKED_DOWN, VARIATIONS_API_KEYS=KEY) as container:
        wait_until_ready(container.url)
        served = httpx.get(container.url, headers=HEADERS).json()["model"]
        assert (served["id"], served["revision"]) == (REPOSITORY, "v2.0")
        assert post(container.url, num_inference_steps=2).status_code == 200
    assert len(hub.fetched) == fetched
