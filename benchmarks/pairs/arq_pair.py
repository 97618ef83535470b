"""arq over Redis: `arq_pair worker|client FUNCTION MODE URL`."""

from contextlib import suppress

from arq import Worker, func
from arq.connections import ArqRedis
from arq.jobs import Job, ResultNotFound
from redis.asyncio import BlockingConnectionPool

from benchmarks.pairs.peer import Answer, Place, main, play_peer
from benchmarks.player import IN_FLIGHT, say

# It asks for jobs and for results at this interval; a shorter one slows both sides down.
POLL_SECONDS = 0.01
CONNECTIONS = 100


def opened(place: Place) -> ArqRedis:
    host, port = place.address
    pool = BlockingConnectionPool(max_connections=CONNECTIONS, timeout=60, host=host, port=port)
    return ArqRedis(pool, default_queue_name=place.function)


async def client(place: Place) -> None:
    redis = opened(place)

    async def put(number: int, text: str) -> Job:
        job = await redis.enqueue_job("echo", number, text)
        assert job is not None
        return job

    async def result(job: Job) -> Answer:
        while True:
            # It looks for the result, then for the job: one that ends in between is reported as unknown.
            with suppress(ResultNotFound):
                return await job.result(timeout=60, poll_delay=POLL_SECONDS)

    await play_peer(place.mode, put, result)


async def echo(_: object, number: int, text: str) -> Answer:
    return {"number": number, "text": text}


async def worker(place: Place) -> None:
    running = Worker(
        [func(echo, keep_result=60)],
        queue_name=place.function,
        redis_pool=opened(place),
        max_jobs=IN_FLIGHT,
        poll_delay=POLL_SECONDS,
        handle_signals=False,
        log_results=False,
    )
    say("ready")
    await running.async_run()


if __name__ == "__main__":
    main(client, worker)
