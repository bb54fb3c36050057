"""The application: middleware, routes, problems and one service, put together."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import problems
from app.api.middleware.access import Access
from app.api.middleware.keys import Keys
from app.api.middleware.limiter import Slots
from app.api.routes import service as pages
from app.api.routes import variations
from app.api.state import Engine, Service
from app.engine.engine import Supervisor
from app.engine.watchdog import Patience
from app.ipc.messages import Start
from app.logs import choose_format
from app.metrics import Metrics
from app.settings import Settings
from app.tracing import tracing_to


def create_app(settings: Settings, supervisor: Engine | None = None) -> FastAPI:
    """The service as an ASGI application, whose lifespan starts and stops the supervisor.

    Tests of what lies above the engine hand in their own ``supervisor``.
    """
    metrics = Metrics(CollectorRegistry())
    patience = Patience(starting=settings.start_silence, working=settings.worker_silence)
    engine = supervisor or Supervisor(start_message(settings), metrics, patience)
    tracing = tracing_to(settings.otlp_endpoint, __version__)
    service = Service(
        settings=settings,
        engine=engine,
        metrics=metrics,
        keys=Keys([key.get_secret_value() for key in settings.api_keys]),
        slots=Slots(settings.max_queue, settings.key_quota, engine.finishes),
        tracing=tracing,
        readers=ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="uploads"),
    )
    metrics.foresee(service.predicted_wait)
    app = FastAPI(
        title="variations",
        summary="A picture in, variations of it out.",
        version=__version__,
        lifespan=_lifespan,
        form_limits={"max_files": 4, "max_fields": 32, "max_part_size": 4096},
        redirect_slashes=False,
    )
    app.state.service = service
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "traceparent", "x-request-id", "x-request-timeout"],
            expose_headers=[
                "retry-after",
                "retry-after-ms",
                "traceresponse",
                "x-request-id",
                "x-should-retry",
            ],
        )
    app.add_middleware(Access, metrics=metrics, tracing=tracing)
    tracing.instrument(app)
    problems.install(app, keys=bool(settings.api_keys))
    app.include_router(pages.router)
    app.include_router(variations.router)
    return app


def start_message(settings: Settings) -> Start:
    """What the worker is told of the settings."""
    return Start(
        model=settings.model,
        revision=settings.revision or None,
        device=settings.device,
        dtype=settings.dtype,
        attention_slicing=settings.attention_slicing,
        vae_slicing=settings.vae_slicing,
        safety_checker=settings.safety_checker == "on",
        sizes=settings.sizes,
        max_rows=None if settings.max_rows == "auto" else settings.max_rows,
        fixed_bucket=settings.fixed_bucket,
        log_level=settings.log_level,
        log_format=choose_format(settings.log_format),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.engine.start()
    try:
        yield
    finally:
        await service.engine.stop()
        await asyncio.to_thread(service.tracing.close)
        service.readers.shutdown(wait=False, cancel_futures=True)
