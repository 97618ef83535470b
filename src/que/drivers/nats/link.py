"""One connection at a time to a NATS server, made again when it is lost, and what is asked over it.

nats-py speaks the protocol. Its own reconnecting is left off: it keeps what was unsent and would send it after its
caller was told that it is lost, it gives up for good after some errors, and it has no jitter.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from que.drivers.nats.options import NatsOptions
from que.errors import ConnectError

_log = logging.getLogger("que")

_OLDEST_SERVER = (2, 9)
_FIRST_PAUSE_SECONDS = 0.05
_LEADERLESS_SECONDS = 2.0
# For the end of a connection that was never used.
_PARTING_SECONDS = 0.25
_JS = "$JS.API."

Heard = Callable[[Msg], None]


class Silence(Exception):
    """No answer. `sent`: whether the question may have reached the server all the same."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class ApiError(msgspec.Struct, frozen=True):
    """What JetStream says it cannot do."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(msgspec.Struct, frozen=True):
    """JetStream's answer to a message that it was to store."""

    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class Answer(msgspec.Struct, frozen=True):
    """What every answer of JetStream's API may hold."""

    error: ApiError | None = None


NO_STREAM = Ack(error=ApiError(503, 503, "nobody answers: is JetStream enabled?"))
Outgoing = tuple[str, bytes, dict[str, str] | None]

_decode_ack = msgspec.json.Decoder(Ack).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


