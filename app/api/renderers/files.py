"""Answers that are files: the one picture itself, or all of them in an archive."""

import io
import json
import time
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from app.api.negotiation import ZIP
from app.api.renderers.answer import Answer, summary
from app.api.submission import Submission
from app.engine.generation import Result
from app.errors import AllFlagged
from app.pictures.encode import OutputFormat, encode

SEED_HEADER, TIMING_HEADER = "x-seed", "server-timing"


def render_picture(submission: Submission, result: Result, output_format: OutputFormat) -> Answer:
    """The only picture of a request. Takes a while; call it in a thread.

    Raises :class:`AllFlagged` where the safety checker has stopped it.
    """
    [picture] = result.pictures
    if picture is None:
        raise AllFlagged("The safety checker stopped the picture; another seed makes another one")
    timeline, seed = submission.admission.timeline, submission.parameters.seed
    began = time.perf_counter()
    file = encode(picture, output_format)
    timeline.passed("write", began)
    seconds = [*timeline.seconds().items(), ("total", timeline.total())]
    return file, {
        "content-type": output_format.media_type,
        "content-disposition": f'inline; filename="variation-{seed}.{output_format}"',
        SEED_HEADER: str(seed),
        # W3C Server Timing: milliseconds.
        TIMING_HEADER: ", ".join(f"{name};dur={1000 * each:.1f}" for name, each in seconds),
    }


def render_zip(submission: Submission, result: Result, output_format: OutputFormat) -> Answer:
    """All pictures but the flagged ones, and ``parameters.json``, which says all that the JSON
    answer says and names the files. Takes a while; call it in a thread.
    """
    parameters, timeline = submission.parameters, submission.admission.timeline
    began = time.perf_counter()
    archive = io.BytesIO()
    told = []
    with ZipFile(archive, "w", ZIP_STORED) as files:  # pictures are compressed already
        for index, picture in enumerate(result.pictures):
            seed = parameters.seed_of(index)
            name = None if picture is None else f"variation-{seed}.{output_format}"
            told.append({"index": index, "seed": seed, "file": name, "flagged": picture is None})
            if picture is not None:
                files.writestr(ZipInfo(str(name)), encode(picture, output_format))
        timeline.passed("write", began)
        summed_up = summary(submission, result, output_format).model_dump(mode="json")
        description = json.dumps({**summed_up, "variations": told}, indent=2) + "\n"
        files.writestr(ZipInfo("parameters.json"), description)
    return archive.getvalue(), {
        "content-type": ZIP,
        "content-disposition": f'attachment; filename="variations-{parameters.seed}.zip"',
    }
