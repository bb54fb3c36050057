"""Renderers of a generation's result. The first: JSON with the pictures in base64."""

import time
from dataclasses import asdict

from app.api import schemas
from app.api.middleware.admission import Admission
from app.engine.generation import Result
from app.parameters import Parameters
from app.pictures.encode import OutputFormat, encode_base64


def render_json(
    result: Result,
    admission: Admission,
    parameters: Parameters,
    output_format: OutputFormat,
    predicted: float,
) -> bytes:
    """The answer of ``POST /variations``. Takes a while; call it in a thread.

    ``predicted`` is the prediction, in seconds, for all that followed the upload.
    """
    model, timeline = admission.model, admission.timeline
    began = time.perf_counter()
    variations = [
        schemas.Variation(
            index=index,
            seed=parameters.seed_of(index),
            b64_json=None if picture is None else encode_base64(picture, output_format),
            media_type=output_format.media_type,
            width=parameters.width,
            height=parameters.height,
            flagged=picture is None,
        )
        for index, picture in enumerate(result.pictures)
    ]
    timeline.passed("write", began)
    answer = schemas.VariationsResponse(
        id=admission.request_id,
        created=int(time.time()),
        model=schemas.Model(id=model.id, revision=model.revision),
        parameters=schemas.ResolvedParameters(**asdict(parameters), output_format=output_format),
        variations=variations,
        timings=schemas.Timings(
            **timeline.seconds(), total=timeline.total(), predicted=predicted, steps=result.steps
        ),
    )
    return answer.model_dump_json().encode()
