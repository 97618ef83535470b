"""dramatiq over RabbitMQ, its results in Redis: `dramatiq_pair worker|client AMQP-URL REDIS-PORT FUNCTION MODE`."""

import logging
import signal
import sys
from importlib import import_module
from typing import Protocol, cast

from benchmarks.pairs.typed import numbered
from benchmarks.player import IN_FLIGHT, play, say


class Sent(Protocol):
    def get_result(self, *, block: bool, timeout: int) -> object: ...


class Actor(Protocol):
    def send(self, number: int, text: str) -> Sent: ...


class Worker(Protocol):
    def start(self) -> None: ...


def declared(url: str, redis_port: str, function: str, mode: str) -> tuple[object, Actor]:
    dramatiq = import_module("dramatiq")
    broker = import_module("dramatiq.brokers.rabbitmq").RabbitmqBroker(
        # Without it nobody knows whether the server has a job; where its result is awaited, that does not matter.
        url=url,
        confirm_delivery=mode == "send",
    )
    backend = import_module("dramatiq.results.backends").RedisBackend(port=int(redis_port))
    broker.add_middleware(import_module("dramatiq.results").Results(backend=backend))
    dramatiq.set_broker(broker)

    def echo(number: int, text: str) -> dict[str, object]:
        return {"number": number, "text": text}

    actor = dramatiq.actor(echo, actor_name=function, queue_name=function, store_results=True)
    return broker, cast(Actor, actor)


def call(actor: Actor, count: int) -> None:
    items = list(numbered(count))
    for begun in range(0, count, IN_FLIGHT):
        for params, sent in [(each, actor.send(each.number, each.text)) for each in items[begun : begun + IN_FLIGHT]]:
            answer = cast(dict[str, object], sent.get_result(block=True, timeout=60_000))
            assert answer["number"] == params.number


def send(actor: Actor, count: int) -> None:
    for params in numbered(count):
        actor.send(params.number, params.text)


MODES = {"submit": call, "send": send}


def main(role: str, url: str, redis_port: str, function: str, mode: str) -> None:
    logging.disable(logging.WARNING)
    broker, actor = declared(url, redis_port, function, mode)
    if role == "worker":
        worker = cast(Worker, import_module("dramatiq").Worker(broker, worker_threads=8))
        worker.start()
        say("ready")
        signal.pause()
    else:
        play(lambda count: MODES[mode](actor, count))


if __name__ == "__main__":
    main(*sys.argv[1:])
