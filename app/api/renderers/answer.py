"""The answer of ``POST /variations``: all that is told of finished pictures, and as JSON."""

import time
from dataclasses import asdict

from app.api import schemas
from app.api.negotiation import JSON
from app.api.submission import Submission
from app.engine.generation import Result
from app.parameters import NearDuplicate
from app.pictures import Picture
from app.pictures.encode import OutputFormat, encode_base64

Rendered = tuple[bytes, dict[str, str]]
"""A body and its headers."""


def answer(
    submission: Submission, result: Result, output_format: OutputFormat
) -> schemas.VariationsResponse:
    """All that there is to tell, of which every form of an answer is made.

    Takes a while; call it in a thread.
    """
    began = time.perf_counter()
    variations = [
        variation(submission, index, picture, output_format, result.near_duplicates.get(index))
        for index, picture in enumerate(result.pictures)
    ]
    submission.admission.timeline.passed("write", began)
    summed_up = summary(submission, result, output_format)
    return schemas.VariationsResponse(**dict(summed_up), variations=variations)


def render_json(answer: schemas.VariationsResponse) -> Rendered:
    """The whole answer. Takes a while; call it in a thread."""
    return answer.model_dump_json().encode(), {"content-type": JSON}


def variation(
    submission: Submission,
    index: int,
    picture: Picture | None,
    output_format: OutputFormat,
    near_duplicate: NearDuplicate | None,
) -> schemas.Variation:
    """One picture, ``None`` for a flagged one. Takes a while; call it in a thread."""
    parameters, origin = submission.parameters, submission.origin(index)
    signer = submission.service.signer
    return schemas.Variation(
        index=index,
        seed=parameters.seed_of(index),
        b64_json=None if picture is None else encode_base64(picture, output_format, origin, signer),
        media_type=output_format.media_type,
        width=parameters.width,
        height=parameters.height,
        flagged=picture is None,
        near_duplicate=schemas.NearDuplicate(**asdict(near_duplicate)) if near_duplicate else None,
    )


def summary(submission: Submission, result: Result, output_format: OutputFormat) -> schemas.Summary:
    """All that an answer tells but the pictures."""
    admission, timeline = submission.admission, submission.admission.timeline
    return schemas.Summary(
        id=admission.request_id,
        created=int(time.time()),
        model=schemas.Model(id=admission.model.id, revision=admission.model.revision),
        parameters=schemas.ResolvedParameters(
            **asdict(submission.parameters), output_format=output_format
        ),
        timings=schemas.Timings(
            **timeline.seconds(),
            total=timeline.total(),
            predicted=submission.predicted,
            steps=result.steps,
        ),
    )
