"""What is seen of jobs on RabbitMQ, which carries headers, and the headers of programs that are not que."""

import que
from que.drivers.amqp.wire import Properties
from tests.amqp.raw import prefix_of, publish, raw_channel
from tests.engines.observed import (
    test_the_context_is_carried_to_every_run,
    test_what_happens_to_jobs_is_counted_where_it_happens,
    traced,
)
from tests.unit.loops import in_loop, until

__all__ = ["test_the_context_is_carried_to_every_run", "test_what_happens_to_jobs_is_counted_where_it_happens"]


@in_loop
async def test_its_system_is_rabbitmq(url: str) -> None:
    submitter, _ = await traced(url)
    (send,) = submitter.named("send double")
    assert send.attributes is not None
    assert send.attributes["messaging.system"] == "rabbitmq"
    assert send.attributes["server.address"] == "127.0.0.1"


@in_loop
async def test_foreign_headers_are_seen_where_they_are_texts(url: str) -> None:
    seen: list[object] = []
    async with que.Que(url) as app, raw_channel(url) as channel:

        @app.job("double")
        async def double(number: int, context: que.Context) -> None:
            seen.append(context.headers)

        async with app.worker():
            properties = Properties(headers={"Traceparent": "00-1", "retries": 3, "x-que-attempts": 0, "list": ["a"]})
            publish(channel, f"{prefix_of(url)}.double", b"21", properties)
            await until(lambda: seen)
    assert seen == [{"traceparent": "00-1"}]
