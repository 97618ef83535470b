"""What an engine's jobs leave in a store: results that the engine does not keep, and flows on their way."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import msgspec

from que.address import Address
from que.batch import Batcher
from que.driver import Driver, Inspects, Keeps
from que.errors import ConnectionLost, JobError, JobUnknown, NotSent, QueError, SubmitAmbiguous, SubmitError
from que.flow import FlowFailure, Plan, step_id
from que.handle import Handle, Promise, Sending
from que.model import Completed, Ending, Envelope, Failed, JobStatus, Kept

_log = logging.getLogger("que")

# A flow that has not ended by then is forgotten.
LIFETIME_SECONDS = 30 * 86_400.0
# How often the engine is asked whether it still has the jobs whose results are waited for at the store.
_LOOK_SECONDS = 10.0


class FlowEnd(msgspec.Struct, frozen=True):
    """By which step a flow has ended, "" where it was cancelled, and how it failed, if it did."""

    step: str
    failure: FlowFailure | None = None


_load_end = msgspec.json.Decoder(FlowEnd).decode


def plan_key(flow: str) -> str:
    """Return the key of a flow's plan."""
    return f"{flow}.plan"


def end_key(flow: str) -> str:
    """Return the key of how a flow ended. The key of its result is its id, those of its steps' results are theirs."""
    return f"{flow}.end"


def state_keys(flow: str, plan: Plan) -> Sequence[str]:
    """Return the keys of all that is kept of a flow, but its result."""
    return [plan_key(flow), end_key(flow), *(step_id(flow, number) for number in range(len(plan.steps)))]


def plan_in(kept: Ending | None) -> Plan | None:
    """Return the plan that was kept."""
    return Plan.load(kept.payload) if isinstance(kept, Completed) else None


def end_in(kept: Ending | None) -> FlowEnd | None:
    """Return the end that was kept."""
    return _load_end(kept.payload) if isinstance(kept, Completed) else None


def ending_of_flow(flow: str, plan: Plan, step: str, ending: Ending, job: str) -> Sequence[Kept]:
    """Return what is to be kept when `ending`, of its last step or of one that failed, ends a flow."""
    failure = None
    if isinstance(ending, Failed):
        failure = FlowFailure(flow, job, ending.kind, ending.type, ending.message)
    end = Completed(msgspec.json.encode(FlowEnd(step, failure)))
    return [Kept(flow, ending, plan.result_ttl), Kept(end_key(flow), end, LIFETIME_SECONDS)]


class Engine(Protocol):
    """The backend whose jobs are meant."""

    @property
    def address(self) -> Address: ...
    @property
    def driver(self) -> Driver: ...
    async def status(self, reference: str) -> JobStatus: ...
    def post(self, envelope: Envelope) -> Sending: ...


class Store(Protocol):
    """The backend that keeps: a companion, or the engine itself."""

    @property
    def address(self) -> Address: ...
    @property
    def driver(self) -> Driver: ...
    def expect(self, handle: Handle[object]) -> None: ...
    def lost(self, id: str, error: JobError) -> None: ...


class FlowStart(msgspec.Struct, frozen=True):
    """A flow that is to begin; the handle's id is its own."""

    plan: Plan
    handle: Handle[object]

    @property
    def flow(self) -> str:
        """The flow's id."""
        return self.handle.id


def step_envelope(engine: Engine, flow: str, plan: Plan, number: int, payload: bytes) -> Envelope:
    """Return a step as a job; sent again while it lives, it is the same job, where the engine can tell."""
    id = step_id(flow, number)
    step = plan.step(number)
    can = engine.driver.capabilities
    return Envelope(
        id, step.function, payload, background=True, priority=step.priority, unique=id if can.unique else None
    )


