"""celery over Redis, or RabbitMQ with results in Redis: `celery_pair worker|client FUNCTION MODE URL [RESULTS-URL]`."""

import warnings

from celery import Celery
from celery.result import AsyncResult
from celery.signals import worker_ready

from benchmarks.pairs.peer import Place, main_blocking, plain_echo, play_blocking_peer
from benchmarks.player import say

THREADS = 8


def declared(place: Place) -> Celery:
    app = Celery(broker=place.url, backend=place.results)
    app.conf.update(
        task_default_queue=place.function,
        worker_prefetch_multiplier=64,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        result_expires=60,
        # Without it nobody knows whether RabbitMQ has a job; where its result is awaited, that does not matter.
        broker_transport_options={"confirm_publish": place.mode == "send"} if place.url.startswith("amqp") else {},
    )
    return app


def client(place: Place) -> None:
    app = declared(place)
    task = app.task(name="echo")(plain_echo)

    def put(number: int, text: str) -> AsyncResult:
        return task.delay(number, text)

    play_blocking_peer(place.mode, put, lambda sent: sent.get(timeout=60))


def on_ready(**_: object) -> None:
    say("ready")


def worker(place: Place) -> None:
    # It minds being run by root.
    warnings.simplefilter("ignore")
    app = declared(place)
    app.task(name="echo")(plain_echo)
    worker_ready.connect(on_ready, weak=False)
    options = ["--pool=threads", f"--concurrency={THREADS}", "--without-gossip", "--without-mingle"]
    app.worker_main(["--quiet", "worker", *options, "--without-heartbeat", "--loglevel=CRITICAL"])


if __name__ == "__main__":
    main_blocking(client, worker)
