"""Variations made in this process: the samples of several inputs share each step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli import fixed
from app.cli.inputs import Input
from app.cli.outcomes import Made, Outcomes
from app.errors import BadInput, GenerationFailed
from app.parameters import Condition, Embedding, Fit, Parameters
from app.pictures import Picture
from app.pictures.decode import decode
from app.pictures.encode import OutputFormat, encode
from app.pictures.fit import at_size
from app.pictures.provenance import Origin
from app.wishes import Wishes

if TYPE_CHECKING:
    from app.pipeline import Decoded
    from app.pipeline.samples import Sample
    from app.settings import Settings

_ROWS = 16
"""Most rows of a step, where the settings name no number: room for one request of the most
variations. The service measures how many more would pay; here that would take longer than a start.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """An input whose samples are in their steps."""

    input: Input
    parameters: Parameters
    embeddings: list[Embedding]
    samples: list["Sample"]

    @property
    def steps_left(self) -> int:
        return max(sample.steps_left for sample in self.samples)


class Local:
    """A loaded checkpoint that varies many inputs, as the settings say.

    ``wishes`` are the same for all, the seed too if it is given, and so is ``negative``, a picture
    to be unlike. Raises :class:`VariationsError` where the checkpoint cannot be loaded, or cannot
    serve the wishes, and :class:`OSError` for a negative picture that cannot be read.
    """

    def __init__(
        self,
        settings: "Settings",
        wishes: Wishes,
        output_format: OutputFormat,
        outcomes: Outcomes,
        negative: Path | None = None,
    ) -> None:
        from app.pipeline import Pipeline  # noqa: PLC0415

        self._pipeline = Pipeline.load(settings.to_model_config(), outcomes.loading)
        outcomes.loading("", None)
        fit = wishes.resolve(self._pipeline.model).fit  # what is wrong is so before all inputs
        self._settings = settings
        self._wishes = wishes
        self._output_format = output_format
        self._outcomes = outcomes
        self._rows = _ROWS if settings.max_rows == "auto" else settings.max_rows
        self._signer = settings.signer()
        if bucket := fixed.fixed_bucket(settings):
            self._rows = bucket
            fixed.prepare(self._pipeline, bucket)
        self._bucket = bucket
        self._negative = self._embedded([self._decode(negative)], fit) if negative else []

    def run(self, inputs: Sequence[Input]) -> None:
        """Vary every input. Raises :class:`OSError` where a file cannot be written."""
        waiting = list(reversed(inputs))
        running: list[_Begun] = []
        while waiting or running:
            while waiting and _rows(_line(running)) < self._rows:
                if begun := self._begin(waiting.pop()):
                    running.append(begun)
            if running:
                self._step(running)
            for begun in [each for each in running if not each.steps_left]:
                running.remove(begun)
                self._finish(begun)

    def _begin(self, each: Input) -> _Begun | None:
        self._outcomes.begun(each)
        try:
            parameters = self._wishes.resolve(self._pipeline.model)
            pictures = [self._decode(path) for path in each.paths]
            embeddings = self._embedded(pictures, parameters.fit)
            condition = Condition.of(parameters, embeddings, next(iter(self._negative), None))
            rows = self._pipeline.condition(condition)
            begins_from = None
            if parameters.strength is not None:
                start = at_size(pictures[0], parameters.size, parameters.fit)
                begins_from = self._pipeline.posterior(start)
        except (BadInput, GenerationFailed) as error:
            self._outcomes.failed(each, error.message)
            return None
        except OSError as error:
            self._outcomes.failed(each, error.strerror or str(error))
            return None
        samples = [
            self._pipeline.start(rows, parameters, i, begins_from) for i in range(parameters.n)
        ]
        return _Begun(each, parameters, [*embeddings, *self._negative], samples)

    def _decode(self, path: Path) -> Picture:
        return decode(path.read_bytes(), max_pixels=self._settings.max_pixels)

    def _embedded(self, pictures: Sequence[Picture], fit: Fit) -> list[Embedding]:
        pixels = [self._pipeline.preprocessing(picture, fit) for picture in pictures]
        return list(self._pipeline.encode(*pixels))

    def _step(self, running: Sequence[_Begun]) -> None:
        """A step of those first in line whose rows fit."""
        line = _line(running)
        if self._bucket:
            fixed.step(self._pipeline, line, self._bucket)
        else:
            fitting = [i for i in range(1, len(line) + 1) if _rows(line[:i]) <= self._rows]
            self._pipeline.step(line[: max(fitting, default=1)]).wait()
        for begun in running:
            calls = begun.parameters.calls
            self._outcomes.stepped(begun.input, calls - begun.steps_left, calls)

    def _finish(self, begun: _Begun) -> None:
        parameters, model = begun.parameters, self._pipeline.model
        made = []
        for index, decoded in enumerate(self._decoded(begun.samples)):
            data = None if decoded.picture is None else self._written(begun, index, decoded.picture)
            seed = parameters.seed_of(index)
            made.append(Made(index, seed, data, decoded.flagged, decoded.error))
        told: dict[str, Any] = {**asdict(parameters), "output_format": self._output_format}
        self._outcomes.made(begun.input, made, {"id": model.id, "revision": model.revision}, told)

    def _decoded(self, samples: Sequence["Sample"]) -> list["Decoded"]:
        """Their pictures; with a fixed bucket one by one, as a worker decodes them then."""
        if self._bucket:
            return [one for sample in samples for one in self._pipeline.decode([sample])]
        return self._pipeline.decode(samples)

    def _written(self, begun: _Begun, index: int, picture: Picture) -> bytes:
        model = self._pipeline.model
        origin = Origin.of(model, begun.parameters, index, begun.embeddings, self._bucket)
        told = origin.told(self._settings.provenance)
        return encode(picture, self._output_format, told, self._signer)


def _line(running: Sequence[_Begun]) -> list["Sample"]:
    """The samples that have steps left, those of the first input first."""
    return [sample for begun in running for sample in begun.samples if sample.steps_left]


def _rows(samples: Sequence["Sample"]) -> int:
    return sum(sample.rows for sample in samples)
