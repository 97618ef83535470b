"""How many jobs a second go through one RabbitMQ node, there and back between two processes, and in alone?"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.answer import Answer
from benchmarks.contenders import Module
from benchmarks.measure import Contender, Lineup, Scale
from benchmarks.report import rates_table
from benchmarks.stage import Command, Stage, program
from tests.amqp.server import rabbitmq
from tests.servers import free_port

TITLE = "The RabbitMQ driver"

DRAMATIQ = "dramatiq (results in Redis)"
QUE = {
    "que, uvloop": Module("que_pair", ["uvloop", "pamqp"], ["uvloop"]),
    "que, asyncio": Module("que_pair", ["pamqp"], ["asyncio"]),
}
MODES = {"submit": "There and back, 1,000 in flight", "send": "In alone: accepted, and nobody works"}


def _que(name: str, url: str, mode: str) -> Contender:
    place = (f"{url}?prefix={mode}-{QUE[name].leading[0]}", "echo", mode)
    workers = [QUE[name]("worker", *place)] if mode == "submit" else []
    return Contender(name, QUE[name]("client", *place), workers)


def _dramatiq(stage: Stage, url: str, mode: str) -> Contender:
    pair = Module("dramatiq_pair", ["dramatiq", "pika", "redis"])
    port = free_port()
    place = (url, port, f"dramatiq-{mode}", mode)
    client = pair("client", *place)
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
    stage.start(Command([program("redis-server"), *map(str, options)]))
    workers = [pair("worker", *place)] if mode == "submit" else []
    return Contender(DRAMATIQ, client, workers)


def run(scale: Scale) -> Answer:
    """One worker process and one client process for each contender, on a node that all share in turn."""
    text: list[str] = []
    rounds: dict[str, Sequence[float]] = {}
    for mode, title in MODES.items():
        with ExitStack() as stack:
            server = stack.enter_context(rabbitmq())
            stage = stack.enter_context(Stage())
            lineup = Lineup(stage)
            for name in QUE:
                lineup.add(name, partial(_que, name, server.url, mode))
            lineup.add(DRAMATIQ, partial(_dramatiq, stage, server.url, mode))
            rates = lineup.play(scale)
        text += [f"{title}:", "", rates_table(rates, [DRAMATIQ]), ""]
        rounds |= {f"{mode}: {name}": rate for name, rate in rates.of.items()}
    return Answer("\n".join(text), rounds)
