"""Variations made by a running service, several inputs at once so that they share its steps."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.cli.inputs import Input
from app.cli.outcomes import Made, Outcomes
from app.client import (
    AsyncClient,
    ClientError,
    InvalidRequest,
    NotAuthorized,
    Progress,
    Queued,
    Restarted,
    ServiceError,
    Step,
    Variations,
    Waiting,
)

_AT_ONCE = 4
"""Inputs under way: enough to fill the service's steps and to hide the uploads behind them."""


async def run(
    client: AsyncClient, inputs: Sequence[Input], fields: Mapping[str, Any], outcomes: Outcomes
) -> None:
    """Vary every input with the same fields.

    Raises :class:`ClientError` for what concerns all inputs, and :class:`OSError` where a file
    cannot be written.
    """
    waiting = iter(inputs)
    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(_work(client, waiting, fields, outcomes))
    except* (ClientError, OSError) as errors:
        raise errors.exceptions[0] from None


async def _work(
    client: AsyncClient, waiting: Iterator[Input], fields: Mapping[str, Any], outcomes: Outcomes
) -> None:
    for each in waiting:
        outcomes.begun(each)
        try:
            answer = await _vary(client, each, fields, outcomes)
        except OSError as error:
            outcomes.failed(each, error.strerror or str(error))
        except ServiceError as error:
            if isinstance(error, NotAuthorized) or _is_usage(error):
                raise
            outcomes.failed(each, error.message)
        else:
            made = [
                Made(one.index, one.seed, one.data, one.flagged, details=one.details)
                for one in answer
            ]
            outcomes.made(each, made, answer.model, answer.parameters)


async def _vary(
    client: AsyncClient, each: Input, fields: Mapping[str, Any], outcomes: Outcomes
) -> Variations:
    def show(told: Progress) -> None:
        match told:
            case Queued(position, start_in):
                outcomes.waits(each, f"{position} before it, {start_in:.0f} s")
            case Step(done, of):
                outcomes.stepped(each, min(done), of)
            case Restarted():
                outcomes.waits(each, "made again")
            case Waiting(seconds, error):
                outcomes.waits(each, f"{error.title}: again in {seconds:.0f} s")

    return await client.vary(each.paths, on_progress=show, **fields)


def _is_usage(error: ServiceError) -> bool:
    """Whether every other input would be refused for the same."""
    return isinstance(error, InvalidRequest) and error.field != "image"
