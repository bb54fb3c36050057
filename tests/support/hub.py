"""A small server that speaks the few routes of the Hugging Face Hub that are needed."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

REPOSITORY = "someone/image-variations"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Mood = Literal["well", "silent", "slow head", "slow body", "gone"]
"""How a hub answers: as it should, never, with a byte now and then of a head or a body without end,
or by ending the connection."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that gives no file, with the headers that the hub's library goes by."""

    status: int
    code: str = ""
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Hub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as :data:`REPOSITORY` at revision ``v2.0``.

    ``refusal`` is the answer to all requests, where there is one. ``cuts`` are the bytes after
    which the next answers with these files break off. ``store`` is the address of another hub that
    weights are fetched from. ``fetched`` has the files that were sent, ``ranges`` the byte from
    which on, where one was asked for, and ``authorized`` tells if ever a token came.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.fetched: list[str] = []
        self.ranges: dict[str, int] = {}
        self.cuts: dict[str, int] = {}
        self.refusal: Refusal | None = None
        self.store: str | None = None
        self.authorized = False
        self.mood: Mood = "well"
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """A hub that serves for the length of a ``with`` block."""
    with Hub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        self.server.authorized |= "Authorization" in self.headers
        if self.server.mood != "well":
            self._be_moody()
            return
        path = unquote(self.path.partition("?")[0])
        api = f"/api/models/{REPOSITORY}"
        name = path.rpartition(f"/{REPOSITORY}/resolve/")[2].partition("/")[2]
        if self.server.refusal:
            self._refuse(self.server.refusal, body)
        elif path in {f"{api}/revision/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(), body)
        elif path in {f"{api}/tree/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps([self._entry(name) for name in self.server.files]).encode(), body)
        elif name in self.server.files and self.server.store and not name.endswith(".json"):
            self._send(b"", body, 302, {"Location": self.server.store + self.path})
        elif name in self.server.files:
            self._send_file(name, body)
        else:
            self._refuse(Refusal(404, "RepoNotFound", "Repository not found"), body)

    def _be_moody(self) -> None:
        self.close_connection = True
        mood = self.server.mood
        if mood == "slow body":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
        while mood != "gone" and not self.server.closing.wait(0.1):
            if mood != "silent":
                self.wfile.write(b" " if mood == "slow body" else b"H")

    def _refuse(self, refusal: Refusal, body: bool) -> None:
        content = json.dumps({"error": refusal.message}).encode()
        headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
        self._send(content, body, refusal.status, {**headers, **dict(refusal.headers)})

    def _send_file(self, name: str, body: bool) -> None:
        content, start = self.server.files[name], 0
        headers = {"ETag": f'"{_etag(content)}"'}
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body:
            self.server.fetched.append(name)
            self.server.ranges |= {name: start} if asked else {}
        cut = self.server.cuts.pop(name, None) if body else None
        self._send(content[start:], body, 206 if asked else 200, headers, cut)

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}

    def _send(
        self,
        content: bytes,
        body: bool,
        status: int = 200,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:cut])
        self.close_connection = cut is not None


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
