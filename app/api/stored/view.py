"""A stored request as its owner sees it, and as a webhook is told of it."""

from datetime import UTC, datetime

from app.api import schemas
from app.api.problems import of_error
from app.api.stored.job import Job
from app.engine.generation import Status


def view(job: Job) -> schemas.StoredRequest:
    """All that there is to tell of it."""
    row, status = job.row, job.status
    queued: schemas.Queued | None = job.log.latest("queued")
    step: schemas.Step | None = job.log.latest("step")
    is_queued, is_running = status is Status.QUEUED, status is Status.RUNNING
    submission = job.submission if is_queued or is_running else None
    return schemas.StoredRequest(
        id=row.id,
        status=status,
        created=int(row.created),
        expires=None if row.expires is None else int(row.expires),
        position=queued.position if queued and is_queued else None,
        start_in=job.start_in,
        finish_in=submission.generation.finishes_in if submission else None,
        done=step.done if step and is_running else None,
        of=job.wanted.calls if job.wanted else None,
        pictures=[one.index for _, one in job.log.pictures()],
        result=job.result,
        error=_problem(job) if status is Status.FAILED else None,
    )


def webhook_event(job: Job) -> schemas.WebhookEvent:
    """What its webhook is told of its end."""
    data = view(job)
    return schemas.WebhookEvent(
        type="variations.failed" if data.error else "variations.done",
        timestamp=datetime.now(UTC),
        data=data.model_copy(update={"result": None}),
    )


def _problem(job: Job) -> schemas.Problem | None:
    if job.log.error is None:
        return None
    scope = {"path": f"/variations/{job.row.id}", "state": {"request_id": job.row.id}}
    return schemas.Problem.model_validate_json(bytes(of_error(scope, job.log.error).body))
