"""One connection in one thread: operations that arrive together are one transaction (group commit)."""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from que.drivers.sqlite.schema import migrate

ResultT = TypeVar("ResultT")
TurnT = TypeVar("TurnT")

_MOST_OPERATIONS = 64
_MOST_WAL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """How the file is opened. `synchronous`: normal survives a killed process, full a loss of power too."""

    synchronous: str
    busy_timeout_seconds: float


class Frame(Protocol[TurnT]):
    """What goes around the operations of a transaction; `heard` is called in the loop, the others in the thread."""

    def begin(self, connection: sqlite3.Connection, /) -> TurnT:
        """Return what this transaction's operations are given."""
        ...

    def commit(self, turn: TurnT, /) -> None:
        """Write what the operations have left in `turn`."""
        ...

    def durable(self, turn: TurnT, /) -> None:
        """The transaction is committed."""
        ...

    def heard(self, turn: TurnT, /) -> None:
        """The transaction is committed, and its operations have not been answered yet."""
        ...


@dataclass(slots=True)
class _Request(Generic[TurnT]):
    operation: Callable[[TurnT], object]
    answer: asyncio.Future[object]
    result: object = None


class Database(Generic[TurnT]):
    """Runs operations in order, each inside a transaction that others may share.

    Processes take turns by flock() on a file beside the database: SQLite's own busy handler sleeps between its tries,
    and is left for programs that know nothing of que.
    """

    def __init__(self, path: Path, settings: Settings, frame: Frame[TurnT]) -> None:
        self._path = path
        self._settings = settings
        self._frame = frame
        self._requests: queue.SimpleQueue[_Request[TurnT] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="que-sqlite", daemon=True)
        self._lock: int | None = None

    async def open(self) -> None:
        """Open or make the file, its mode 0600, and bring its tables up to date; raises OSError or sqlite3.Error."""
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        await asyncio.shield(self._opened)

    async def run(self, operation: Callable[[TurnT], ResultT]) -> ResultT:
        """Return what `operation` returns, once its transaction is durable; it runs even if the caller is cancelled.

        Raises what it or its transaction raises; then nothing of it has happened.
        """
        return await asyncio.shield(self.start(operation))

    def start(self, operation: Callable[[TurnT], ResultT]) -> asyncio.Future[ResultT]:
        """Let `operation` run, and return the future of what run() returns."""
        answer: asyncio.Future[ResultT] = self._loop.create_future()
        self._requests.put(_Request(operation, cast(asyncio.Future[object], answer)))
        return answer

    async def close(self) -> None:
        """Run what was asked for, then close the file and end the thread."""
        self._requests.put(None)
        await asyncio.shield(self._closed)
        self._thread.join()

    def _work(self) -> None:
        try:
            connection = self._connect()
        except BaseException as error:
            self._unlock_for_good()
            self._hand_over(_fail, [self._opened], error)
            return
        self._hand_over(_settle, self._opened)
        try:
            while requests := self._next():
                self._transact(connection, requests)
        finally:
            connection.close()
            self._unlock_for_good()
            self._hand_over(_settle, self._closed)

    def _next(self) -> list[_Request[TurnT]]:
        """Wait for a request and return it with those that came meanwhile; [] at the end."""
        requests: list[_Request[TurnT]] = []
        request = self._requests.get()
        while request is not None:
            requests.append(request)
            if len(requests) == _MOST_OPERATIONS:
                return requests
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return requests
        if requests:
            # The end comes after them.
            self._requests.put(None)
        return requests

    def _connect(self) -> sqlite3.Connection:
        self._lock = os.open(f"{self._path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
        _open_ones.add(cast(Database[object], self))
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._create()
            return self._prepared()
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _create(self) -> None:
        """Make the file, if there is none; SQLite gives its -wal and -shm files the mode of the main one.

        One that exists is never opened here: to close any descriptor of a file drops the locks that every connection of
        this process has on it, and another process would then remove the -wal from under them.
        """
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def _prepared(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._settings.busy_timeout_seconds, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._settings.synchronous}")
            connection.execute(f"PRAGMA journal_size_limit = {_MOST_WAL_BYTES}")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _transact(self, connection: sqlite3.Connection, requests: list[_Request[TurnT]]) -> None:
        try:
            turn = self._turn(connection, requests)
        except BaseException as error:
            if len(requests) == 1:
                self._hand_over(_fail, [requests[0].answer], error)
            else:
                # One that cannot be done must not take the others with it.
                for request in requests:
                    self._transact(connection, [request])
        else:
            self._frame.durable(turn)
            self._hand_over(self._answer, turn, requests)

    def _turn(self, connection: sqlite3.Connection, requests: list[_Request[TurnT]]) -> TurnT:
        """Run `requests` in one transaction; raises what any of them raises, and then none has happened."""
        assert self._lock is not None
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            connection.execute("BEGIN IMMEDIATE")
            turn = self._frame.begin(connection)
            for request in requests:
                request.result = request.operation(turn)
            self._frame.commit(turn)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        return turn

    def _answer(self, turn: TurnT, requests: Sequence[_Request[TurnT]]) -> None:
        self._frame.heard(turn)
        for request in requests:
            if not request.answer.done():
                request.answer.set_result(request.result)

    def _hand_over(self, call: Callable[..., object], *arguments: object) -> None:
        # A loop that has ended, as that of an asyncio.run() without disconnect(), hears nothing any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _unlock_for_good(self) -> None:
        _open_ones.discard(cast(Database[object], self))
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def forget_in_child(self) -> None:
        """Let go of the lock in a forked child: a parent that dies while it holds it would leave it held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(futures: Sequence[asyncio.Future[object]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


_open_ones: weakref.WeakSet[Database[object]] = weakref.WeakSet()


def _forget_all() -> None:
    for database in list(_open_ones):
        database.forget_in_child()
    _open_ones.clear()


os.register_at_fork(after_in_child=_forget_all)
