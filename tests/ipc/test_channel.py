"""Two channels over a real pipe."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, active_count

import numpy as np
import pytest

from app.ipc.channel import Channel

SOON = 20.0
"""Seconds after which a test gives up on what should happen at once."""


@dataclass
class End:
    """One side: its channel, what it has received, and whether it has ended."""

    connection: Connection
    received: SimpleQueue[object] = field(default_factory=SimpleQueue)
    ended: Event = field(default_factory=Event)
    channel: Channel[object, object] = field(init=False)

    def __post_init__(self) -> None:
        self.channel = Channel(self.connection, on_message=self.received.put, on_end=self.ended.set)

    def receive(self) -> object:
        return self.received.get(timeout=SOON)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    one, other = (End(connection) for connection in Pipe(duplex=True))
    one.channel.open()
    other.channel.open()
    yield one, other
    one.channel.close()
    other.channel.close()


def test_messages_arrive_in_order(ends: tuple[End, End]) -> None:
    one, other = ends
    for number in range(100):
        one.channel.send(number)
    assert [other.receive() for _ in range(100)] == list(range(100))


def test_large_pictures_cross_in_both_directions_at_once(ends: tuple[End, End]) -> None:
    picture = np.arange(36_000_000, dtype=np.uint8).reshape(3000, 4000, 3)
    for end in ends:
        end.channel.send(picture)
    for end in ends:
        np.testing.assert_array_equal(np.asarray(end.receive()), picture)


def test_sending_does_not_wait_for_a_reader() -> None:
    connection, silent = Pipe(duplex=True)
    end = End(connection)
    end.channel.open()
    for _ in range(20):
        end.channel.send(bytes(2**20))
    end.channel.close()
    silent.close()


def test_hanging_up_ends_both_sides(ends: tuple[End, End]) -> None:
    one, other = ends
    one.channel.hang_up()
    assert one.ended.wait(SOON)
    assert other.ended.wait(SOON)


def test_what_came_before_the_end_is_still_received() -> None:
    connection, other = Pipe(duplex=True)
    other.send("last words")
    other.close()
    end = End(connection)
    end.channel.open()
    assert end.receive() == "last words"
    assert end.ended.wait(SOON)
    end.channel.close()


def test_sending_after_the_end_is_harmless(ends: tuple[End, End]) -> None:
    one, other = ends
    other.channel.close()
    assert one.ended.wait(SOON)
    one.channel.send("into the void")


def test_closing_leaves_no_thread_and_may_be_repeated() -> None:
    before = active_count()
    end = End(Pipe(duplex=True)[0])
    end.channel.open()
    end.channel.close()
    end.channel.close()
    assert active_count() == before
