"""dramatiq over Redis, or RabbitMQ with results in Redis: `dramatiq_pair worker|client FUNCTION MODE URL [RESULTS]`."""

import os
import signal

from dramatiq import Actor, Broker, Message, Worker, actor, set_broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.pairs.peer import Answer, Place, main_blocking, plain_echo, play_blocking_peer
from benchmarks.player import say

THREADS = 8
RESULT_MILLISECONDS = 60_000


class QuorumBroker(RabbitmqBroker):
    """What it is not made for, and que does: queues that are written to a log before a message is theirs."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, object]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


BROKERS = {"classic": RabbitmqBroker, "quorum": QuorumBroker}


def opened(place: Place) -> Broker:
    if place.url.startswith("redis"):
        return RedisBroker(url=place.url)
    # Without it nobody knows whether the server has a job; where its result is awaited, that does not matter.
    return BROKERS[os.environ.get("QUEUES", "classic")](url=place.url, confirm_delivery=place.mode == "send")


def declared(place: Place) -> tuple[Broker, Actor]:
    broker = opened(place)
    broker.add_middleware(Results(backend=RedisBackend(url=place.results)))
    set_broker(broker)
    options = {"actor_name": place.function, "queue_name": place.function}
    return broker, actor(plain_echo, **options, store_results=True, result_ttl=RESULT_MILLISECONDS)


def client(place: Place) -> None:
    _, task = declared(place)

    def result(sent: Message) -> Answer:
        return sent.get_result(block=True, timeout=RESULT_MILLISECONDS)

    play_blocking_peer(place.mode, task.send, result)


def worker(place: Place) -> None:
    broker, _ = declared(place)
    Worker(broker, worker_threads=THREADS).start()
    say("ready")
    signal.pause()


if __name__ == "__main__":
    main_blocking(client, worker)
