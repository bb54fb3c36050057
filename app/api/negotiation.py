"""Content negotiation: which of the answers there are a caller wants."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.api.middleware.admission import AdmittedRoute
from app.errors import NotAcceptable
from app.pictures.encode import OutputFormat

JSON, EVENTS, ZIP = "application/json", "text/event-stream", "application/zip"

RESPOND_ASYNC = "respond-async"

PICTURES = {each.media_type: each for each in OutputFormat}
"""The formats that a picture by itself may have."""

OFFERED = (JSON, EVENTS, *PICTURES, ZIP)
"""The forms of an answer, the one for callers that say nothing first."""


VARY = {"vary": "accept"}
"""The header of an answer that has its form by negotiation."""


class NegotiatedRoute(AdmittedRoute):
    """A route with answers of several forms; refuses unread who takes none of them."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepts = ",".join(Headers(scope=scope).getlist("accept"))
        accepted = acceptable(accepts, OFFERED)
        if not accepted and scope["method"] in (self.methods or ()):
            raise NotAcceptable(f"Accept allows none of the answers there are: {_listed(OFFERED)}")
        scope["state"]["accepted"] = accepted
        await super().handle(scope, receive, send)


def suitable(accepted: Sequence[str], n: int, output_format: OutputFormat | None) -> str:
    """The first of the accepted media types that ``n`` pictures of this format can be answered in.

    Raises :class:`NotAcceptable` where there is none.
    """
    for media_type in accepted:
        picture = PICTURES.get(media_type)
        if picture is None or (n == 1 and output_format in (None, picture)):
            return media_type
    others = _listed([each for each in OFFERED if each not in PICTURES])
    raise NotAcceptable(
        f"Accept allows a picture by itself ({_listed(accepted)}): that is the answer for n=1, in "
        f"the output_format if the form names one; for all else there are {others}"
    )


def acceptable(header: str, offered: Sequence[str]) -> list[str]:
    """The offered media types that an ``Accept`` header allows, best first (RFC 9110, 12.5.1).

    Of those with one weight the order in the header counts, then that of ``offered``. An empty
    header allows all.
    """
    ranges = [_parsed(part) for part in header.split(",") if part.strip()] or [("*/*", 1.0)]
    found = []
    for position, media_type in enumerate(offered):
        kind = media_type.partition("/")[0]
        for pattern in (media_type, f"{kind}/*", "*/*"):  # the most specific one counts
            places = [place for place, (given, _) in enumerate(ranges) if given == pattern]
            if places:
                found.append((-ranges[places[0]][1], places[0], position, media_type))
                break
    return [media_type for weight, _, _, media_type in sorted(found) if weight < 0]


def prefers_async(headers: Headers) -> bool:
    """``Prefer: respond-async``: answer at once, and make the pictures afterwards (RFC 7240)."""
    given = ",".join(headers.getlist("prefer")).lower().split(",")
    return RESPOND_ASYNC in (one.partition(";")[0].strip() for one in given)


def _parsed(part: str) -> tuple[str, float]:
    """A media range in lower case, and its weight; what is no number weighs nothing."""
    pattern, *parameters = (each.strip().lower() for each in part.split(";"))
    weights = [each.partition("=")[2] for each in parameters if each.startswith("q=")]
    try:
        return pattern, float(weights[0]) if weights else 1.0
    except ValueError:
        return pattern, 0.0


def _listed(media_types: Sequence[str]) -> str:
    return ", ".join(media_types)
