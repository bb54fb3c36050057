"""When which samples are shown before they are finished."""

import logging
from collections.abc import Iterable
from time import perf_counter

from app.pipeline import Pipeline
from app.worker.retry import raise_if_lost
from app.worker.state import PendingPreviews, RequestState

SECONDS = 0.25
"""At least so long between two previews of a picture: they take next to nothing of the steps."""

logger = logging.getLogger(__name__)


def begin_previews(pipeline: Pipeline, states: Iterable[RequestState]) -> PendingPreviews | None:
    """Begin the previews that are due of these requests, all of one size, after a step of theirs.

    Where there is no memory for them there are none: the pictures come all the same.
    """
    now = perf_counter()
    due = [one for one in states if one.previews and now >= one.previewed + SECONDS]
    shown = {
        (state.request_id, index): sample
        for state in due
        for index, sample in state.samples.items()
        if sample.position and sample.steps_left
    }
    if not shown:
        return None
    for state in due:
        state.previewed = now
    try:
        return PendingPreviews(tuple(shown), pipeline.preview(list(shown.values())))
    except Exception as error:
        raise_if_lost(error)
        logger.warning("No previews now: %s: %s", type(error).__name__, error)
        return None
