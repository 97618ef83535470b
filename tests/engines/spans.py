"""Spans on real engines: a worker in another app, with a provider of its own, finds the submitter's context or none.

These are tests of each engine with headers whose room imports them; its room has the fixture `url`.
"""

import asyncio
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import que
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
