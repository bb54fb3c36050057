"""Finished pictures become the JSON of an answer."""

import time
from dataclasses import asdict, dataclass

from starlette.responses import Response

from app.api import schemas
from app.api.middleware.admission import Admission
from app.ipc.messages import Done
from app.parameters import Parameters
from app.pictures import Picture
from app.pictures.encode import OutputFormat, encode_base64


@dataclass(frozen=True, slots=True)
class Answer:
    """All that an answer tells; ``foreseen`` are the seconds that were predicted for it."""

    admission: Admission
    parameters: Parameters
    output_format: OutputFormat
    done: Done
    foreseen: float

    def response(self) -> Response:
        """Write the files and the JSON around them. Takes a while; call it in a thread."""
        began = time.perf_counter()
        variations = [
            self._variation(index, picture) for index, picture in enumerate(self.done.pictures)
        ]
        self.admission.passed("write", began)
        body = schemas.VariationsResponse(
            id=self.admission.identifier,
            created=int(time.time()),
            model=schemas.Model(id=self.admission.model.id, revision=self.admission.model.revision),
            parameters=schemas.ResolvedParameters(
                **asdict(self.parameters), output_format=self.output_format
            ),
            variations=variations,
            timings=self._timings(),
        )
        return Response(body.model_dump_json(), media_type="application/json")

    def _variation(self, index: int, picture: Picture | None) -> schemas.Variation:
        return schemas.Variation(
            index=index,
            seed=self.parameters.seed + index,
            b64_json=None if picture is None else encode_base64(picture, self.output_format),
            media_type=self.output_format.media_type,
            width=self.parameters.width,
            height=self.parameters.height,
            flagged=picture is None,
        )

    def _timings(self) -> schemas.Timings:
        return schemas.Timings(
            **self.admission.seconds_by_stage(),
            total=time.perf_counter() - self.admission.accepted,
            predicted=self.foreseen,
            steps=self.done.steps,
        )
