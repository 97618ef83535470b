"""The way to the server, made again whenever it breaks: one connection for scripts, one that waits for mail."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

from que.address import Address, Host
from que.drivers.redis.link import Link
from que.drivers.redis.options import RedisOptions
from que.drivers.redis.records import encode
from que.drivers.redis.scripts import Script, digest, source
from que.drivers.redis.wire import Lost, Refused, answered, make_wire

_log = logging.getLogger("que")

_OLDEST_SERVER = (6, 2)
_LONGEST_BLOCK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.05
_PARTING_SECONDS = 1.0

Fields = Sequence[bytes]
_Entries = Sequence[tuple[bytes, Fields]]


class Unsuitable(Exception):
    """A server that answers and cannot be used; the text says why."""


class Line:
    """Calls scripts, and hands over the mail of the session `session` as it comes.

    `greet` is awaited with each new connection, before anybody else may use it; `back` is told of each but the first.
    `name`: the address, without its password. `is_durable`: whether the server writes each job to its append-only file.
    """

    def __init__(
        self,
        address: Address,
        options: RedisOptions,
        session: str,
        greet: Callable[[Link], Awaitable[None]],
        hear: Callable[[Fields], None],
        back: Callable[[], None],
    ) -> None:
        self.is_durable: bool = False
        self.name: str = str(address)
        self._options = options
        self._key = options.prefix.encode()
        self._box = f"{options.prefix}mail:{session}"
        self._greet = greet
        self._hear = hear
        self._back = back
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._last_letter = b"0-0"
        self._waiting: set[asyncio.Future[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._longest_wait = math.inf

    async def open(self) -> None:
        """Reach a server; raises Lost, Refused or Unsuitable: what the last one tried had against it."""
        links = await self._connect()
        self._keeping = self._loop.create_task(self._keep(links))

    def part(self) -> None:
        """Wait no longer than a moment for a line that is broken, whoever waits: the end is near."""
        self._longest_wait = _PARTING_SECONDS
        self._loop.call_later(_PARTING_SECONDS, self._fail_waiting)

    async def close(self) -> None:
        """End both connections, and whoever waits for them."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(Lost("the connection was closed", sent=False))

    def _patience(self, seconds: float | None) -> float:
        return min(self._options.timeout if seconds is None else seconds, self._longest_wait)

    async def call(self, script: Script, request: object, patience: float | None = None) -> object:
        """Return what the script returns; raises Refused, or Lost.

        What certainly was not carried out is tried again until `patience` (by default `timeout`) seconds have passed.
        """
        packed = encode(request)
        deadline = self._loop.time() + self._patience(patience)
        while True:
            link = self._link or await self._next_link(deadline)
            try:
                return await self.evaluate(link, script, packed)
            except Lost as error:
                if error.sent:
                    raise

    async def evaluate(self, link: Link, script: Script, packed: bytes) -> object:
        """Run a script over this very connection."""
        try:
            return await link.ask("EVALSHA", digest(script), 1, self._key, packed)
        except Refused as error:
            if error.code != "NOSCRIPT":
                raise
            return await link.ask("EVAL", source(script), 1, self._key, packed)

    async def _next_link(self, deadline: float) -> Link:
        while self._link is None:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiting.add(waiter)
            try:
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError:
                raise Lost(f"{self.name} could not be reached in time", sent=False) from None
            finally:
                self._waiting.discard(waiter)
        return self._link

    async def _keep(self, links: tuple[Link, Link]) -> None:
        """Serve one pair of connections after the other, until cancelled."""
        while True:
            try:
                await self._serve(*links)
            except (Lost, Refused) as error:
                _log.warning("%s: the connection is lost: %s", self.name, error)
            except Exception:
                _log.exception("%s: a fault of the driver has cost the connection", self.name)
            links = await self._connect_again()
            _log.warning("%s: connected again", self.name)
            self._back()

    async def _connect_again(self) -> tuple[Link, Link]:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, self._options.backoff)
            try:
                return await self._connect()
            except (Lost, Refused, Unsuitable) as error:
                _log.debug("%s: cannot connect: %s", self.name, error)

    async def _serve(self, link: Link, mail: Link) -> None:
        """Let the link be used, and read the mail, until one of the two ends; raises Lost, or Refused."""
        self._link = link
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        try:
            while True:
                await self._read_mail(mail)
        finally:
            self._link = None
            await asyncio.gather(link.close(), mail.close())

    def _ended(self, link: Link, mail: Link, error: Exception) -> None:
        """One of the two has ended, so both have, and nobody shall use them any more."""
        if self._link is link:
            self._link = None
        link.end(error)
        mail.end(error)

    async def _read_mail(self, mail: Link) -> None:
        block_ms = int(self._block_seconds * 1000)
        reply = await mail.ask("XREAD", "BLOCK", block_ms, "STREAMS", self._box, self._last_letter)
        if reply is None:
            return
        ((_, entries),) = cast(Sequence[tuple[bytes, _Entries]], reply)
        self._last_letter = entries[-1][0]
        # What was read is in this process: the server may forget it.
        self._forget = mail.ask("XDEL", self._box, *[entry for entry, _ in entries])
        for _, fields in entries:
            self._hear(fields)

    @property
    def _block_seconds(self) -> float:
        return min(self._options.timeout, _LONGEST_BLOCK_SECONDS)

    async def _connect(self) -> tuple[Link, Link]:
        """Return the link and the mail's, open and greeted, of the first server that is suitable."""
        for host in self._options.hosts[:-1]:
            try:
                return await self._connect_to(host)
            except (Lost, Refused, Unsuitable) as error:
                _log.info("%s: %s: %s", self.name, host, error)
        return await self._connect_to(self._options.hosts[-1])

    async def _connect_to(self, host: Host) -> tuple[Link, Link]:
        link = await self._open(host, self._options.timeout)
        try:
            elsewhere = await self._look_at(link)
            if elsewhere is None:
                await self._greet(link)
                mail = await self._open(host, self._options.timeout + self._block_seconds)
                link.on_end = mail.on_end = partial(self._ended, link, mail)
                return link, mail
        except BaseException:
            await link.close()
            raise
        await link.close()
        return await self._connect_to(elsewhere)

    async def _open(self, host: Host, patience: float) -> Link:
        wire = make_wire(self._options, host)
        try:
            async with asyncio.timeout(self._options.timeout):
                await wire.connect()
        except Exception as error:
            await wire.disconnect(nowait=True)
            raise self._unopened(error, host) from error
        except BaseException:
            await wire.disconnect(nowait=True)
            raise
        return Link(wire, patience)

    def _unopened(self, error: Exception, host: Host) -> Lost | Refused:
        """Return why there is no connection."""
        said = (
            TimeoutError(f"no answer within {self._options.timeout:g} s") if isinstance(error, TimeoutError) else error
        )
        if self._options.tls is not None:
            # redis-py hides what happened to the socket behind an error of its own.
            cause = error.__context__ if isinstance(error.__context__, OSError) else said
            if (told := self._options.tls.explained(cause, host.name)) is not cause:
                return Lost(str(told), sent=False)
        return answered(said)

    async def _look_at(self, link: Link) -> Host | None:
        """Return where in a cluster the keys are, None for here; raises Unsuitable."""
        flat = cast(Sequence[object], await link.ask("HELLO"))
        said = dict(zip(flat[::2], flat[1::2], strict=True))
        version, role = cast(bytes, said[b"version"]).decode(), said[b"role"]
        if tuple(map(int, version.split(".")[:2])) < _OLDEST_SERVER:
            raise Unsuitable(f"the server's version is {version}: 6.2 or later is needed")
        if role != b"master":
            raise Unsuitable("the server is a replica: name the one that takes writes")
        try:
            await link.ask("EXISTS", f"{self._options.prefix}version")
        except Lost as error:
            kind, _, place = str(error).partition(" ")
            name, colon, port = place.rpartition(" ")[2].rpartition(":")
            if kind == "MOVED" and colon:
                return Host(name, int(port))
            raise
        for script in Script:
            await link.ask("SCRIPT", "LOAD", source(script))
        self.is_durable = await self._writes_all(link)
        return None

    async def _writes_all(self, link: Link) -> bool:
        try:
            return b"aof_enabled:1" in cast(bytes, await link.ask("INFO", "persistence"))
        except Refused:
            # This user may not know.
            return False
