"""Spans over RabbitMQ."""

from tests.engines.spans import test_the_context_is_carried_to_every_run, traced
from tests.unit.loops import in_loop

__all__ = ["test_the_context_is_carried_to_every_run"]


@in_loop
async def test_its_system_is_rabbitmq(url: str) -> None:
    submitter, _ = await traced(url)
    (send,) = submitter.named("send double")
    assert send.attributes is not None
    assert send.attributes["messaging.system"] == "rabbitmq"
    assert send.attributes["server.address"] == "127.0.0.1"
