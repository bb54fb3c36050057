"""The database of stored requests: SQLite, in a file or in memory."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    output_format TEXT NOT NULL,
    model TEXT NOT NULL,
    webhook TEXT,
    created REAL NOT NULL,
    runs INTEGER NOT NULL DEFAULT 0,
    expires REAL,
    bytes INTEGER NOT NULL,
    last INTEGER,
    summary TEXT,
    error TEXT
) STRICT;
CREATE UNIQUE INDEX by_key ON requests (owner, idempotency_key);
CREATE INDEX by_age ON requests (expires);
CREATE TABLE inputs (
    id TEXT PRIMARY KEY REFERENCES requests ON DELETE CASCADE, packed BLOB NOT NULL
) STRICT;
CREATE TABLE pictures (
    id TEXT NOT NULL REFERENCES requests ON DELETE CASCADE,
    place INTEGER NOT NULL,
    number INTEGER NOT NULL,
    variation TEXT NOT NULL,
    file BLOB,
    PRIMARY KEY (id, place)
) STRICT;
"""
_COLUMNS = (
    "id, owner, idempotency_key, fingerprint, output_format, model, webhook, created, runs, "
    "expires, last, summary, error"
)
_UNEXPIRED = "(expires IS NULL OR expires > ?)"
_USAGE = "SELECT count(*), count(expires), coalesce(sum(bytes), 0) FROM requests"
_REMOVE_ONE = """
DELETE FROM requests WHERE id = (
    SELECT id FROM requests WHERE expires IS NOT NULL AND id != :newest AND owner = (
        SELECT owner FROM requests WHERE expires IS NOT NULL AND id != :newest
        GROUP BY owner ORDER BY sum(bytes) DESC
    ) ORDER BY expires, rowid
)
"""
_LOG_BYTES = 64 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """A stored request as the database has it.

    ``owner`` is the name of its API key. ``created`` and ``expires`` are Unix times; the latter is
    ``None`` until it has ended. ``runs`` counts the processes that had it before. ``last`` is the
    number of its last event. It has ended with a ``summary`` (JSON) or an ``error`` (JSON).
    """

    id: str
    owner: str
    idempotency_key: str | None
    fingerprint: str
    output_format: str
    model: str
    webhook: str | None = None
    created: float = 0.0
    runs: int = 0
    expires: float | None = None
    last: int | None = None
    summary: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture of a stored result: the number of its event, its variation (JSON), its file."""

    number: int
    variation: str
    file: bytes | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests in the database, those of them that have ended, and the bytes of all."""

    requests: int = 0
    ended: int = 0
    bytes: int = 0


