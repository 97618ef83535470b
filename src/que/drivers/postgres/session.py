"""The driver while it is connected: its pool, its ear, its consumers, and who waits for what."""

import asyncio
import itertools
import logging
import os
import weakref
from collections.abc import Collection, Coroutine, Sequence
from contextlib import suppress
from typing import cast

import psycopg

from que.driver import ConsumerSink, EventSink
from que.drivers.postgres import columns, letters
from que.drivers.postgres.consumer import Claim, PostgresConsumer
from que.drivers.postgres.ear import Ear
from que.drivers.postgres.letters import Kind, decode_frame, decode_wake
from que.drivers.postgres.options import PostgresOptions
from que.drivers.postgres.pool import Broken, Pool, Row, Unreachable
from que.errors import ConnectionLost, JobUnknown
from que.model import Envelope

_log = logging.getLogger("que.postgres")

_SWEEP_SECONDS = 60.0
# A worker that is told of everything still looks everywhere so often, for what a dead worker had locked.
_LOOK_EVERYWHERE_SECONDS = 5.0
_GOOD_BYE_SECONDS = 2.0
_TROUBLE = (Unreachable, Broken, psycopg.Error)

_FETCH = b'DELETE FROM "{schema}".mail WHERE id = ANY (%b::bigint[]) RETURNING id, watch_id, kind, body'
_FETCH_ALL = b'DELETE FROM "{schema}".mail WHERE peer = %b::text RETURNING id, watch_id, kind, body'


