"""What is seen of jobs on real engines, by a submitter and a worker in two apps that stand for two processes.

These are tests of each engine whose room imports them, the ones that fit it; its room has the fixture `url`.
"""

import asyncio
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

import que
from que.address import Address
from que.metrics import prometheus
from que.otel import tracing
from tests.unit.loops import in_loop


class Spans:
    """One process's spans; `observe` goes into its app."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.observe: que.Observe = tracing(self.provider)

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        """Those that have ended, in that order."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of that name."""
        return [span for span in self.ended if span.name == name]


async def traced(url: str) -> tuple[Spans, Spans]:
    """Submit a job that fails once, inside a span, and return the spans of the submitter and of the worker."""
    submitter, worker = Spans(), Spans()
    job = que.Job("double", int, int, retry=que.Retry(attempts=2, base=0.01))
    attempts: list[int | None] = []

    @job.handler
    async def double(number: int, context: que.Context) -> int:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise ValueError("not yet")
        return 2 * number

    async with que.Que(url, observers=[worker.observe]) as working, que.Que(url, observers=[submitter.observe]) as app:
        working.add(job)
        with submitter.provider.get_tracer("test").start_as_current_span("request"):
            handle = app.submit(que.Job("double", int, int), 21)
        async with working.worker(), asyncio.timeout(20):
            assert await handle == 42
    return submitter, worker


@in_loop
async def test_the_context_is_carried_to_every_run(url: str) -> None:
    submitter, worker = await traced(url)
    (request,) = submitter.named("request")
    (send,) = submitter.named("send double")
    first, second = worker.named("process double")
    assert send.parent is not None
    assert request.context is not None
    assert send.parent.span_id == request.context.span_id
    assert send.context is not None
    for run in (first, second):
        assert run.parent is not None
        assert (run.parent.trace_id, run.parent.span_id) == (send.context.trace_id, send.context.span_id)
        assert [link.context.span_id for link in run.links] == [send.context.span_id]
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes["error.type"] == "ValueError"
    assert "error.type" not in second.attributes
    assert first.attributes["messaging.message.id"] == second.attributes["messaging.message.id"]


@in_loop
async def test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context(url: str) -> None:
    submitter, worker = await traced(url)
    (send,) = submitter.named("send double")
    runs = worker.named("process double")
    assert len(runs) == 2
    assert send.context is not None
    assert send.attributes is not None
    for run in runs:
        assert run.parent is None
        assert list(run.links) == []
        assert run.context is not None
        assert run.context.trace_id != send.context.trace_id
        assert run.attributes is not None
        assert run.attributes["messaging.message.id"] == send.attributes["messaging.message.id"]


@in_loop
async def test_what_happens_to_jobs_is_counted_where_it_happens(url: str) -> None:
    submitter, worker = CollectorRegistry(), CollectorRegistry()
    labels = {"job": "double", "backend": Address.parse(url).scheme}
    job = que.Job("double", int, int)

    @job.handler
    async def double(number: int) -> int:
        if number == 9:
            raise ValueError(number)
        return 2 * number

    async with (
        que.Que(url, observers=[prometheus(worker)]) as working,
        que.Que(url, observers=[prometheus(submitter)]) as app,
    ):
        working.add(job)
        async with working.worker() as crew, asyncio.timeout(20):
            handles = app.submit_many(que.Job("double", int, int), range(10))
            assert await que.gather(*handles[:9]) == tuple(range(0, 18, 2))
            with pytest.raises(que.JobFailed):
                await handles[9]
            await crew.stop()
        has_headers = bool(next(iter(app.backends.values())).capabilities.headers)
    assert submitter.get_sample_value("que_jobs_submitted_total", labels) == 10
    assert worker.get_sample_value("que_jobs_settled_total", {**labels, "verdict": "completed"}) == 9
    assert worker.get_sample_value("que_jobs_settled_total", {**labels, "verdict": "failed"}) == 1
    assert worker.get_sample_value("que_run_seconds_count", labels) == 10
    assert worker.get_sample_value("que_runs_in_flight", labels) == 0
    # Nothing is made up where the submitter could not say when it was.
    assert worker.get_sample_value("que_wait_seconds_count", labels) == (10 if has_headers else None)
