"""Spans for OpenTelemetry, by its conventions for messaging: one for each submission, and one for each run of a job.

Where the engine has headers a run's span is the child of its submission's, and linked to it; where it has none, the run
begins a trace of its own.
"""

from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version

from que.address import Address
from que.errors import ConfigurationError, QueError
from que.headers import fits, has_room
from que.job import Context, Next
from que.model import Envelope
from que.observer import Observe, Observer, Told, told

try:
    from opentelemetry import propagate, trace
    from opentelemetry.context import attach, detach
    from opentelemetry.propagators.textmap import Setter, TextMapPropagator
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider
except ImportError as _error:
    raise ConfigurationError("que.otel needs opentelemetry-api: pip install 'que-jobs[otel]'") from _error

# The version of the conventions that the names of spans and attributes follow.
_SCHEMA = "https://opentelemetry.io/schemas/1.42.0"
# What a scheme's engine is called there, if it is not called like the scheme.
_SYSTEMS = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "gearmans": "gearman",
    "postgres": "postgresql",
    "rediss": "redis",
    "tls": "nats",
}


def tracing(provider: TracerProvider | None = None, propagator: TextMapPropagator | None = None) -> Observe:
    """Return what goes into `Que(…, observers=[…])`: spans of `provider`, by default the global one.

    `propagator` writes the context into headers and reads it there, by default the global one: W3C's traceparent and
    baggage.
    """
    tracer = trace.get_tracer("que", _version(), provider, _SCHEMA)
    return lambda engine: _Tracing(tracer, propagator or propagate.get_global_textmap(), engine)


def _version() -> str | None:
    try:
        return version("que-jobs")
    except PackageNotFoundError:
        # Run from its sources, as they are.
        return None


class _Fitting(Setter[MutableMapping[str, str]]):
    """Leaves out what an engine could not carry."""

    def set(self, carrier: MutableMapping[str, str], key: str, value: str) -> None:
        name = key.lower()
        if fits(name, value) and has_room({**carrier, name: value}):
            carrier[name] = value


_setter = _Fitting()


class _Tracing(Observer):
    def __init__(self, tracer: Tracer, propagator: TextMapPropagator, engine: Address) -> None:
        self._tracer = tracer
        self._propagator = propagator
        self._facts = _facts_of(engine)

    def submitting(self, envelope: Envelope, headers: MutableMapping[str, str] | None) -> Told:
        """Begin a span that ends with the engine's answer."""
        attributes = self._attributes("send", envelope.function, envelope.id)
        span = self._tracer.start_span(f"send {envelope.function}", kind=SpanKind.PRODUCER, attributes=attributes)
        # A context that the user has given is not ours to change.
        if headers is not None and headers.keys().isdisjoint(self._propagator.fields):
            self._propagator.inject(headers, trace.set_span_in_context(span), _setter)

        def end(error: QueError | None) -> None:
            if error is not None:
                _fail(span, error)
            span.end()

        return end

    async def run(self, context: Context[object], params: object, call_next: Next) -> object:
        """Have the run inside a span, which is the current one for the handler."""
        # Nothing of what surrounds the worker is in it.
        came = self._propagator.extract(context.headers)
        origin = trace.get_current_span(came).get_span_context()
        attributes = self._attributes("process", context.job, context.job_id)
        if context.attempt is not None:
            attributes["que.attempt"] = context.attempt
        span = self._tracer.start_span(
            f"process {context.job}",
            came,
            SpanKind.CONSUMER,
            attributes,
            [Link(origin)] if origin.is_valid else (),
        )
        token = attach(trace.set_span_in_context(span, came))
        try:
            return await call_next(params)
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            detach(token)
            span.end()

    def _attributes(self, operation: str, job: str, id: str) -> dict[str, str | int]:
        return {
            **self._facts,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": job,
            "messaging.message.id": id,
        }


def _facts_of(engine: Address) -> dict[str, str | int]:
    facts: dict[str, str | int] = {"messaging.system": _SYSTEMS.get(engine.scheme, engine.scheme)}
    # Of several it is not known which one a job goes to.
    if len(engine.hosts) == 1:
        facts["server.address"] = engine.hosts[0].name
        if engine.hosts[0].port is not None:
            facts["server.port"] = engine.hosts[0].port
    return facts


def _fail(span: Span, error: BaseException) -> None:
    kind = type(error)
    span.set_attribute("error.type", kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind))
    span.set_status(StatusCode.ERROR, kind.__name__)
    # It calls str(error), which is the user's.
    told(span.record_exception, error)


def _full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