class Session:
    """One process's part in the database, under a name of its own.

    `watched`: the ids whose end the EventSink waits for, each with what the database knows it by once that is sure: a
    job's row, or the key under which something will be kept.
    """

    def __init__(self, options: PostgresOptions, address: str, events: EventSink) -> None:
        self.events = events
        self.watched: dict[str, int | str | None] = {}
        self.pool: Pool = Pool(options)
        self._options = options
        self._address = address
        self._name = ("l" if options.listen else "p") + os.urandom(8).hex()
        self._loop = asyncio.get_running_loop()
        self._ear = Ear(options, self._name, address, self) if options.listen else None
        self._consumers: weakref.WeakSet[PostgresConsumer] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._looking: asyncio.Task[None] | None = None
        self._next_look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Be known in the database, and listen; raises psycopg.Error, OSError, Deaf, Unreachable or Broken."""
        if self._ear is not None:
            await self._ear.open()
        await self._look()
        self._looking = self._loop.create_task(self._keep_looking())

    async def close(self) -> None:
        """Leave: what was not settled is lost to its handlers, and what is watched is reported lost."""
        for consumer in list(self._consumers):
            await consumer.end()
        for task in (self._looking, *self._tasks):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._ear is not None:
            await self._ear.close()
        try:
            await self.pool.call("leave", "text", self._name, timeout=min(_GOOD_BYE_SECONDS, self._options.timeout))
        except _TROUBLE as error:
            _log.warning("%s: could not say good-bye, so the others will find out: %s", self._address, error)
        await self.pool.close()
        self._lose(list(self.watched), "disconnected before the job's end")

    async def submit(self, envelopes: Sequence[Envelope]) -> None:
        """Queue the batch in one transaction, and tell each one's receipt; raises what Pool.call() raises."""
        for envelope in envelopes:
            if not envelope.background:
                self.watched[envelope.id] = None
        epoch = self._epoch
        try:
            ((rows,),) = await self.pool.call("submit", columns.SUBMIT, self._name, *columns.of_envelopes(envelopes))
        except BaseException:
            for envelope in envelopes:
                self.watched.pop(envelope.id, None)
            raise
        accepted, watched = self.events.accepted, self.watched
        for envelope, row in zip(envelopes, cast(list[int], rows), strict=True):
            accepted(envelope.id, str(row))
            if envelope.id in watched:
                watched[envelope.id] = row
        if any(envelope.due is not None or envelope.expires is not None for envelope in envelopes):
            self._next_look.set()
        if epoch != self._epoch:
            # They may have ended while nobody listened.
            await self._reconcile([envelope.id for envelope in envelopes if envelope.id in watched])

    @property
    def _epoch(self) -> int:
        return 0 if self._ear is None else self._ear.epoch

    async def watch(self, watches: Sequence[tuple[str, int]]) -> None:
        """Tell what becomes, or has become, of these jobs; raises what Pool.call() raises."""
        self.watched.update(watches)
        for watch_id in await self._watch(watches):
            del self.watched[watch_id]
            self.events.lost(watch_id, JobUnknown("no such job, or its result was not kept, or no longer"))

    async def _watch(self, watches: Sequence[tuple[str, int]]) -> list[str]:
        """Have these jobs told of, tell what is kept, and return the ids of those of which nothing is known."""
        names, rows = [name for name, _ in watches], [row for _, row in watches]
        return self._tell_found(await self.pool.call("watch", "text text[] bigint[]", self._name, names, rows))

    async def attend(self, watches: Sequence[tuple[str, str]]) -> None:
        """Tell what is, or will be, kept under these keys; raises what Pool.call() raises."""
        self.watched.update((watch_id, None) for watch_id, _ in watches)
        epoch = self._epoch
        try:
            await self._attend(watches, again=False)
        except BaseException:
            for watch_id, _ in watches:
                self.watched.pop(watch_id, None)
            raise
        self.watched.update((watch_id, key) for watch_id, key in watches if watch_id in self.watched)
        if epoch != self._epoch:
            await self._reconcile([watch_id for watch_id, _ in watches])

    async def _attend(self, watches: Sequence[tuple[str, str]], *, again: bool) -> list[str]:
        """Have these keys told of, tell what is kept, and return the ids of those that were told of unheard."""
        names, keys = [name for name, _ in watches], [columns.held_as(key) for _, key in watches]
        types = "text text[] text[] boolean"
        return self._tell_found(await self.pool.call("attend", types, self._name, names, keys, again))

    def _tell_found(self, found: Sequence[Row]) -> list[str]:
        """Tell the ends that were found, and return the ids of those of which nothing is known."""
        unknown: list[str] = []
        for watch_id, kind, body in cast(list[tuple[str, int | None, bytes | None]], found):
            if kind is not None and body is not None:
                self._tell(watch_id, kind, body)
            elif kind is not None:
                unknown.append(watch_id)
        return [watch_id for watch_id in unknown if watch_id in self.watched]

    async def register(self, functions: Collection[str], slots: int, notices: ConsumerSink) -> PostgresConsumer:
        """Return a consumer that is woken for jobs of `functions`; raises what Pool.call() raises."""
        claim = Claim(self._name, next(self._numbers), tuple(functions), slots, self._options.lease)
        consumer = PostgresConsumer(self.pool, claim, notices, self._next_look.set)
        await self._enroll(consumer)
        self._consumers.add(consumer)
        if self._ear is not None:
            await self._ear.want("work", self.pool)
        return consumer

    async def hear(self, channel: str, payload: str) -> None:
        """Something was notified: letters for us, or work for our consumers."""
        if not channel.endswith(":work"):
            await self._read(decode_frame(payload))
        elif payload:
            lane = decode_wake(payload)
            for consumer in list(self._consumers):
                consumer.wake_for(*lane)
        else:
            self._wake_consumers()

    async def outage(self) -> None:
        """The connection that listens is lost, so the others are, or will be."""
        await self.pool.close()

    async def back(self) -> None:
        """We listen again: make good for what was not heard."""
        self.events.reconnected()
        self._wake_consumers()
        self._start(self._make_good())

    async def _make_good(self) -> None:
        while True:
            try:
                await self._look()
                await self._fetch(_FETCH_ALL, self._name)
                await self._reconcile(list(self.watched))
            except _TROUBLE as error:
                _log.warning("%s: could not ask what had happened meanwhile: %s", self._address, error)
                await asyncio.sleep(min(1.0, self._options.backoff))
            else:
                return

    async def _reconcile(self, watch_ids: Sequence[str], *, forgotten: bool = False) -> None:
        """Have what is still to come told of; what has ended unheard is lost.

        `forgotten`: the database knows nothing of us, and cannot say what was told.
        """
        known = [(watch_id, self.watched.get(watch_id)) for watch_id in watch_ids]
        jobs = [(watch_id, row) for watch_id, row in known if isinstance(row, int)]
        keys = [(watch_id, key) for watch_id, key in known if isinstance(key, str)]
        ended = await self._watch(jobs) if jobs else []
        if keys:
            ended += await self._attend(keys, again=not forgotten)
        if ended:
            if self._ear is not None:
                await self._ear.catch_up(self.pool)
            self._lose(ended, "the connection was lost, and the job ended before there was another")

    def _lose(self, watch_ids: Sequence[str], why: str) -> None:
        for watch_id in watch_ids:
            if watch_id in self.watched:
                del self.watched[watch_id]
                self.events.lost(watch_id, ConnectionLost(why))

    async def _read(self, frame: Sequence[letters.Letter]) -> None:
        """Tell what the letters say, in their order; those that are in the table are fetched together."""
        numbers = [letter.body for letter in frame if isinstance(letter.body, int)]
        mail = await self._mail(_FETCH, numbers) if numbers else {}
        for watch_id, kind, body in frame:
            if isinstance(body, bytes):
                self._tell(watch_id, kind, body)
            elif body in mail:
                self._tell(*mail[body])

    async def _mail(self, query: bytes, argument: object) -> dict[int, tuple[str, int, bytes]]:
        statement = query.replace(b"{schema}", self._options.schema.encode())
        rows = cast(list[tuple[int, str, int, bytes]], await self.pool.run(statement, (argument,)))
        return {number: (watch_id, kind, body) for number, watch_id, kind, body in sorted(rows)}

    async def _fetch(self, query: bytes, argument: object) -> None:
        for letter in (await self._mail(query, argument)).values():
            self._tell(*letter)

    def _tell(self, watch_id: str, kind: int, body: bytes) -> None:
        if kind == Kind.STOP:
            for consumer in list(self._consumers):
                consumer.stop(int(watch_id), int(body))
            return
        if kind in letters.ENDS:
            self.watched.pop(watch_id, None)
        letters.tell(self.events, watch_id, kind, body)

    def _wake_consumers(self) -> None:
        for consumer in list(self._consumers):
            consumer.wake()

    async def _keep_looking(self) -> None:
        """Let happen what is due, poll, and now and then sweep; an outage is borne with."""
        everywhere = max(self._options.poll, _LOOK_EVERYWHERE_SECONDS if self._ear is not None else 0)
        woken = swept = self._loop.time()
        while True:
            try:
                wait_seconds = await self._look()
                now = self._loop.time()
                if now - woken >= everywhere:
                    woken = now
                    self._wake_consumers()
                if now - swept >= _SWEEP_SECONDS:
                    swept = now
                    await self.pool.call("sweep", "float8", self._options.dead_letter_ttl)
            except _TROUBLE as error:
                _log.info("%s: %s", self._address, error)
                wait_seconds = self._options.poll
            self._next_look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._next_look.wait()

    async def _look(self) -> float:
        """Let happen what is due, read the mail if nobody tells of it, and return the seconds to wait."""
        ((was_unknown, has_mail, wait_seconds),) = cast(
            list[tuple[bool, bool, float | None]], await self.pool.call("look", "text", self._name)
        )
        if was_unknown:
            await self._enter_again()
        if has_mail and self._ear is None:
            await self._fetch(_FETCH_ALL, self._name)
        return min(self._options.poll, max(0.0, wait_seconds if wait_seconds is not None else self._options.poll))

    async def _enter_again(self) -> None:
        """We are new, or were not seen for so long that we were forgotten."""
        for consumer in list(self._consumers):
            await self._enroll(consumer)
        await self._reconcile(list(self.watched), forgotten=True)

    async def _enroll(self, consumer: PostgresConsumer) -> None:
        claim = consumer.claim
        await self.pool.call("serve", "text integer text[]", claim.peer, claim.number, list(claim.functions))

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
