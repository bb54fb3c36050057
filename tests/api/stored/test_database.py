"""The database of stored requests: what was told to it is there again, within bounds."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.api.stored.database import Database, Row, StoredPicture, Usage

pytestmark = pytest.mark.anyio

ROW = Row("a", "one", "key", "print", "png", "fake", webhook="https://a.example/", created=5.0)
PICTURES = [StoredPicture(3, "{}", b"x" * 1000), StoredPicture(2, "{}", None)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    path: Path | None = None, most_bytes: int = 10_000, clock: Callable[[], float] = lambda: 1000.0
) -> AsyncIterator[Database]:
    database = Database(path, most_bytes, 60.0, clock)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def test_what_has_not_ended_is_there_again_with_one_more_run(tmp_path: Path) -> None:
    for runs in range(1, 3):
        async with opened(tmp_path / "store") as database:
            if runs == 1:
                await database.add(ROW, b"packed")
            assert await database.unfinished() == [(replace(ROW, runs=runs), b"packed")]
            assert await database.by_id("a") == await database.by_key("one", "key")
            assert database.usage == Usage(1, 0, 6)


async def test_a_result_is_there_again_and_no_longer_unfinished(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as database:
        await database.add(ROW, b"packed")
        await database.finish("a", 9, '{"id":"a"}', PICTURES)
    async with opened(tmp_path / "store") as database:
        assert await database.unfinished() == []
        row = await database.by_id("a")
        assert row == replace(ROW, expires=1060.0, last=9, summary='{"id":"a"}')
        assert await database.whole("a") == (row, PICTURES)
        assert database.usage == Usage(1, 1, 1014)
        assert await database.untold() == [row]
        await database.sent("a")
        assert await database.untold() == []


async def test_a_result_is_forgotten_when_its_time_is_over_and_its_key_is_free_again() -> None:
    clock = Clock()
    async with opened(clock=clock) as database:
        await database.add(ROW, b"")
        await database.fail("a", 1, "{}")
        clock.now += 60.0
        assert await database.by_id("a") is None
        assert await database.by_key("one", "key") is None
        await database.add(replace(ROW, id="b"), b"")
        await database.expire()
        assert database.usage.requests == 1


async def test_where_there_is_no_room_the_oldest_result_goes_of_who_has_most() -> None:
    async with opened(most_bytes=3600) as database:
        for name, owner in (("a", "small"), ("b", "large"), ("c", "large"), ("d", "large")):
            await database.add(replace(ROW, id=name, owner=owner, idempotency_key=None), b"")
            await database.finish(name, 1, "{}", PICTURES)
        left = [name for name in "abcd" if await database.by_id(name)]
        assert left == ["a", "c", "d"]
        assert await database.whole("b") is None
        await database.add(replace(ROW, id="b"), b"")
        found = await database.whole("b")
        assert found is not None
        assert found[1] == []  # its pictures have gone with it


async def test_the_newest_result_and_what_has_not_ended_stay_however_large() -> None:
    async with opened(most_bytes=10) as database:
        await database.add(replace(ROW, id="waits", idempotency_key=None), bytes(100))
        for name in ("a", "b"):
            await database.add(replace(ROW, id=name, idempotency_key=None), b"")
            await database.finish(name, 1, "{}", PICTURES)
        assert [name for name in ("waits", "a", "b") if await database.by_id(name)] == [
            "waits",
            "b",
        ]


async def test_two_requests_of_one_owner_do_not_share_a_key() -> None:
    async with opened() as database:
        await database.add(ROW, b"")
        await database.add(replace(ROW, id="b", owner="other"), b"")
        with pytest.raises(sqlite3.IntegrityError):
            await database.add(replace(ROW, id="c"), b"")
        assert database.usage.requests == 2


async def test_a_file_that_another_process_has_is_not_opened(tmp_path: Path) -> None:
    async with opened(tmp_path / "store"):
        other = sqlite3.connect(tmp_path / "store", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()
