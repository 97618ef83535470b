"""taskiq over Redis streams, RabbitMQ or NATS: `taskiq_pair worker|client FUNCTION MODE URL [RESULTS]`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from taskiq import AckableMessage, AsyncBroker, AsyncTaskiqDecoratedTask, AsyncTaskiqTask
from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend

from benchmarks.pairs.peer import Answer, Place, echo, main, play_peer
from benchmarks.player import IN_FLIGHT, say

POLL_SECONDS = 0.002


def over_redis(place: Place) -> AsyncBroker:
    from taskiq_redis import RedisStreamBroker

    return RedisStreamBroker(place.url, queue_name=place.function, max_connection_pool_size=IN_FLIGHT)


def over_amqp(place: Place) -> AsyncBroker:
    from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

    exchange, queue = Exchange(name=place.function), Queue(name=place.function)
    return AioPikaBroker(place.url, qos=IN_FLIGHT, exchange=exchange, task_queues=[queue])


def over_nats(place: Place) -> AsyncBroker:
    from taskiq_nats import PullBasedJetStreamBroker

    class Broker(PullBasedJetStreamBroker):
        async def listen(self) -> AsyncGenerator[AckableMessage, None]:
            """Go on where 0.7.0 ends with an error: when a fetch has come back empty."""
            while True:
                with suppress(TimeoutError):
                    async for message in super().listen():
                        yield message

    return Broker(
        [place.url],
        subject=place.function,
        stream_name=place.function,
        durable=place.function,
        pull_consume_batch=20,
        pull_consume_timeout=0.005,
    )


BROKERS: dict[str, Callable[[Place], AsyncBroker]] = {"redis": over_redis, "amqp": over_amqp, "nats": over_nats}


def declared(place: Place) -> tuple[AsyncBroker, AsyncTaskiqDecoratedTask[[int, str], Answer]]:
    broker = BROKERS[place.url.partition(":")[0]](place)
    broker = broker.with_result_backend(RedisAsyncResultBackend(place.results, result_ex_time=60))
    return broker, broker.register_task(echo, task_name="echo")


async def client(place: Place) -> None:
    broker, task = declared(place)

    async def result(sent: AsyncTaskiqTask[Answer]) -> Answer:
        return (await sent.wait_result(check_interval=POLL_SECONDS)).return_value

    await broker.startup()
    await play_peer(place.mode, task.kiq, result)


async def worker(place: Place) -> None:
    broker, _ = declared(place)
    broker.is_worker_process = True
    running = asyncio.create_task(run_receiver_task(broker, max_async_tasks=IN_FLIGHT, run_startup=True))
    say("ready")
    await running


if __name__ == "__main__":
    main(client, worker)
