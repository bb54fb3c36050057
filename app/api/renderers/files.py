"""Answers that are files: the one picture itself, or all of them in an archive."""

import base64
import io
import json
from urllib.parse import quote
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from app.api import schemas
from app.api.negotiation import ZIP
from app.api.renderers.answer import Rendered
from app.errors import AllFlagged

SEED_HEADER, TIMING_HEADER = "x-seed", "server-timing"
NEAR_DUPLICATE_HEADER = "x-near-duplicate"


def render_picture(answer: schemas.VariationsResponse) -> Rendered:
    """The only picture of a request. Takes a while; call it in a thread.

    Raises :class:`AllFlagged` where the safety checker has stopped it.
    """
    [picture] = answer.variations
    if picture.b64_json is None:
        raise AllFlagged("The safety checker stopped the picture; another seed makes another one")
    seconds = answer.timings.model_dump(exclude={"predicted", "steps"})
    return base64.b64decode(picture.b64_json), {
        "content-type": picture.media_type,
        "content-disposition": f'inline; filename="{file_name(answer, picture)}"',
        SEED_HEADER: str(picture.seed),
        # W3C Server Timing: milliseconds.
        TIMING_HEADER: ", ".join(f"{name};dur={1000 * each:.1f}" for name, each in seconds.items()),
        **_near_duplicate(picture),
    }


def _near_duplicate(picture: schemas.Variation) -> dict[str, str]:
    """The header that says of which training picture it is a near-copy, if it is of one.

    A structured field (RFC 9651); a name is written as in a URL, since headers are ASCII.
    """
    if not (near := picture.near_duplicate):
        return {}
    of = f';of="{quote(near.of)}"' if near.of else ""
    return {NEAR_DUPLICATE_HEADER: f"{near.score:.3f};threshold={near.threshold:.3f}{of}"}


def render_zip(answer: schemas.VariationsResponse) -> Rendered:
    """All pictures but the flagged ones, and ``parameters.json``, which says all that the JSON
    answer says and names the files. Takes a while; call it in a thread.
    """
    archive = io.BytesIO()
    told = []
    with ZipFile(archive, "w", ZIP_STORED) as files:  # pictures are compressed already
        for one in answer.variations:
            name = None if one.b64_json is None else file_name(answer, one)
            if one.b64_json is not None:
                files.writestr(ZipInfo(str(name)), base64.b64decode(one.b64_json))
            kept = {"index", "seed", "flagged", "near_duplicate"}
            told.append({**one.model_dump(mode="json", include=kept), "file": name})
        summed_up = answer.model_dump(mode="json", exclude={"variations"})
        description = json.dumps({**summed_up, "variations": told}, indent=2) + "\n"
        files.writestr(ZipInfo("parameters.json"), description)
    return archive.getvalue(), {
        "content-type": ZIP,
        "content-disposition": f'attachment; filename="variations-{answer.parameters.seed}.zip"',
    }


def file_name(answer: schemas.VariationsResponse, picture: schemas.Variation) -> str:
    """The name under which a picture is saved."""
    return f"variation-{picture.seed}.{answer.parameters.output_format}"
