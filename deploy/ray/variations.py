"""The service as a Ray Serve application: a replica is one engine, on the GPU that Ray gave it.

Ray routes, scales and restarts; a replica itself is :func:`app.api.application.create_app`.
"""

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from ray import serve
from ray.util import get_node_ip_address
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.application import create_app
from app.api.middleware import access
from app.api.routes import service as pages_of_service
from app.api.server import listen
from app.api.state import RETRY_UNKNOWN, Service
from app.settings import Settings

TARGETS = "/metrics/replicas"
"""Path of the list of replicas with the address of each one's metrics, for Prometheus."""

SPARE_SECONDS = 30.0
"""A replica may take so much longer than its drain time before Ray kills it."""

_LOOK_AGAIN_SECONDS = 0.1
_BROADCAST_SECONDS = 5.0


def build(_arguments: dict[str, str]) -> serve.Application:
    """The application that ``import_path`` names; its bounds follow from the settings."""
    settings = _settings()
    deployment = serve.deployment(
        # A full replica must be sent requests to refuse them, with the time to come back.
        max_ongoing_requests=2 * settings.max_queue,
        # So many wait in each proxy while there is no replica.
        max_queued_requests=2 * settings.max_queue,
        backpressure_config={"status_code": 503, "retry_after_s": RETRY_UNKNOWN},
        graceful_shutdown_timeout_s=settings.drain_timeout + SPARE_SECONDS,
    )
    return deployment(serve.ingress()(Variations)).bind()


def _settings() -> Settings:
    """The settings, strict about API keys: a replica cannot see who reaches the proxies."""
    return Settings(host="Ray's proxies")


class Variations:
    """One replica: the application, its worker process, and a port of its own for its metrics."""

    def __init__(self) -> None:
        settings = _settings()
        logs.configure(settings.log_level, settings.log_format, "api")
        self._application = create_app(settings)
        self._application.add_api_route(TARGETS, _targets, include_in_schema=False)
        self._application.add_middleware(OneRequestId)
        self._service: Service = self._application.state.service
        self._start_pages()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._application

    async def check_health(self) -> None:
        """Raise while requests are not accepted.

        Ray routes to a replica after its first check, which therefore waits for the worker.
        """
        engine = self._service.engine
        while not engine.accepting:
            first_start = engine.model is None and engine.state.phase == "starting"
            if not first_start:
                raise RuntimeError(f"The replica accepts no requests: {engine.state.reason}")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def target(self) -> dict[str, object]:
        """This replica as an entry of Prometheus' HTTP service discovery."""
        replica = serve.get_replica_context().replica_tag
        return {"targets": [self._address], "labels": {"replica": replica}}

    def _start_pages(self) -> None:
        """Serve metrics and readiness of this replica, not of a random one, to Ray's network."""
        pages = FastAPI(openapi_url=None)
        pages.state.service = self._service
        pages.include_router(pages_of_service.router)
        config = uvicorn.Config(
            pages, lifespan="off", log_config=None, access_log=False, server_header=False
        )
        listener = listen(get_node_ip_address(), 0)
        self._address = "{}:{}".format(*listener.getsockname())
        self._pages = asyncio.create_task(uvicorn.Server(config).serve([listener]))


async def _targets() -> list[Any]:
    """Every replica that takes requests, for ``http_sd_configs``."""
    replica = serve.get_replica_context()
    handle = serve.get_deployment_handle(replica.deployment, replica.app_name)
    answers = await handle.broadcast("target").results_async(
        timeout_s=_BROADCAST_SECONDS, return_exceptions=True
    )
    return [answer for answer in answers if not isinstance(answer, Exception)]


class OneRequestId:
    """Middleware that removes the request id from the answer: Ray's proxy adds its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[access.HEADER]
            await send(message)

        await self.app(scope, receive, without)
