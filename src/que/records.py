"""What a worker writes down of a job before its verdict leaves: results that are to be kept, and how far flows are.

The order is what loses nothing: what a job gave is kept first, then the next steps of its flow are sent, and only then
its verdict is settled. A worker that dies in between leaves the job to another one, which finds what was kept and goes
on from there without running it again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from que.backend import Backend
from que.batch import Batcher
from que.driver import Keeps
from que.errors import ConfigurationError, QueueFull, Rejected
from que.flow import Plan, parse_step_id, step_id
from que.job import Job
from que.keeping import (
    LIFETIME_SECONDS,
    FlowEnd,
    end_in,
    end_key,
    ending_of_flow,
    plan_in,
    plan_key,
    state_keys,
    step_envelope,
)
from que.model import Completed, Delivery, Ending, Failed, Kept, Released, Settlement, Support, Verdict
from que.retry import Retry

ValueT = TypeVar("ValueT")

_log = logging.getLogger("que")

_AGAIN = Retry(attempts=10**9, base=0.2, max=5.0)
_CALL_SECONDS = 30.0
_MOST_PLANS = 1000
_OVER = Failed("cancelled", "JobCancelled", "its flow has ended")


class _GivenUp(Exception):
    """The worker stops, and what could not be written down until now is not written down here."""


class Records:
    """Stands between the runs of one consumer and the settling of their verdicts.

    While the store cannot be reached a job that has something to keep stays with its worker, in its slot, its lease
    renewed; if the worker stops meanwhile, the job is given back.
    """

    def __init__(
        self,
        backend: Backend,
        jobs: Collection[Job[object, object]],
        runners: Mapping[str, Callable[[Delivery], Coroutine[object, object, Verdict]]],
        settle: Callable[[Settlement], None],
    ) -> None:
        store = backend.store
        self._backend = backend
        self._keeps = store.driver if store is not None and isinstance(store.driver, Keeps) else None
        self._runners = runners
        self._settle = settle
        # The jobs whose results are kept, and for how many seconds.
        self.ttls: dict[str, float] = {}
        if backend.capabilities.results_stored is Support.EMULATED:
            self.ttls = {job.name: ttl for job in jobs if (ttl := job.options.result_ttl)}
        self._plans: dict[str, Plan] = {}
        self._writing = Batcher[Settlement](self._write, None, backend.loop)
        self._stopping = asyncio.Event()
        # What has run and is not settled yet: its lease is still to be renewed.
        self.held: set[Delivery] = set()

    def run(self, delivery: Delivery) -> Coroutine[object, object, Verdict]:
        """Return the coroutine that runs `delivery`, unless it is a step that is not to run any more."""
        if delivery.id.startswith("flow-"):
            return self._run_step(delivery)
        return self._runners[delivery.function](delivery)

    def add(self, settlement: Settlement) -> None:
        """Write down what is to be kept of a job that is among `ttls`, or a step, then settle its verdict."""
        delivery, verdict = settlement
        if isinstance(verdict, Ending):
            self.held.add(delivery)
            self._writing.add(settlement)
        else:
            self._settle(settlement)

    async def close(self) -> None:
        """Give back what cannot be written down by now; everything is handed over to be settled when this returns."""
        self._stopping.set()
        try:
            await self._writing.close()
        finally:
            for delivery in list(self.held):
                self._hand_over(delivery, Released())

    async def _write(self, settlements: Sequence[Settlement]) -> None:
        await asyncio.gather(*[self._write_one(delivery, verdict) for delivery, verdict in settlements])

    async def _write_one(self, delivery: Delivery, verdict: Verdict) -> None:
        assert isinstance(verdict, Ending)
        try:
            step = parse_step_id(delivery.id)
            if step is None:
                # A foreign id may look like a step's.
                if (ttl := self.ttls.get(delivery.function)) is not None:
                    await self._keep([Kept(delivery.id, verdict, ttl)])
            elif verdict is not _OVER:
                await self._write_step(*step, delivery.function, verdict)
        except _GivenUp:
            verdict = Released()
        except Exception:
            line = "job %s %s: what it gave cannot be written down: given back"
            _log.exception(line, delivery.function, delivery.id, extra=delivery.facts)
            verdict = Released()
        self._hand_over(delivery, verdict)

    def _hand_over(self, delivery: Delivery, verdict: Verdict) -> None:
        self.held.discard(delivery)
        self._settle((delivery, verdict))

    async def _run_step(self, delivery: Delivery) -> Verdict:
        """Run a step of a flow, unless it has run already or its flow has ended; then its verdict is known."""
        step = parse_step_id(delivery.id)
        if step is None:
            return await self._runners[delivery.function](delivery)
        flow, number = step

        async def look() -> tuple[Plan | None, Ending | None, Ending | None]:
            kept, end, own = await self._store().keep((), [plan_key(flow), end_key(flow), delivery.id])
            return plan_in(kept), end, own

        try:
            plan, end, own = await self._insist("looked up", look)
        except _GivenUp:
            return Released()
        if own is not None:
            return own
        if plan is None or (end is not None and number < len(plan.steps)):
            return _OVER
        self._remember(flow, plan)
        return await self._runners[delivery.function](delivery)

    def _remember(self, flow: str, plan: Plan) -> None:
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[flow] = plan

    async def _plan(self, flow: str) -> Plan | None:
        if flow in self._plans:
            return self._plans[flow]
        (kept,) = await self._keep((), [plan_key(flow)])
        return plan_in(kept)

    async def _write_step(self, flow: str, number: int, job: str, ending: Ending) -> None:
        """Keep how a step has ended, and send what follows from it, unless its flow has ended otherwise."""
        plan = await self._plan(flow)
        if plan is None:
            return
        if number == len(plan.steps):
            await self._forget(flow, plan)
            return
        id = step_id(flow, number)
        entries = [Kept(id, ending, LIFETIME_SECONDS)]
        if isinstance(ending, Failed) or number == len(plan.steps) - 1:
            entries += ending_of_flow(flow, plan, id, ending, job)
        kept, end, *kept_steps = await self._keep(entries, state_keys(flow, plan))
        if kept is None:
            # The flow was over before, and this ran beside another run of the same step.
            await self._forget(flow, plan)
        elif end is not None:
            await self._end(flow, plan, id, end_in(end))
        else:
            await self._follow(flow, plan, number, kept_steps)

    async def _follow(self, flow: str, plan: Plan, number: int, kept: Sequence[Ending | None]) -> None:
        """Send the steps after that one which have all that they wait for, and have not run."""
        for follower in plan.followers(number):
            inputs = [kept[each] for each in plan.steps[follower].inputs]
            results = [each.payload for each in inputs if isinstance(each, Completed)]
            if kept[follower] is None and len(results) == len(inputs):
                refusal = await self._send(flow, plan, follower, plan.params(follower, results))
                if refusal is not None:
                    id = step_id(flow, number)
                    ending = Failed("rejected", type(refusal).__name__, str(refusal))
                    entries = ending_of_flow(flow, plan, id, ending, plan.steps[follower].function)
                    (end,) = await self._keep(entries, [end_key(flow)])
                    await self._end(flow, plan, id, end_in(end))
                    return

    async def _end(self, flow: str, plan: Plan, id: str, end: FlowEnd | None) -> None:
        """See to what comes after the end of a flow, if it was the step `id` that ended it."""
        if end is None or end.step != id:
            return
        if end.failure is None or plan.on_failure is None:
            await self._forget(flow, plan)
            return
        if await self._send(flow, plan, len(plan.steps), plan.encode(end.failure)) is not None:
            await self._forget(flow, plan)

    async def _forget(self, flow: str, plan: Plan) -> None:
        self._plans.pop(flow, None)
        await self._drop(state_keys(flow, plan))

    async def _send(self, flow: str, plan: Plan, number: int, payload: bytes) -> Rejected | None:
        """Send a step, and return once the engine has it; return the error if the engine will never take it."""
        envelope = step_envelope(self._backend, flow, plan, number, payload)

        async def post() -> Rejected | None:
            try:
                await self._backend.post(envelope)
            except QueueFull:
                raise
            except Rejected as refusal:
                _log.error("flow %s: the engine refuses its job %s: %s", flow, envelope.function, refusal)
                return refusal
            return None

        return await self._insist("sent", post)

    async def _keep(self, entries: Sequence[Kept], keys: Sequence[str] = ()) -> Sequence[Ending | None]:
        return await self._insist("kept", lambda: self._store().keep(entries, keys))

    async def _drop(self, keys: Sequence[str]) -> None:
        await self._insist("forgotten", lambda: self._store().forget(keys))

    def _store(self) -> Keeps:
        if self._keeps is None:
            raise ConfigurationError("a step of a flow, and no store: this worker needs the results= of its submitter")
        return self._keeps

    async def _insist(self, what: str, call: Callable[[], Awaitable[ValueT]]) -> ValueT:
        """Return what `call` returns, trying again until it does; raises _GivenUp once the worker stops."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    return await call()
            except Exception as error:
                failures += 1
                wait_seconds = _AGAIN.wait(failures, error) or 0.0
                line = "%s: what a job gave could not be %s: %r; next try in %.3g s"
                _log.error(line, self._backend.address, what, error, wait_seconds)
            if self._stopping.is_set():
                raise _GivenUp
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._stopping.wait()
