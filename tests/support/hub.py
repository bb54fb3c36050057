"""A small server that speaks the few routes of the Hugging Face Hub that are needed."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

REPOSITORY = "someone/image-variations"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of ``folder`` as :data:`REPOSITORY` at revision ``v2.0``."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


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
        path = unquote(self.path.partition("?")[0])
        api = f"/api/models/{REPOSITORY}"
        if path in {f"{api}/revision/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode(), body)
        elif path in {f"{api}/tree/{r}" for r in ("v2.0", COMMIT)}:
            self._send(json.dumps([self._entry(name) for name in self.server.files]).encode(), body)
        elif (name := path.rpartition(f"/{REPOSITORY}/resolve/")[2].partition("/")[2]) in (
            self.server.files
        ):
            if body:
                self.server.fetched.append(name)
            self._send(self.server.files[name], body, _etag(self.server.files[name]))
        else:
            self._send(b'{"error": "not found"}', body, status=404, error="RepoNotFound")

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}

    def _send(
        self, content: bytes, body: bool, etag: str = "", *, status: int = 200, error: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
