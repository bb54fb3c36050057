"""Names by which the service may be called, and pages that may call it, where it asks for no key.

A page from anywhere can send a form to an address of the machine that its browser runs on. It can
also let its own name lead there (DNS rebinding), and then read the answers.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import problems

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class AllowedHosts:
    """Refuses requests whose header Host has another name; ``*.example.org`` are all below it.

    One without that header comes from no browser, and is let through.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app = app
        self._names = [name.lower().strip("[]") for name in names]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = _host(scope) if scope["type"] == "http" else None
        if host is not None and not self._is_allowed(_name(host)):
            words = (
                f"The service is not called {host[:80]!r} here; its names are "
                f"{', '.join(self._names)} (VARIATIONS_ALLOWED_HOSTS)"
            )
            await problems.problem(scope, 421, words)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_allowed(self, name: str) -> bool:
        return any(
            name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in self._names
        )


class SameOrigin:
    """Refuses what a page of another site sends, unless it is of the allowed ``origins``.

    Programs that are no browsers name no origin, and are let through.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            words = (
                "A page of another site has sent this; let its origin in with "
                "VARIATIONS_CORS_ORIGINS, or ask for keys with VARIATIONS_API_KEYS"
            )
            await problems.problem(scope, 403, words)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if scope["method"] in _SAFE_METHODS or "*" in self._origins or origin in self._origins:
            return True
        if site is not None:  # which no page can set
            return site in ("same-origin", "none")
        return origin is None or urlsplit(origin).netloc.lower() == (_host(scope) or "").lower()


def _host(scope: Scope) -> str | None:
    return Headers(scope=scope).get("host")


def _name(host: str) -> str:
    """A host without its port, brackets and last dot."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
