"""Metrics for Prometheus: what is submitted, worked and settled, how long it takes, and how often connections broke."""

import math
import time
from collections.abc import Mapping, MutableMapping

from que.errors import ConfigurationError, QueError
from que.job import Context, Next
from que.model import Completed, Delivery, Envelope, Failed, Redeliver, Released, Settled, Verdict
from que.observer import Observe, Observer, Told

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as _error:
    raise ConfigurationError("que.metrics needs prometheus-client: pip install 'que-jobs[metrics]'") from _error

# Unix seconds from which a job waits for a worker, where the engine carries it.
SINCE = "que-since"
_VERDICTS: dict[type[Verdict], str] = {
    Completed: "completed",
    Failed: "failed",
    Redeliver: "redelivered",
    Released: "released",
}
_JOB = ("job", "backend")
_WAIT_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_RUN_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)


def prometheus(registry: CollectorRegistry = REGISTRY) -> Observe:
    """Return what goes into `Que(…, observers=[…])`: metrics in `registry`, which can hold them once.

    What it returns may go into several apps of a process, which then count together. Raises ValueError if `registry`
    has these metrics already.
    """
    meters = _Meters(registry)
    return lambda engine: _Counting(meters, engine.scheme)


class _Meters:
    """The metrics; their labels are the names of declared jobs, schemes of engines, and words of ours."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.submitted = Counter("que_jobs_submitted", "Jobs that the engine has taken.", _JOB, registry=registry)
        self.refused = Counter("que_jobs_refused", "Jobs not taken, by error.", (*_JOB, "error"), registry=registry)
        self.settled = Counter("que_jobs_settled", "Jobs a worker is rid of.", (*_JOB, "verdict"), registry=registry)
        self.running = Gauge("que_runs_in_flight", "Runs of jobs, now.", _JOB, registry=registry)
        self.wait = Histogram(
            "que_wait_seconds",
            "From when a job was to run to when it first did, where the engine carries headers.",
            _JOB,
            registry=registry,
            buckets=_WAIT_BUCKETS,
        )
        self.run = Histogram("que_run_seconds", "How long a run took.", _JOB, registry=registry, buckets=_RUN_BUCKETS)
        self.reconnects = Counter("que_reconnects", "Lost connections replaced.", ("backend",), registry=registry)


class _Counting(Observer):
    def __init__(self, meters: _Meters, scheme: str) -> None:
        self._meters = meters
        self._scheme = scheme
        self._reconnects = meters.reconnects.labels(scheme)

    def submitting(self, envelope: Envelope, headers: MutableMapping[str, str] | None) -> Told:
        """Write down from when the job waits, and count it by the engine's answer."""
        if headers is not None:
            headers[SINCE] = f"{max(time.time(), envelope.due or 0.0):.6f}"
        job, scheme, meters = envelope.function, self._scheme, self._meters

        def count(error: QueError | None) -> None:
            if error is None:
                meters.submitted.labels(job, scheme).inc()
            else:
                meters.refused.labels(job, scheme, type(error).__name__).inc()

        return count

    async def run(self, context: Context[object], params: object, call_next: Next) -> object:
        """Time the run, and the wait before the first one."""
        meters, job, scheme = self._meters, context.job, self._scheme
        if context.attempt in (None, 1) and (since := _since(context.headers)) is not None:
            # The submitter's clock may be ahead of ours.
            meters.wait.labels(job, scheme).observe(max(0.0, time.time() - since))
        running = meters.running.labels(job, scheme)
        running.inc()
        start = time.perf_counter()
        try:
            return await call_next(params)
        finally:
            meters.run.labels(job, scheme).observe(time.perf_counter() - start)
            running.dec()

    def settled(self, delivery: Delivery, verdict: Verdict | None, outcome: Settled) -> None:
        """Count it by its verdict, or by what kept that from being the engine's."""
        name = outcome.value
        if verdict is not None and outcome is Settled.CONFIRMED:
            name = _VERDICTS[type(verdict)]
        self._meters.settled.labels(delivery.function, self._scheme, name).inc()

    def reconnected(self) -> None:
        """Count it."""
        self._reconnects.inc()


def _since(headers: Mapping[str, str]) -> float | None:
    try:
        since = float(headers[SINCE])
    except (KeyError, ValueError):
        return None
    return since if math.isfinite(since) else None
