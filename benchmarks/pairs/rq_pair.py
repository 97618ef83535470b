"""rq over Redis, with the worker that does not fork for each job: `rq_pair worker|client FUNCTION MODE URL`."""

from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job

from benchmarks.pairs.peer import Answer, Place, main_blocking, plain_echo, play_blocking_peer
from benchmarks.player import say


def client(place: Place) -> None:
    queue = Queue(place.function, connection=Redis(*place.address))

    def put(number: int, text: str) -> Job:
        return queue.enqueue_call(plain_echo, (number, text), result_ttl=60)

    def result(job: Job) -> Answer:
        answer = job.latest_result(timeout=60)
        assert answer is not None
        return answer.return_value

    play_blocking_peer(place.mode, put, result)


def worker(place: Place) -> None:
    connection = Redis(*place.address)
    say("ready")
    SimpleWorker([Queue(place.function, connection=connection)], connection=connection).work(logging_level="ERROR")


if __name__ == "__main__":
    main_blocking(client, worker)
