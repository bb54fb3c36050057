"""From a form to a generation: what every way of meeting the service has in common."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from app.api.middleware.admission import Admission
from app.api.schemas import REPEATED
from app.api.state import Service, service_of
from app.api.uploads import Uploads
from app.engine.generation import Generation, Result
from app.errors import InvalidParameter
from app.ipc.messages import Stage
from app.parameters import Parameters
from app.pictures.provenance import Origin
from app.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Submission:
    """A request in the engine, with all that its answer tells beside the pictures.

    ``predicted`` is the prediction, in seconds, for all that followed the upload; ``submitted`` the
    moment of the submission, by ``perf_counter``.
    """

    service: Service
    admission: Admission
    parameters: Parameters
    generation: Generation
    predicted: float
    submitted: float

    async def result(self) -> Result:
        """The pictures, once all are there; raises the generation's error."""
        try:
            result = await self.generation.result()
        except BaseException:
            self.failed()
            raise
        self.worked(result)
        return result

    def origin(self, index: int) -> Origin | None:
        """How picture ``index`` is made, as far as its file is to tell."""
        settings, engine = self.service.settings, self.service.engine
        model, embeddings = self.admission.model, self.generation.embeddings
        bucket = engine.max_rows if settings.fixed_bucket else None
        origin = Origin.of(model, self.parameters, index, embeddings, bucket)
        return origin.told(settings.provenance)

    def worked(self, result: Result) -> None:
        """Note where the time went in the worker that made the result.

        One before it may have died, and all that passed until then was waiting too.
        """
        stages = self.admission.timeline.stages
        stages.append(Stage("queue", self.submitted, result.stages[0].began))
        stages.extend(result.stages)

    def failed(self) -> None:
        """Note that it was waiting until now, or more: what a worker did it cannot tell now."""
        self.admission.timeline.passed("queue", self.submitted)

    def answered(self) -> None:
        """Count the stages of a request whose answer is written."""
        self.service.metrics.http.stages(self.admission.timeline.seconds())


Submitting = Callable[[], Awaitable[Submission]]
"""Submits a request, once all else is known that stands in its way."""


def check_previews(request: Request, *, wished: bool, field: str) -> None:
    """Raise :class:`InvalidParameter` where this field wishes previews and there are none."""
    if wished and not service_of(request).settings.offers_previews():
        raise InvalidParameter(
            "Previews are switched off here (VARIATIONS_PREVIEWS): nothing could check them",
            field=field,
        )


async def submit(
    request: Request, wishes: Wishes, uploads: Uploads, *, previews: bool = False
) -> Submission:
    """Have the wished variations of uploaded pictures made.

    They are cancelled when the request is over. Raises whatever can be said against it.
    """
    admission: Admission = request.state.admission
    service, timeline = service_of(request), admission.timeline
    engine = service.engine
    arrived = timeline.passed("upload", timeline.accepted)
    await _refuse_repeated_fields(request)
    parameters = wishes.resolve(admission.model)
    # Before the pictures are decoded for nothing; how long that takes nobody knows.
    wait = service.decoders.wait(admission.caller, len(uploads))
    service.limiter.expect(admission.request_id, admission.predict(engine, parameters, wait))
    decode = partial(
        service.decoders.decode,
        fit=parameters.fit,
        preprocessing=admission.preprocessing,
        caller=admission.caller,
    )
    condition = await uploads.condition(parameters, decode)
    submitted = timeline.passed("read", arrived)
    # Others may have been submitted meanwhile; between this prediction and the submit none can.
    predicted = submitted - arrived + admission.predict(engine, parameters)
    generation = engine.submit(
        admission.request_id, parameters, condition, admission.left, previews=previews
    )
    admission.generation = generation
    return Submission(service, admission, parameters, generation, predicted, submitted)


async def _refuse_repeated_fields(request: Request) -> None:
    """A field given twice would silently lose one of its values, but for those of lists."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in names:
        if names.count(name) > 1 and name.removesuffix("[]") not in REPEATED:
            raise InvalidParameter(f"{name} was given more than once", field=name)
