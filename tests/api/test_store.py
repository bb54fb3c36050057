"""The store of pictures that are told by their address."""

import pytest

from app.api.store import PictureStore
from app.errors import InvalidParameter

PNG = "image/png"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> PictureStore:
    return PictureStore(most_bytes=10, seconds=60.0, clock=clock)


def kept(store: PictureStore, names: list[str]) -> list[bool]:
    return [store.get(name) is not None for name in names]


def test_a_picture_is_found_by_its_name_until_it_expires(store: PictureStore, clock: Clock) -> None:
    names = store.put([b"ab", b"cd"], PNG, "me")
    clock.now = 59.0
    found = store.get(names[1])
    assert found is not None
    picture, seconds = found
    assert (picture.file, picture.media_type, seconds) == (b"cd", PNG, 1.0)
    clock.now = 60.0
    assert kept(store, names) == [False, False]


def test_names_are_too_long_to_guess(store: PictureStore) -> None:
    names = store.put([b"a"] * 10, PNG, "me")
    assert len(set(names)) == 10
    assert {len(name) for name in names} == {32}


def test_the_oldest_goes_where_there_is_no_room(store: PictureStore) -> None:
    names = [store.put([b"abcd"], PNG, "me")[0] for _ in range(3)]
    assert kept(store, names) == [False, True, True]


def test_room_is_made_by_whoever_has_the_most(store: PictureStore) -> None:
    [others] = store.put([b"abc"], PNG, "other")
    mine = [store.put([b"abc"], PNG, "me")[0] for _ in range(4)]
    assert kept(store, [others, *mine]) == [True, False, False, True, True]


def test_what_has_expired_takes_no_room(store: PictureStore, clock: Clock) -> None:
    store.put([b"abcdef"], PNG, "me")
    clock.now = 61.0
    names = store.put([b"abcde", b"abcde"], PNG, "me")
    assert kept(store, names) == [True, True]


def test_an_answer_that_never_fits_is_refused(store: PictureStore) -> None:
    with pytest.raises(InvalidParameter, match="11 bytes, and at most 10"):
        store.put([b"abcdef", b"abcde"], PNG, "me")
