"""Servers that are not there, or that accept and never say a word: connect() says so in time, whatever the engine."""

import asyncio
import logging
import socket

import pytest

import que
from tests.servers import free_port
from tests.unit.loops import in_loop

every_engine = pytest.mark.parametrize(
    "url",
    [
        "gearman://{place}?connect_timeout=0.3",
        "gearmans://{place}?connect_timeout=0.3",
        "redis://:secret@{place}?timeout=0.3",
        "rediss://:secret@{place}?timeout=0.3",
        "postgresql://joe:secret@{place}/jobs?timeout=0.3",
        "postgresql://joe:secret@{place}/jobs?timeout=0.3&sslmode=require",
        "amqp://joe:secret@{place}?timeout=0.3",
        "amqps://joe:secret@{place}?timeout=0.3",
        "nats://joe:secret@{place}?timeout=0.3",
        "tls://joe:secret@{place}?timeout=0.3",
    ],
)


async def refusal(url: str, port: int) -> str:
    """Return why an app cannot connect to that port; it must be told long before any default deadline is over."""
    with pytest.raises(que.ConnectError) as caught:
        async with asyncio.timeout(4):
            await que.Que(url.format(place=f"127.0.0.1:{port}")).connect()
    said = str(caught.value)
    assert "secret" not in said
    assert str(port) in said
    return said


@every_engine
@in_loop
async def test_a_server_that_accepts_and_says_nothing_is_given_up_at_the_deadline(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "0.3 s" in await refusal(url, silent.getsockname()[1])


@every_engine
@in_loop
async def test_a_server_that_is_not_there_is_not_said_to_be_tried_again(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await refusal(url, free_port())
    assert "retrying" not in caplog.text
