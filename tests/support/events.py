"""Server-sent events, as a client reads them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

Told = tuple[str, dict[str, Any]]
"""The name of an event and its data; a heartbeat is ``("", {})``."""

ACCEPT = {"accept": "text/event-stream"}


@contextmanager
def streaming(
    client: httpx.Client, image: bytes, path: str = "/variations", **fields: object
) -> Iterator[Iterator[Told]]:
    """Post a picture; gives the events of the answer as they come."""
    files, data = {"image": ("a.png", image)}, {name: str(one) for name, one in fields.items()}
    with client.stream("POST", path, files=files, data=data, headers=ACCEPT) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response)


def events(response: httpx.Response) -> Iterator[Told]:
    """The events of a response, as they come."""
    name = data = ""
    for line in response.iter_lines():
        match line.partition(": "):
            case ("event", _, name):
                pass
            case ("id", _, _):  # of a stored request
                pass
            case ("data", _, data):
                pass
            case ("", _, "ping"):
                yield "", {}
            case ("", "", ""):
                if data:
                    yield name, json.loads(data)
                name = data = ""
            case _:
                raise AssertionError(line)


def all_events(client: httpx.Client, image: bytes, **fields: object) -> list[Told]:
    """All events of one request."""
    with streaming(client, image, "/variations", **fields) as told:
        return list(told)
