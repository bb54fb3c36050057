"""One fixed bucket without a worker: the bytes that one with the same bucket makes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.pipeline import Pipeline
    from app.pipeline.samples import Sample
    from app.settings import Settings


def fixed_bucket(settings: "Settings") -> int | None:
    """The rows of the one fixed bucket of a service with these settings, if it has one."""
    from app.worker.warmup import FIXED_BUCKET  # noqa: PLC0415

    if not settings.fixed_bucket:
        return None
    return FIXED_BUCKET if settings.max_rows == "auto" else settings.max_rows


def prepare(pipeline: "Pipeline", bucket: int) -> None:
    """Have steps computed as a worker with this bucket does: by its threads, or its kernels."""
    import torch  # noqa: PLC0415

    from app.worker import threads  # noqa: PLC0415

    if pipeline.model.device == "cpu":
        torch.set_num_threads(threads.candidates()[-1])
    pipeline.prepare([bucket], tune=False)


def step(pipeline: "Pipeline", samples: Sequence["Sample"], bucket: int) -> None:
    """Take every sample a step further, as many at once as the bucket holds."""
    for together in _filling(samples, bucket):
        rows = sum(sample.rows for sample in together)
        pipeline.step(together, max(bucket, rows)).wait()


def _filling(samples: Sequence["Sample"], bucket: int) -> Iterator[list["Sample"]]:
    together: list[Sample] = []
    for sample in samples:
        if together and sum(each.rows for each in (*together, sample)) > bucket:
            yield together
            together = []
        together.append(sample)
    if together:
        yield together
