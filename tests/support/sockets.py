"""Requests on bare sockets, for clients that misbehave."""

import socket
import struct
from urllib.parse import urlsplit

import httpx

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def send_request(url: str, png: bytes, *, key: str | None = None, **fields: str) -> socket.socket:
    """A connection on which a complete request has been sent, with an API key."""
    files = {"image": ("a.png", png)}
    request = httpx.Request("POST", f"{url}/variations", files=files, data=fields)
    if key:
        request.headers["authorization"] = f"Bearer {key}"
    lines = [f"{name}: {text}" for name, text in request.headers.items()]
    head = "\r\n".join(("POST /variations HTTP/1.1", *lines, "", "")).encode()
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(head + request.read())
    return connection
