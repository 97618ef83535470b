"""repid over NATS JetStream; nobody can await its jobs: `repid_pair client FUNCTION send URL`."""

from importlib import import_module
from typing import Protocol, cast

from repid import NatsServer, Repid

from benchmarks.pairs.peer import Answer, Place, main, play_peer


class Streams(Protocol):
    async def add_stream(self, *, name: str, subjects: list[str]) -> object: ...


class Connection(Protocol):
    def jetstream(self) -> Streams: ...


class Nats(Protocol):
    async def connect(self, servers: str, /) -> Connection: ...


async def client(place: Place) -> None:
    app = Repid()
    server = NatsServer(place.url)
    app.servers.register_server("nats", server, is_default=True)
    # It leaves the streams to its users.
    connection = await cast(Nats, import_module("nats")).connect(place.url)
    await connection.jetstream().add_stream(name=place.function, subjects=[place.function])

    async def put(number: int, text: str) -> None:
        await app.send_message_json(channel=place.function, payload={"number": number, "text": text})

    async def result(_: None) -> Answer:
        raise NotImplementedError

    async with server.connection():
        await play_peer(place.mode, put, result)


async def worker(_: Place) -> None:
    raise NotImplementedError


if __name__ == "__main__":
    main(client, worker)
