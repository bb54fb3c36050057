"""The HTTP around a peer that brings none: FastAPI and uvicorn as they come."""

from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI

from benchmarks.peers.model import Answer, Request, port

Handler = Callable[[Request], Awaitable[Answer]]


def create_app(handler: Handler) -> FastAPI:
    """An application that answers ``POST /variations`` by ``handler``."""
    app = FastAPI()
    app.post("/variations")(handler)
    return app


def serve(handler: Handler) -> None:
    """Serve it until the process is ended."""
    uvicorn.run(create_app(handler), port=port(), log_level="warning")