class Keeping:
    """One engine's part in a store: begins, cancels and counts flows, and waits for results."""

    def __init__(self, engine: Engine, store: Store) -> None:
        assert isinstance(store.driver, Keeps)
        self._engine = engine
        self._store = store
        self._keeps: Keeps = store.driver
        loop = asyncio.get_running_loop()
        self._starting: dict[str, FlowStart] | None = {}
        self._starts = Batcher[FlowStart](self._begin, None, loop)
        self._attending = Batcher[tuple[str, str]](self._attend, self._store.driver.calls_in_flight, loop)
        self._sought: dict[str, tuple[str, str]] = {}
        self._looking = Batcher[str](self._look, 1, loop)
        self._seeking: asyncio.Task[None] | None = None

    def add(self, start: FlowStart) -> None:
        """Let a flow begin at the end of this loop tick; its handle hears of all that becomes of it."""
        if self._starting is None:
            start.handle.settle_failed(NotSent("the app was disconnected before the flow could begin"))
            return
        self._starting[start.flow] = start
        self._starts.add(start)

    async def _begin(self, starts: Sequence[FlowStart]) -> None:
        """Keep the plans, and only then send the first steps."""
        plans = [Kept(plan_key(start.flow), Completed(start.plan.dump()), LIFETIME_SECONDS) for start in starts]
        try:
            await self._keeps.keep(plans)
        except Exception as error:
            for start in starts:
                start.handle.settle_failed(NotSent(f"the flow could not be kept: {error}"))
            _log.exception("%s: a flow could not be kept", self._store.address)
        else:
            for start in starts:
                self.attend(start.handle, start.flow)
            await asyncio.gather(*[self._send_first(start) for start in starts])
        for start in starts:
            if self._starting is not None:
                self._starting.pop(start.flow, None)

    def attend(self, handle: Handle[object], key: str) -> None:
        """Let `handle` hear of what is, or will be, kept under `key`."""
        self._store.expect(handle)
        self._attending.add((handle.id, key))

    async def _attend(self, watches: Sequence[tuple[str, str]]) -> None:
        try:
            await self._keeps.attend(watches)
        except Exception as error:
            for id, _ in watches:
                self._store.lost(
                    id, ConnectionLost(f"{self._store.address} could not be asked for the result: {error}")
                )
            _log.exception("driver of %s: attend() failed", self._store.address)

    async def _send_first(self, start: FlowStart) -> None:
        flow, plan = start.flow, start.plan
        try:
            for sending in [
                self._engine.post(step_envelope(self._engine, flow, plan, number, plan.params(number, ())))
                for number in plan.first()
            ]:
                await sending
        except QueError as error:
            start.handle.settle_failed(error if isinstance(error, SubmitError) else NotSent(str(error)))
            await self._give_up(flow)
        else:
            start.handle.settle_accepted(flow)

    async def _give_up(self, flow: str) -> None:
        try:
            await self.cancel(flow)
        except QueError as error:
            _log.warning("flow %s, which could not begin, could not be ended either: %s", flow, error)

    async def cancel(self, flow: str) -> bool:
        """End a flow, unless it has ended: what has not run will not; return whether this did it."""
        kept, end = await self._keeps.keep((), [plan_key(flow), end_key(flow)])
        plan = plan_in(kept)
        if plan is None or end is not None:
            return False
        failure = Failed("cancelled", "JobCancelled", "the flow was cancelled")
        _, end = await self._keeps.keep(ending_of_flow(flow, plan, "", failure, ""), [plan_key(flow), end_key(flow)])
        cancelled = end_in(end) == FlowEnd("", FlowFailure(flow, "", failure.kind, failure.type, failure.message))
        if cancelled:
            await self._keeps.forget(state_keys(flow, plan))
        return cancelled

    async def status(self, flow: str) -> JobStatus:
        """Return how many steps of a flow have ended; one that has ended is not known."""
        (kept,) = await self._keeps.keep((), [plan_key(flow)])
        plan = plan_in(kept)
        if plan is None:
            return JobStatus(known=False, running=False)
        keys = state_keys(flow, plan)
        kept, end, *steps = await self._keeps.keep((), keys)
        if kept is None or end is not None:
            return JobStatus(known=False, running=False)
        return JobStatus(True, True, sum(step is not None for step in steps), len(steps))

    def seek(self, handle: Handle[object], job_id: str, reference: str) -> None:
        """Let `handle` hear of the result of a job of the engine, which is, or will be, kept under its id.

        A result is kept before its job leaves the engine: where the engine does not know the job and nothing is kept,
        nothing will be, and the handle ends as JobUnknown. An engine that cannot tell is not asked.
        """
        self.attend(handle, job_id)
        if isinstance(self._engine.driver, Inspects) and self._engine.driver.capabilities.inspect:
            self._sought[handle.id] = (job_id, reference)
            handle.add_done_callback(self._found)
            self._looking.add(handle.id)
            if self._seeking is None:
                self._seeking = asyncio.get_running_loop().create_task(self._seek())

    def _found(self, handle: Promise[object]) -> None:
        self._sought.pop(handle.id, None)

    async def _seek(self) -> None:
        try:
            while self._sought:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._look(list(self._sought))
        finally:
            self._seeking = None

    async def _look(self, ids: Sequence[str]) -> None:
        for id in ids:
            if id in self._sought:
                await self._look_for(id, *self._sought[id])

    async def _look_for(self, id: str, job_id: str, reference: str) -> None:
        try:
            status = await self._engine.status(reference)
            (kept,) = await self._keeps.keep((), [job_id])
        except QueError as error:
            _log.warning("%s: what became of job %s cannot be asked now: %s", self._engine.address, job_id, error)
            return
        if not status.known and kept is None:
            self._store.lost(id, JobUnknown("no such job, or its result was not kept, or no longer"))

    async def close(self) -> None:
        """Let the flows that were added begin, and look for nothing more."""
        self._sought.clear()
        if self._seeking is not None:
            self._seeking.cancel()
        try:
            for batcher in (self._starts, self._attending, self._looking):
                await batcher.close()
        finally:
            starting, self._starting = self._starting or {}, None
            for start in starting.values():
                start.handle.settle_failed(
                    SubmitAmbiguous("the app was disconnected while the flow began: it may exist")
                )
