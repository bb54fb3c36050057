"""Webhooks: whoever a stored request names is told of its end (https://www.standardwebhooks.com)."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from random import uniform

import httpx2
from standardwebhooks import Webhook

from app import __version__
from app.errors import InvalidParameter
from app.metrics.stored import StoreMetrics

DELAYS = (5.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0, 8 * 3600.0)
"""Seconds before each further attempt, up to so much more by chance: half a day in all."""

JITTER = 1.25
ANSWER_SECONDS = 15.0
"""In which all of an answer's head must have come."""

AT_ONCE = 16
"""Messages to one origin that are under way; after a start there may be thousands."""

logger = logging.getLogger(__name__)


class Webhooks:
    """Tells webhooks at one of the ``origins``, with signatures made with the ``secret``."""

    def __init__(self, origins: Sequence[str], secret: str | None, metrics: StoreMetrics) -> None:
        self._origins = [origin.lower() for origin in origins]
        self._signer = Webhook(secret) if secret else None
        self._metrics = metrics
        self._turns = {origin: asyncio.Semaphore(AT_ONCE) for origin in self._origins}
        # Made once: it reads a file of certificates.
        self._tls = httpx2.create_ssl_context() if secret else True
        self._tasks: set[asyncio.Task[None]] = set()

    def check(self, url: str) -> None:
        """Raise :class:`InvalidParameter` for an address that may not be told."""
        if not self._origins:
            raise InvalidParameter(
                "Webhooks are switched off here (VARIATIONS_WEBHOOK_ORIGINS)", field="webhook"
            )
        if _origin(url) not in self._origins:
            raise InvalidParameter(
                "webhook is an address at one of the origins that this service may call, which "
                "whoever runs it knows, without a user name",
                field="webhook",
            )

    def tell(self, url: str, name: str, body: str, sent: Callable[[], Awaitable[None]]) -> None:
        """Post ``body`` until it is taken or no attempt is left, and then call ``sent``.

        ``name``, the request's id, stands for this message, whichever process tells it.
        """
        turns = self._turns.get(_origin(url) or "")
        if self._signer is None or turns is None:
            return  # as the settings were when it was accepted, it was allowed
        message_id = f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        post = partial(self._post, self._signer, url, message_id, body)
        task = asyncio.create_task(self._tell(name, turns, post, sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Try no more; what has not been told is still in the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tell(
        self, name: str, turns: asyncio.Semaphore, post: Callable[[], Awaitable[str | None]],
        sent: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        extra = {"request_id": name}
        for delay in (*DELAYS, None):
            async with turns:
                reason = await post()
            if reason is None:
                self._metrics.delivery("delivered")
                break
            self._metrics.delivery("failed" if delay is not None else "given_up")
            if delay is None:
                logger.warning("Webhook of %s given up: %s", name, reason, extra=extra)
                break
            pause = delay * uniform(1, JITTER)  # noqa: S311
            words = "Webhook of %s not told, tried again in %.0f s: %s"
            logger.info(words, name, pause, reason, extra=extra)
            await asyncio.sleep(pause)
        await sent()

    async def _post(self, signer: Webhook, url: str, message_id: str, body: str) -> str | None:
        """``None`` where it was taken, or never will be; else why it was not."""
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": f"variations/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signer.sign(message_id, now, body),
        }
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                httpx2.AsyncClient(timeout=None, verify=self._tls) as client,
                client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            return type(error).__name__
        taken = status < HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.GONE
        return None if taken else f"it answered {status}"


def _origin(url: str) -> str | None:
    """Scheme, host and port; ``None`` where it is no plain address."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return None
    if parsed.userinfo or not parsed.host:
        return None
    return f"{parsed.scheme}://{parsed.netloc.decode()}".lower()
