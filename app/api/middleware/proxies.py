"""What a trusted proxy says of the request that it passes on."""

from starlette.datastructures import Headers
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.settings import ROOT_PATH


class Proxies:
    """Takes the client and the scheme, and the prefix of all paths, from a trusted proxy.

    ``root_path`` is the prefix where none is named by ``X-Forwarded-Prefix``. A proxy may leave it
    in the path or take it out: ASGI has it in both ``path`` and ``root_path``.
    """

    def __init__(self, app: ASGIApp, trusted: list[str], root_path: str, router: Router) -> None:
        self._forwarded = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]
        self._root_path = root_path
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (prefix := self._prefix(scope)):
            scope = {**scope, "root_path": prefix}
            if self._is_taken_out(scope["path"], prefix, scope):
                scope["path"] = prefix + scope["path"]
                scope["raw_path"] = prefix.encode() + scope["raw_path"]
        await self._forwarded(scope, receive, send)  # type: ignore[arg-type]

    def _prefix(self, scope: Scope) -> str:
        peer, _ = scope["client"] or ("", 0)
        given = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
        if given and peer in self._forwarded.trusted_hosts and ROOT_PATH.fullmatch(given):
            return given
        return self._root_path

    def _is_taken_out(self, path: str, prefix: str, scope: Scope) -> bool:
        """The prefix is not in the path, though a path of ours may begin like it."""
        if not path.startswith(f"{prefix}/"):
            return True
        return self._is_known(path, scope) and not self._is_known(path[len(prefix) :], scope)

    def _is_known(self, path: str, scope: Scope) -> bool:
        plain = {**scope, "root_path": "", "path": path}
        return any(route.matches(plain)[0] is not Match.NONE for route in self._router.routes)
