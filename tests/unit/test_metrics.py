"""Metrics: what is counted, and under which labels."""

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

import que
from que.metrics import SINCE, prometheus
from que.model import Capabilities, Delivery, Lease, Settled, Support
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop, until


class Figures:
    """A registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.observe = prometheus(self.registry)

    def of(self, name: str, backend: str = "memory", **labels: str) -> float | None:
        """Return a sample's value for the job "work"."""
        return self.registry.get_sample_value(name, {"job": "work", "backend": backend, **labels})


@in_loop
async def test_jobs_are_counted_from_their_submission_to_their_verdict() -> None:
    figures = Figures()
    app = que.Que("memory://", observers=[figures.observe])
    go_on = asyncio.Event()

    @app.job("work", retry=que.Retry(attempts=2, base=0.01))
    async def work(params: int) -> int:
        await go_on.wait()
        if params == 1:
            raise ValueError("no")
        return params

    async with app, app.worker() as worker:
        handles = work.submit_many([1, 2, 3])
        await until(lambda: figures.of("que_runs_in_flight") == 3)
        go_on.set()
        with pytest.raises(que.JobFailed):
            await handles[0]
        await que.gather(*handles[1:])
        await worker.stop()
    assert figures.of("que_jobs_submitted_total") == 3
    assert figures.of("que_jobs_settled_total", verdict="completed") == 2
    assert figures.of("que_jobs_settled_total", verdict="redelivered") == 1
    assert figures.of("que_jobs_settled_total", verdict="failed") == 1
    assert figures.of("que_runs_in_flight") == 0
    assert figures.of("que_run_seconds_count") == 4
    # The second run of a job has not waited: it was put off.
    assert figures.of("que_wait_seconds_count") == 3


@in_loop
async def test_params_that_do_not_decode_are_settled_without_a_run() -> None:
    figures = Figures()
    app = que.Que("memory://", observers=[figures.observe])

    @app.job("work")
    async def work(params: int) -> int:
        return params

    async with app, app.worker() as worker:
        with pytest.raises(que.ParamsInvalid):
            await app.submit(que.Job("work", str, int), "one")
        await worker.stop()
    assert figures.of("que_jobs_settled_total", verdict="failed") == 1
    assert figures.of("que_run_seconds_count") is None


@in_loop
async def test_the_wait_begins_when_the_job_is_due() -> None:
    figures = Figures()
    app = que.Que("memory://", observers=[figures.observe])

    @app.job("work")
    async def work(params: int) -> int:
        return params

    async with app, app.worker():
        await work.submit(1, delay=0.3)
    assert (figures.of("que_wait_seconds_sum") or 0.0) < 0.3


@in_loop
@pytest.mark.parametrize(
    ("since", "count"), [("4102444800", 1.0), ("soon", None), ("nan", None)], ids=["to come", "a word", "no number"]
)
async def test_a_foreign_time_is_taken_for_what_it_can_mean(since: str, count: float | None) -> None:
    driver = FakeDriver()
    driver.capabilities = Capabilities(lease=Lease.PROCESS, headers=Support.NATIVE)
    figures = Figures()
    app = que.Que(url := url_of(driver), observers=[figures.observe])
    scheme = url.partition(":")[0]

    @app.job("work")
    async def work(params: int) -> None:
        pass

    async with app, app.worker():
        driver.consumers[0].feed([Delivery("work", b"1", "a", headers={SINCE: since})])
        await until(lambda: figures.of("que_run_seconds_count", scheme) == 1)
    assert figures.of("que_wait_seconds_count", scheme) == count
    assert figures.of("que_wait_seconds_sum", scheme) in (None, 0.0)


@in_loop
async def test_refusals_losses_and_reconnects_are_counted() -> None:
    driver = FakeDriver()
    figures = Figures()
    app = que.Que(url := url_of(driver), observers=[figures.observe])
    scheme = url.partition(":")[0]

    @app.job("work")
    async def work(params: int) -> int:
        await asyncio.sleep(params if params > 1 else 0)
        return params

    async with app, app.worker():
        driver.answer = lambda events, envelope: events.refused(envelope.id, que.QueueFull("work"))
        with pytest.raises(que.QueueFull):
            await work.send(1)
        (consumer,) = driver.consumers
        for number, outcome in enumerate([Settled.LOST, Settled.UNCONFIRMED]):
            consumer.outcome = outcome
            consumer.feed([Delivery("work", b"1", str(number))])
            await until(lambda: figures.of("que_jobs_settled_total", scheme, verdict=outcome.value) == 1)  # noqa: B023
        consumer.feed([gone := Delivery("work", b"1000", "gone")])
        await until(lambda: figures.of("que_runs_in_flight", scheme) == 1)
        consumer.notices.lost(gone)
        await until(lambda: figures.of("que_jobs_settled_total", scheme, verdict="lost") == 2)
        driver.events.reconnected()
    assert figures.of("que_runs_in_flight", scheme) == 0
    assert figures.of("que_jobs_refused_total", scheme, error="QueueFull") == 1
    assert figures.of("que_jobs_submitted_total", scheme) is None
    assert figures.of("que_wait_seconds_count", scheme) is None
    assert figures.registry.get_sample_value("que_reconnects_total", {"backend": scheme}) == 1


@in_loop
async def test_two_apps_count_together() -> None:
    figures = Figures()
    job = que.Job("work", int, int)
    async with (
        que.Que("memory://", observers=[figures.observe]) as one,
        que.Que("memory://", observers=[figures.observe]) as two,
    ):
        await one.send(job, 1)
        await two.send(job, 1)
    assert figures.of("que_jobs_submitted_total") == 2
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus(figures.registry)


def test_what_is_not_installed_is_named_with_its_extra() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; import que.metrics"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'que-jobs[metrics]'" in ended.stderr
