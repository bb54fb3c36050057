"""Behind a real nginx: a path of its own, kept connections, refusals before the body is read."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.processes import ServiceProcess, service_process
from tests.support.scrape import eventually

pytestmark = pytest.mark.deploy

KEY = "a-key-for-tests-alone"
PREFIX = "/variations-api"

SERVE = """
from app.api.server import serve
from app.settings import Settings
from tests.support.fakes import FakeDecoders, FakeEngine
serve(Settings(), FakeEngine(), FakeDecoders())
"""

# The block that docs/operations.md shows, in what nginx needs to run apart from the system's.
CONFIG = """
pid {folder}/pid;
error_log {folder}/errors;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/a; uwsgi_temp_path {folder}/b; scgi_temp_path {folder}/c;
    client_max_body_size 0;
    upstream variations {{
        server {upstream};
        keepalive 8;
        keepalive_timeout 1s;
    }}
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{
            proxy_pass http://variations/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Prefix {prefix};
            proxy_request_buffering {buffering};
        }}
    }}
}}
"""


@contextmanager
def nginx(service: ServiceProcess, folder: Path, buffering: str = "off") -> Iterator[str]:
    """Run nginx before the service; gives the address of the service as it shows it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    upstream = service.url.removeprefix("http://")
    file = folder / "nginx.conf"
    file.write_text(
        CONFIG.format(
            folder=folder, upstream=upstream, port=port, prefix=PREFIX, buffering=buffering
        )
    )
    command = ["nginx", "-c", str(file), "-e", f"{folder}/errors", "-g", "daemon off; user root;"]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}{PREFIX}"

            def answers() -> bool:
                with suppress(httpx.TransportError):
                    return httpx.get(f"{url}/healthz").status_code == 200
                return False

            eventually(answers)
            yield url
        finally:
            process.terminate()


def test_pages_and_answers_are_found_below_the_path(tmp_path: Path, png: bytes) -> None:
    with service_process(SERVE) as service:
        service.wait_for("ready:")
        with nginx(service, tmp_path) as url:
            assert httpx.get(f"{url}/page/docs.js").status_code == 200
            document = httpx.get(f"{url}/openapi.json").json()
            assert document["servers"] == [{"url": PREFIX}]
            assert httpx.get(f"{url}/").json()["links"]["docs"] == f"{PREFIX}/docs"
            files = {"image": ("a.png", png)}
            assert httpx.post(f"{url}/variations", files=files).status_code == 200
            problem = httpx.post(f"{url}/variations", files=files, data={"n": "9"}).json()
            assert problem["instance"] == f"{PREFIX}/variations"


def test_a_kept_connection_is_never_closed_under_a_request(tmp_path: Path, png: bytes) -> None:
    """The service keeps connections for longer than nginx: so it is nginx that closes them."""
    with service_process(SERVE, keep_alive="2") as service:
        service.wait_for("ready:")
        with nginx(service, tmp_path) as url, httpx.Client() as client:
            files = {"image": ("a.png", png)}
            for pause in (0.0, 0.9, 0.98, 1.0, 1.02, 1.1, 1.5, 1.98, 2.0, 2.02):
                time.sleep(pause)  # what idle connections do is tried here
                assert client.post(f"{url}/variations", files=files).status_code == 200


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_refusal_before_the_body_was_read_arrives(
    tmp_path: Path, png: bytes, buffering: str
) -> None:
    large = png.ljust(4 * 2**20, b"\0")
    with service_process(SERVE, api_keys=KEY, max_upload_bytes=str(2**20)) as service:
        service.wait_for("ready:")
        with nginx(service, tmp_path, buffering) as url:
            for headers, status in (({}, 401), ({"authorization": f"Bearer {KEY}"}, 413)):
                for _ in range(5):
                    files = {"image": ("a.png", large)}
                    answer = httpx.post(f"{url}/variations", files=files, headers=headers)
                    assert answer.status_code == status, answer.text
                    assert answer.json()["instance"] == f"{PREFIX}/variations"