class Ear:
    """A subject that is listened to, over every reconnect, until close()."""

    def __init__(self, link: "Link", subject: str, heard: Heard) -> None:
        self.subject = subject
        self._link = link
        self._heard = heard
        self.client: Client | None = None
        self._subscription: Subscription | None = None

    async def listen(self, client: Client) -> None:
        """Subscribe on this connection."""
        heard = self._heard
        self.client = client

        async def hear(message: Msg) -> None:
            heard(message)

        # Without limits: nats-py drops what is beyond them.
        self._subscription = await client.subscribe(  # pyright: ignore[reportUnknownMemberType] # for its bare Future
            self.subject, cb=hear, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def close(self) -> None:
        """Listen no more, once what was on its way has been heard, or has not come within the timeout.

        nats-py's drain() has a deadline of its own, after which, or when cancelled, a late answer ends the connection.
        """
        self._link.forget(self)
        if self._subscription is None:
            return
        number = self._subscription._id  # pyright: ignore[reportPrivateUsage] # see the docstring
        try:
            with contextlib.suppress(Silence):
                await self._link.write_all([b"UNSUB %d\r\n" % number])
        finally:
            with contextlib.suppress(NatsError, OSError):
                await self._subscription.unsubscribe()


class Link:
    """`up` is set while there is a connection. `on_up` and `on_down` are called at each beginning and end of one."""

    def __init__(self, name: str, options: NatsOptions) -> None:
        self.up: asyncio.Event = asyncio.Event()
        self.on_up: Callable[[], Awaitable[None]] | None = None
        self.on_down: Callable[[], None] | None = None
        self._name = name
        self._options = options
        self._servers = [f"nats://{host}" for host in options.hosts]
        self._tls = None if options.tls is None else options.tls.context()
        self._client: Client | None = None
        self._inbox = f"_INBOX.{os.urandom(12).hex()}"
        self._asked: dict[str, Callable[[Msg | None], None]] = {}
        self._numbers = 0
        self._ears: list[Ear] = [Ear(self, f"{self._inbox}.*", self._answer)]
        self._closed = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._pulse: asyncio.Task[None] | None = None
        self._as_of = self._loop.time()

    @property
    def as_of(self) -> float:
        """The loop's time before which nothing that is heard from now on can have left the server."""
        return self._as_of

    def keep_time(self, seconds: float) -> None:
        """Let as_of be at most so old, and a little, however quiet it is."""
        if self._pulse is None:
            self._pulse = self._loop.create_task(self._beat(seconds))

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(Silence):
                await self.publish_all([])

    async def open(self) -> None:
        """Reach one of the servers; raises ConnectError."""
        reasons: list[str] = []
        for server in random.sample(self._servers, len(self._servers)):
            try:
                await self._connect(server)
                return
            except (NatsError, OSError, TimeoutError, _Unfit) as error:
                reasons.append(f"{server.removeprefix('nats://')}: {self._explained(error, server)}")
        raise ConnectError(self._name, "; ".join(reasons))

    def _explained(self, error: Exception, server: str) -> str:
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no answer within {self._options.timeout:g} s")
        if self._options.tls is not None:
            error = self._options.tls.explained(error, server.removeprefix("nats://").rpartition(":")[0])
        return str(error) or type(error).__name__

    async def close(self) -> None:
        """Let what was written leave, and connect no more."""
        self._closed = True
        for task in (self._reconnecting, self._pulse):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._client is not None:
            await _part(self._client, self._options.timeout)
        self._end()

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included."""
        return 1_048_576 if self._client is None else self._client.max_payload

    async def listen(self, subject: str, heard: Heard) -> Ear:
        """Have `heard` called with each message on `subject`, also after a reconnect."""
        ear = Ear(self, subject, heard)
        self._ears.append(ear)
        if self._client is not None and self.up.is_set():
            with contextlib.suppress(NatsError, OSError):
                await ear.listen(self._client)
        return ear

    def forget(self, ear: Ear) -> None:
        """Do not subscribe to it again."""
        if ear in self._ears:
            self._ears.remove(ear)

    async def ready(self, seconds: float) -> None:
        """Wait for a connection; raises Silence, with nothing sent."""
        if not self.up.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self.up.wait()
            except TimeoutError:
                raise Silence(f"{self._name} has been away for {seconds:g} s", sent=False) from None

    async def publish(self, subject: str, body: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Write a message; raises Silence, with nothing sent."""
        client = self._client
        if client is None or not self.up.is_set():
            raise Silence(f"{self._name} is away", sent=False)
        try:
            await client.publish(subject, body, reply, headers)
        except (NatsError, OSError) as error:
            raise Silence(f"{self._name}: {error}", sent=False) from error

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Write messages, and return once the server has read them and all that was written before; raises Silence."""
        await self.write_all([_packet(subject, "", None, body) for subject, body in messages])

    async def write_all(self, packets: Sequence[bytes]) -> None:
        """Write packets, and return once the server has read them; raises Silence.

        A message to ourselves comes back. nats-py's flush() sends its PING ahead of what is still in its buffer.
        """
        arrived: asyncio.Future[Msg | None] = self._loop.create_future()
        token = self._expect(lambda message: None if arrived.done() else arrived.set_result(message))
        sent = self._loop.time()
        try:
            await self._write([*packets, _packet(f"{self._inbox}.{token}", "", None, b"")])
            async with asyncio.timeout(self._options.timeout):
                if await arrived is None:
                    raise Silence(f"{self._name} went away", sent=True)
            self._as_of = max(self._as_of, sent)
        except TimeoutError:
            raise Silence(f"{self._name} has not answered for {self._options.timeout:g} s", sent=True) from None
        finally:
            self._asked.pop(token, None)

    async def _write(self, packets: Sequence[bytes]) -> None:
        """Write packets at once; nats-py's publish() takes a third of a submitter's time for each by itself."""
        client = self._client
        if client is None or not self.up.is_set() or client.is_closed:
            raise Silence(f"{self._name} is away", sent=False)
        if packets:
            await client._send_command(b"".join(packets))  # pyright: ignore[reportPrivateUsage] # see the docstring
            await client._flush_pending()  # pyright: ignore[reportPrivateUsage]

    async def store(self, messages: Sequence[Outgoing], heard: Callable[[int, Ack], None]) -> dict[int, Silence]:
        """Write messages that a stream stores; `heard` is told of each answer as it comes, by the message's place.

        Returns those that have no answer within the timeout, or before the connection's end.
        """
        left: dict[int, Silence] = {}
        done: asyncio.Future[None] = self._loop.create_future()
        tokens: dict[int, str] = {}
        closed = False

        def answered(place: int, message: Msg | None) -> None:
            del tokens[place]
            if message is None:
                left[place] = Silence(f"{self._name} went away before its answer", sent=True)
            else:
                heard(place, _ack(message))
            if not tokens and closed and not done.done():
                done.set_result(None)

        packets: list[bytes] = []
        for place, (subject, body, headers) in enumerate(messages):
            packet = _packet(subject, f"{self._inbox}.{self._numbers + 1:x}", headers, body)
            if len(packet) > self.max_payload:
                heard(place, Ack(error=ApiError(400, 10054, "it is larger than a message may be, headers included")))
                continue
            tokens[place] = self._expect(partial(answered, place))
            packets.append(packet)
        try:
            await self._write(packets)
        except Silence as error:
            for place, token in list(tokens.items()):
                if self._asked.pop(token, None) is not None:
                    del tokens[place]
                    left[place] = error
        closed = True
        try:
            if tokens:
                async with asyncio.timeout(self._options.timeout):
                    await done
        except TimeoutError:
            for place in tokens:
                left[place] = Silence(f"{self._name} has not answered for {self._options.timeout:g} s", sent=True)
        finally:
            for token in tokens.values():
                self._asked.pop(token, None)
        return left

    async def ask(self, subject: str, body: bytes, seconds: float | None = None) -> Msg:
        """Return the first answer to a question; raises Silence. One that nobody hears is answered at once, by 503."""
        answer: asyncio.Future[Msg | None] = self._loop.create_future()
        token = self._expect(lambda message: None if answer.done() else answer.set_result(message))
        seconds = self._options.timeout if seconds is None else seconds
        try:
            await self.publish(subject, body, f"{self._inbox}.{token}")
            async with asyncio.timeout(seconds):
                message = await answer
        except TimeoutError:
            raise Silence(f"{self._name} has not answered for {seconds:g} s", sent=True) from None
        finally:
            self._asked.pop(token, None)
        if message is None:
            raise Silence(f"{self._name} went away before its answer", sent=True)
        return message

    async def api(self, verb: str, question: Mapping[str, object] | None = None) -> tuple[bytes, ApiError | None]:
        """Return JetStream's answer, and the error that it holds; raises Silence.

        After a restart, and while a cluster has no leader, nobody answers for a moment.
        """
        await self.ready(self._options.timeout)
        patience = self._loop.time() + min(_LEADERLESS_SECONDS, self._options.timeout)
        while True:
            message = await self.ask(_JS + verb, msgspec.json.encode(question or {}))
            error = NO_STREAM.error if _is_unheard(message) else _decode_answer(message.data).error
            if error is None or error.code != 503 or self._loop.time() > patience:
                return message.data or b"{}", error
            await asyncio.sleep(_FIRST_PAUSE_SECONDS)

    def _expect(self, heard: Callable[[Msg | None], None]) -> str:
        self._numbers += 1
        token = f"{self._numbers:x}"
        self._asked[token] = heard
        return token

    def _answer(self, message: Msg) -> None:
        heard = self._asked.pop(message.subject[len(self._inbox) + 1 :], None)
        if heard is not None:
            heard(message)

    async def _connect(self, server: str) -> None:
        options = self._options
        client = Client()
        begun = self._loop.time()
        said: list[Exception] = []

        async def on_error(error: Exception) -> None:
            said.append(error)
            _log.debug("%s: %r", self._name, error)

        async def on_closed() -> None:
            if self._client is client:
                self._lost(said[-1] if said else None)

        try:
            async with asyncio.timeout(options.timeout):
                await client.connect(
                    [server],
                    error_cb=on_error,
                    closed_cb=on_closed,
                    name="que",
                    allow_reconnect=False,
                    # One retry at once is the least that nats-py can be asked for.
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    ping_interval=options.heartbeat,  # type: ignore[arg-type] # a float is slept for as well
                    max_outstanding_pings=1,
                    pending_size=0,
                    tls=self._tls,
                    tls_hostname=(options.tls.server_hostname or None) if options.tls is not None else None,
                    user=options.user,
                    password=None if options.password is None else partial(self._secret, client, options.password),
                    token=None if options.token is None else partial(self._secret, client, options.token),
                    user_credentials=options.creds,
                    nkeys_seed=options.nkey,
                )
                self._refuse_plain(client)
                version = client.connected_server_version
                if (version.major or 0, version.minor or 0) < _OLDEST_SERVER:
                    shown = f"{version.major}.{version.minor}.{version.patch}"
                    raise _Unfit(f"the server is {shown}, and 2.9 or later is needed")
                while deaf := [ear for ear in self._ears if ear.client is not client]:
                    for ear in deaf:
                        await ear.listen(client)
        except BaseException as error:
            await _part(client, _PARTING_SECONDS)
            if isinstance(error, NatsError) and said and "no servers" in str(error):
                raise said[-1] from error
            raise
        for found in client.discovered_servers:
            if (url := f"nats://{found.netloc}") not in self._servers:
                self._servers.append(url)
        if client.is_closed:
            raise said[-1] if said else OSError("the server closed the connection")
        self._client = client
        self._as_of = begun
        self.up.set()

    def _secret(self, client: Client, secret: str) -> str:
        self._refuse_plain(client)
        return secret

    def _refuse_plain(self, client: Client) -> None:
        """Raise _Unfit where tls:// was asked for and the server offers none: nats-py would go on in the clear."""
        info: Mapping[str, object] = client._server_info  # pyright: ignore[reportPrivateUsage] # no other way to know
        if self._tls is not None and not info.get("tls_required"):
            raise _Unfit("the server does not speak TLS; without it the scheme is nats://")

    def _lost(self, error: Exception | None) -> None:
        self._end()
        if not self._closed:
            _log.warning("%s: the connection is lost: %s", self._name, error or "closed by the server")
            self._reconnecting = self._loop.create_task(self._reconnect())

    def _end(self) -> None:
        self._client = None
        was_up = self.up.is_set()
        self.up.clear()
        asked, self._asked = self._asked, {}
        for heard in asked.values():
            heard(None)
        if was_up and self.on_down is not None:
            self.on_down()

    async def _reconnect(self) -> None:
        failures = 0
        while True:
            longest = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 20), self._options.backoff)
            await asyncio.sleep(random.uniform(0, longest))
            try:
                await self.open()
            except ConnectError as error:
                _log.debug("%s", error)
                failures += 1
                continue
            break
        _log.warning("%s: connected again, after %d failures", self._name, failures)
        if self.on_up is not None:
            await self.on_up()


class _Unfit(Exception):
    pass


async def _part(client: Client, seconds: float) -> None:
    """Close a client. One whose server reads no more, or whose TLS handshake failed, would wait for that for ever."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(seconds):
            await client.close()


def _packet(subject: str, reply: str, headers: Mapping[str, str] | None, body: bytes) -> bytes:
    """Return a message as it stands on the wire; what the names hold was made fit for it in names.py."""
    if not headers:
        return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(body), body)
    block = "".join(["NATS/1.0\r\n", *[f"{name}: {value}\r\n" for name, value in headers.items()], "\r\n"]).encode()
    size = len(block)
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), reply.encode(), size, size + len(body), block, body)


def _is_unheard(message: Msg) -> bool:
    return message.headers is not None and message.headers.get("Status") == "503" and not message.data


def _ack(message: Msg) -> Ack:
    return NO_STREAM if _is_unheard(message) else _decode_ack(message.data)
