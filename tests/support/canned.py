"""A server that misbehaves: it gives answers from a list, and remembers what it was sent."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENTS = {"content-type": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Canned:
    """An answer; one that is ``broken`` says that it is longer than it is."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def events(*told: tuple[str, object], **headers: str) -> Canned:
    """A stream of events."""
    lines = [f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in told]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Canned(headers=EVENTS | named, body="".join(lines).encode())


@contextmanager
def canned(answers: Sequence[Canned]) -> Iterator[tuple[str, list[Sent]]]:
    """Serve these answers one after the other; gives the address, and what was sent so far."""
    sent: list[Sent] = []
    waiting = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sent.append(Sent(self.command, self.path, headers, body))
            answer = next(waiting)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body) + answer.broken))
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_DELETE = _answer  # noqa: N815 # as http.server names them

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", sent
        finally:
            server.shutdown()
            thread.join()
