"""The application: middleware, routes, problems and one service, put together."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import document, problems
from app.api.middleware.access import Access
from app.api.middleware.keys import Keys
from app.api.middleware.limiter import Limiter
from app.api.middleware.origins import AllowedHosts, SameOrigin
from app.api.middleware.proxies import Proxies
from app.api.routes import openai, page, pictures, stored, variations
from app.api.routes import service as pages
from app.api.state import Service
from app.api.store import PictureStore
from app.api.stored.requests import StoredRequests
from app.engine.engine import Engine
from app.engine.process import HUB_TOKENS
from app.engine.watchdog import Timeouts
from app.ipc.messages import Start
from app.metrics import Metrics
from app.parameters import MAX_IMAGES
from app.pictures.sandbox import Decoders, Limits
from app.settings import Settings
from app.tracing import tracing_to


def create_app(
    settings: Settings, engine: Engine | None = None, decoders: Decoders | None = None
) -> FastAPI:
    """The service as an ASGI application, whose lifespan starts and stops engine and decoders.

    Tests of what lies above them hand in their own.
    """
    service = _create_service(settings, engine, decoders)
    app = FastAPIOffline(  # with Swagger UI's files, for machines without internet
        title="variations",
        summary="A picture in, variations of it out.",
        version=__version__,
        lifespan=_lifespan,
        # A picture sent as text is told so by the form, and the body has a limit of its own.
        form_limits={
            "max_files": 2 * MAX_IMAGES,  # more than are taken, which the form says better
            "max_fields": 32,
            "max_part_size": settings.max_upload_bytes,
        },
        redirect_slashes=False,
        docs_url=None,  # routes/page.py has one of ours, without scripts in it
        redoc_url=None,  # whose scripts ask for a logo from elsewhere
    )
    app.state.service = service
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "authorization",
                "idempotency-key",
                "last-event-id",
                "prefer",
                "traceparent",
                "x-request-id",
                "x-request-timeout",
            ],
            expose_headers=[
                "content-location",
                "location",
                "preference-applied",
                "retry-after",
                "retry-after-ms",
                "server-timing",
                "traceresponse",
                "x-near-duplicate",
                "x-request-id",
                "x-seed",
                "x-should-retry",
            ],
        )
    if not settings.api_keys:
        app.add_middleware(SameOrigin, origins=settings.cors_origins)
    if names := settings.names():
        app.add_middleware(AllowedHosts, names=names)
    app.add_middleware(Access, metrics=service.metrics, tracing=service.tracing)
    service.tracing.instrument(app)
    app.add_middleware(
        Proxies,
        trusted=list(settings.trusted_proxies),
        root_path=settings.root_path,
        router=app.router,
    )
    problems.install(app)
    for router in (variations.router, stored.router, openai.images, openai.router):
        app.include_router(router, dependencies=[variations.BEARER] if settings.api_keys else None)
    app.include_router(pictures.router)
    app.include_router(page.router)
    app.include_router(pages.router)
    document.install(app, document.EVENTS, document.OPENAI_EVENTS)
    return app


def start_message(settings: Settings) -> Start:
    """The part of the settings that the worker is told."""
    return Start(
        config=settings.to_model_config(),
        max_rows=None if settings.max_rows == "auto" else settings.max_rows,
        fixed_bucket=settings.fixed_bucket,
        previews=settings.offers_previews(),
        log_level=settings.log_level,
        log_format=settings.log_format,
        hub_token=next((os.environ[name] for name in HUB_TOKENS if os.environ.get(name)), None),
    )


def _create_service(
    settings: Settings, engine: Engine | None, decoders: Decoders | None
) -> Service:
    metrics = Metrics(CollectorRegistry())
    if engine is None:
        timeouts = Timeouts(start=settings.start_timeout, step=settings.step_timeout)
        engine = Engine(start_message(settings), metrics.engine, timeouts)
    if decoders is None:
        limits = Limits.of(
            max_pixels=settings.max_pixels,
            max_upload_bytes=settings.max_upload_bytes,
            cpu_seconds=settings.decode_cpu_seconds,
            seconds=settings.decode_timeout,
        )
        decoders = Decoders(limits, settings.decoders, metrics.decoders)
    service = Service(
        settings=settings,
        engine=engine,
        decoders=decoders,
        metrics=metrics,
        keys=Keys([key.get_secret_value() for key in settings.api_keys]),
        limiter=Limiter(settings.max_queue, settings.key_quota, engine.finishes),
        tracing=tracing_to(settings.otlp_endpoint, __version__),
        pictures=PictureStore(settings.url_bytes, settings.url_seconds),
        signer=settings.signer(),
        stored=StoredRequests.of(settings, metrics.stored),
    )
    metrics.engine.predict_wait(service.predicted_wait)
    return service


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.decoders.start()
    try:
        await service.stored.start(service)
        try:
            await service.engine.start()
            try:
                yield
            finally:
                await service.stored.stop()  # before the engine fails what it still has
                await service.engine.stop()
        finally:
            await service.stored.close()
    finally:
        await service.decoders.stop()
        await asyncio.to_thread(service.tracing.close)
