"""Spans: their names, kinds and attributes, what they are children of, and what becomes of errors."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

import que
from que.address import Address
from que.model import Envelope
from que.otel import tracing
from tests.engines.observed import Spans
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return dict(span.attributes)


@in_loop
async def test_a_submission_and_a_run_have_a_span_each_by_the_conventions_for_messaging() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])

    @app.job("double")
    async def double(params: int) -> int:
        return 2 * params

    async with app, app.worker():
        handle = double.submit(21)
        await handle
    send, process = spans.ended
    facts = {"messaging.system": "memory", "messaging.destination.name": "double", "messaging.message.id": handle.id}
    assert (send.name, send.kind) == ("send double", SpanKind.PRODUCER)
    assert attributes(send) == facts | {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert (process.name, process.kind) == ("process double", SpanKind.CONSUMER)
    assert attributes(process) == facts | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "que.attempt": 1,
    }
    assert {send.status.status_code, process.status.status_code} == {StatusCode.UNSET}


@in_loop
async def test_a_handlers_own_spans_and_submissions_are_children_of_its_run() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])
    tracer = spans.provider.get_tracer("test")

    @app.job("inner")
    def inner(params: int) -> int:
        with tracer.start_as_current_span("in a thread"):
            return params

    @app.job("outer")
    async def outer(params: int) -> int:
        with tracer.start_as_current_span("in the loop"):
            return await inner.submit(params)

    with tracer.start_as_current_span("request"):
        async with app, app.worker():
            await asyncio.gather(outer.submit(1), outer.submit(2))
    for name in ("in a thread", "in the loop", "send inner", "process inner", "process outer", "send outer"):
        assert len(spans.named(name)) == 2
    order = ["in a thread", "process inner", "send inner", "in the loop", "process outer", "send outer", "request"]
    by_id = {span.context.span_id: span for span in spans.ended if span.context is not None}
    for span in spans.named("in a thread"):
        line = [span]
        while (parent := line[-1].parent) is not None:
            line.append(by_id[parent.span_id])
        assert [each.name for each in line] == order


@in_loop
async def test_a_job_without_a_context_is_no_child_of_what_surrounds_its_worker() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])

    @app.job("work")
    async def work(params: int) -> str:
        return str(trace.get_current_span().get_span_context().is_valid)

    with spans.provider.get_tracer("test").start_as_current_span("deployment"):
        async with app, app.worker():
            driver = next(iter(app.backends.values())).driver
            await driver.submit([Envelope("foreign", "work", b"1", background=True)])
            while not spans.named("process work"):
                await asyncio.sleep(0.001)
    (run,) = spans.named("process work")
    assert run.parent is None
    assert list(run.links) == []


@in_loop
async def test_a_context_that_the_user_has_given_is_kept() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])
    seen: list[Mapping[str, str]] = []

    @app.job("work")
    async def work(params: int, context: que.Context) -> None:
        seen.append(context.headers)

    async with app, app.worker():
        await work.submit(1, headers={"traceparent": PARENT})
    assert seen == [{"traceparent": PARENT}]
    (run,) = spans.named("process work")
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == PARENT.split("-")[2]


@in_loop
async def test_baggage_travels_and_what_no_engine_could_carry_stays_behind() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])
    seen: list[object] = []

    @app.job("work")
    async def work(params: int, context: que.Context) -> None:
        seen.append((baggage.get_baggage("tenant"), sorted(context.headers)))

    async with app, app.worker():
        for value in ("blue\r\ngreen", "x" * 3000):
            token = attach(baggage.set_baggage("more", "y" * 2000, baggage.set_baggage("tenant", value)))
            try:
                await work.submit(1)
            finally:
                detach(token)
    assert seen == [("blue\r\ngreen", ["baggage", "traceparent"]), (None, ["traceparent"])]


class Careless(TextMapPropagator):
    """Writes what some engine would not carry."""

    @property
    def fields(self) -> set[str]:
        return {"x-user"}

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return context or Context()

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        setter.set(carrier, "X-User", "Zoë")
        setter.set(carrier, "X-Host", "here")


@in_loop
async def test_a_header_that_some_engine_could_not_carry_is_left_out() -> None:
    app = que.Que("memory://", observers=[tracing(propagator=Careless())])

    @app.job("work")
    async def work(params: int, context: que.Context) -> dict[str, str]:
        return dict(context.headers)

    async with app, app.worker():
        assert await work.submit(1) == {"x-host": "here"}


@in_loop
async def test_the_first_step_of_a_flow_is_no_child_of_what_ran_when_something_was_sent_first() -> None:
    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])

    @app.job("first")
    async def first(params: int) -> int:
        return params

    async with app, app.worker():
        with spans.provider.get_tracer("test").start_as_current_span("request"):
            await first.then(first).submit(1)
    assert [span.parent for span in spans.named("send first")] == [None, None]


@in_loop
async def test_a_run_leaves_the_current_span_as_it_was() -> None:
    spans = Spans()
    observer = spans.observe(Address.parse("memory://"))
    with spans.provider.get_tracer("test").start_as_current_span("mine") as mine:
        await observer.run(que.Context[object]("work", state=None), 1, echo)
        assert trace.get_current_span() is mine
    (run,) = spans.named("process work")
    assert run.parent is None


async def echo(params: object) -> object:
    return params


@in_loop
async def test_an_error_is_the_spans_too_and_its_text_may_fail() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    spans = Spans()
    app = que.Que("memory://", observers=[spans.observe])

    @app.job("work")
    async def work(params: int) -> None:
        raise [KeyError("no"), Unspeakable(), que.Reject("never")][params]

    async with app, app.worker():
        for number, name in enumerate(["KeyError", "Unspeakable", "Reject"]):
            with pytest.raises(que.JobFailed) as caught:
                await work.submit(number)
            assert caught.value.type == name
    runs = spans.named("process work")
    assert {run.status.status_code for run in runs} == {StatusCode.ERROR}
    types = [str(attributes(run)["error.type"]) for run in runs]
    assert types[0] == "KeyError"
    assert types[1].endswith("<locals>.Unspeakable")
    assert types[2] == "que.errors.Reject"
    assert [len(run.events) for run in runs] == [1, 0, 1]


@in_loop
async def test_a_refusal_is_the_submissions_error() -> None:
    spans = Spans()
    driver = FakeDriver()
    driver.answer = lambda events, envelope: events.refused(envelope.id, que.QueueFull("work"))
    async with que.Que(url_of(driver), observers=[spans.observe]) as app:
        with pytest.raises(que.QueueFull):
            await app.send(que.Job("work", int, int), 1)
    (send,) = spans.named("send work")
    assert send.status.status_code is StatusCode.ERROR
    assert attributes(send)["error.type"] == "que.errors.QueueFull"


def test_spans_name_the_library_and_its_version_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    finds: list[Callable[[str], str]] = [lambda name: f"1.2 of {name}", unknown]
    for find in finds:
        monkeypatch.setattr("que.otel.version", find)
        spans = Spans()
        told = spans.observe(Address.parse("memory://")).submitting(Envelope("id", "work", b""), None)
        assert told is not None
        told(None)
        (send,) = spans.named("send work")
        scope = send.instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version or None) == ("que", None if find is unknown else "1.2 of que-jobs")


def test_what_is_not_installed_is_named_with_its_extra() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import que.otel"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'que-jobs[otel]'" in ended.stderr