class Database:
    """Stored requests in the file ``path``, or in memory where that is ``None``.

    A result is kept for ``seconds``. Where all have more than ``most_bytes``, results go: the
    oldest of the owner with the most, but never the newest one. What has not ended stays. One
    process has the file at a time. ``clock`` gives Unix time.
    """

    def __init__(
        self,
        path: Path | None,
        most_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.usage = Usage()
        self._path = path
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "store")
        self._connection: sqlite3.Connection | None = None

    @property
    def outlives(self) -> bool:
        """What is in it survives this process."""
        return self._path is not None

    async def open(self) -> None:
        """Open the file, which is made if there is none. Raises :class:`sqlite3.Error`."""
        await self._run(self._open)
        await self.expire()

    async def close(self) -> None:
        """Close the file, once what has been asked of it is done."""
        if self._connection is not None:
            await self._run(self._connection.close)
            self._connection = None
        self._thread.shutdown(wait=False)

    async def add(self, row: Row, packed: bytes) -> None:
        """A request was accepted. Raises :class:`sqlite3.Error` where it cannot be kept."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM requests WHERE expires <= ?", (self._clock(),))
            db.execute(
                "INSERT INTO requests (id, owner, idempotency_key, fingerprint, output_format, "
                "model, webhook, created, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.id, row.owner, row.idempotency_key, row.fingerprint, row.output_format,
                 row.model, row.webhook, row.created, len(packed)),
            )  # fmt: skip
            db.execute("INSERT INTO inputs VALUES (?, ?)", (row.id, packed))

        await self._write(write)

    async def finish(
        self, request_id: str, last: int, summary: str, pictures: Sequence[StoredPicture]
    ) -> None:
        """A request is done."""

        def write(db: sqlite3.Connection) -> None:
            size = sum(len(one.variation) + len(one.file or b"") for one in pictures)
            self._end(db, request_id, last, "summary", summary, size)
            db.executemany(
                "INSERT INTO pictures VALUES (?, ?, ?, ?, ?)",
                [
                    (request_id, place, one.number, one.variation, one.file)
                    for place, one in enumerate(pictures)
                ],
            )
            self._make_room(db, newest=request_id)

        await self._write(write)

    async def fail(self, request_id: str, last: int, error: str) -> None:
        """A request cannot be served."""
        await self._write(lambda db: self._end(db, request_id, last, "error", error))

    async def sent(self, request_id: str) -> None:
        """Its webhook was told, or never will be."""
        words = "UPDATE requests SET webhook = NULL WHERE id = ?"
        await self._write(lambda db: db.execute(words, (request_id,)))

    async def remove(self, request_id: str) -> None:
        """Forget a request."""
        words = "DELETE FROM requests WHERE id = ?"
        await self._write(lambda db: db.execute(words, (request_id,)))

    async def expire(self) -> None:
        """Forget the results whose time is over."""
        words = "DELETE FROM requests WHERE expires <= ?"
        await self._write(lambda db: db.execute(words, (self._clock(),)))

    async def by_id(self, request_id: str) -> Row | None:
        """A request, if there is one."""
        return await self._one("id = ?", request_id)

    async def by_key(self, owner: str, idempotency_key: str) -> Row | None:
        """The owner's request with this idempotency key, if there is one."""
        return await self._one("owner = ? AND idempotency_key = ?", owner, idempotency_key)

    async def whole(self, request_id: str) -> tuple[Row, list[StoredPicture]] | None:
        """A request, if there is one, and the pictures of its result in their order."""
        words = f"SELECT {_COLUMNS} FROM requests WHERE id = ? AND {_UNEXPIRED}"  # noqa: S608
        parts = "SELECT number, variation, file FROM pictures WHERE id = ? ORDER BY place"

        def read() -> tuple[Row, list[StoredPicture]] | None:  # both before anything is removed
            if (found := self._db.execute(words, (request_id, self._clock())).fetchone()) is None:
                return None
            rows = self._db.execute(parts, (request_id,)).fetchall()
            return Row(*found), [StoredPicture(*one) for one in rows]

        return await self._run(read)

    async def unfinished(self) -> list[tuple[Row, bytes]]:
        """The requests that have not ended, in the order of their acceptance, and what was packed.

        One more run is counted for each.
        """
        await self._write(
            lambda db: db.execute("UPDATE requests SET runs = runs + 1 WHERE expires IS NULL")
        )
        rows = await self._rows("expires IS NULL ORDER BY created, rowid")
        words = "SELECT id, packed FROM inputs"
        packed = dict(await self._run(lambda: self._db.execute(words).fetchall()))
        return [(row, packed[row.id]) for row in rows]

    async def untold(self) -> list[Row]:
        """The requests that have ended, and whose webhooks do not know."""
        return await self._rows("webhook IS NOT NULL AND expires IS NOT NULL")

    async def _one(self, condition: str, *values: str) -> Row | None:
        rows = await self._rows(f"{condition} AND {_UNEXPIRED}", *values, self._clock())
        return rows[0] if rows else None

    async def _rows(self, condition: str, *values: str | float) -> list[Row]:
        words = f"SELECT {_COLUMNS} FROM requests WHERE {condition}"  # noqa: S608
        rows = await self._run(lambda: self._db.execute(words, values).fetchall())
        return [Row(*one) for one in rows]

    async def _write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Make a change in a transaction of its own, and count anew."""

        def transaction() -> Usage:
            with self._db:  # commits, or rolls back
                self._db.execute("BEGIN IMMEDIATE")
                change(self._db)
                return Usage(*self._db.execute(_USAGE).fetchone())

        self.usage = await self._run(transaction)

    async def _run(self, work: Callable[[], T]) -> T:
        """Done in the one thread that has the connection, after what was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the store is not open")
        return self._connection

    def _open(self) -> None:
        where = ":memory:"
        if self._path is not None:
            where = os.fspath(self._path)
            with suppress(OSError):  # which SQLite tells better
                self._path.touch(mode=0o600)  # others on this machine shall not read pictures
        db = sqlite3.connect(where, isolation_level=None)
        try:
            # Nobody else may run the same requests; and no shared memory, which not every file
            # system has. An answer that was told must survive the machine's end too, so FULL.
            db.executescript(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                f"PRAGMA journal_size_limit = {_LOG_BYTES}; BEGIN IMMEDIATE; COMMIT;"
            )
            [version] = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                db.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
                )
            elif version != _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"its version is {version}, not {_SCHEMA_VERSION}")
        except BaseException:
            db.close()
            raise
        self._connection = db

    def _end(
        self, db: sqlite3.Connection, request_id: str, last: int, kind: str, words: str,
        size: int = 0,
    ) -> None:  # fmt: skip
        db.execute("DELETE FROM inputs WHERE id = ?", (request_id,))
        db.execute(
            f"UPDATE requests SET {kind} = ?, last = ?, expires = ?, bytes = ? WHERE id = ?",  # noqa: S608
            (words, last, self._clock() + self._seconds, size + len(words), request_id),
        )

    def _make_room(self, db: sqlite3.Connection, newest: str) -> None:
        while True:
            _, _, used = db.execute(_USAGE).fetchone()
            if used <= self._most_bytes:
                return
            if not db.execute(_REMOVE_ONE, {"newest": newest}).rowcount:
                return
