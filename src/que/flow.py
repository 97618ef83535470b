"""Flows: jobs that follow one another, each taking what the one before it gave.

A Flow is a value. Its plan travels to a store when it is submitted, and whoever works a step sends the next one: no
process has to live from a flow's start to its end.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import Generic, Never, Protocol, TypeVar, cast

import msgspec
from msgspec.structs import replace

from que.errors import ConfigurationError
from que.handle import Handle
from que.model import Priority
from que.options import Options
from que.serializer import JSON, MSGPACK, Serializer

ParamsT = TypeVar("ParamsT")
ParamsT_contra = TypeVar("ParamsT_contra", contravariant=True)
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)
NextT = TypeVar("NextT")

DEFAULT_RESULT_TTL = 3600.0

_ENCODERS: dict[str, Callable[[object], bytes]] = {
    JSON.name: msgspec.json.encode,
    MSGPACK.name: msgspec.msgpack.encode,
}
_FLOW_ID = re.compile(r"flow-[0-9a-f]{16}")
_STEP_ID = re.compile(rf"({_FLOW_ID.pattern})\.(\d+)")


class FlowFailure(msgspec.Struct, frozen=True):
    """What a flow's on_failure job is given: the flow's id, and which of its jobs failed how.

    `kind`, `type` and `message` are those of JobFailed.
    """

    flow: str
    job: str
    kind: str
    type: str
    message: str


class PlannedStep(msgspec.Struct, frozen=True):
    """One job of a flow. `inputs`: the steps that it waits for; `gathers`: it takes the list of what they gave.

    `payload`: its params, where they do not come from a step before it.
    """

    function: str
    inputs: tuple[int, ...] = ()
    gathers: bool = False
    payload: bytes | None = None
    priority: Priority = Priority.NORMAL


class Plan(msgspec.Struct, frozen=True):
    """A flow on its way: the last of `steps` gives its result, which is kept for `result_ttl` seconds."""

    steps: tuple[PlannedStep, ...]
    serializer: str
    result_ttl: float
    on_failure: PlannedStep | None = None

    def dump(self) -> bytes:
        """Return the plan as it is kept."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, kept: bytes) -> "Plan":
        """Return the plan that was kept."""
        return _load_plan(kept)

    def step(self, number: int) -> PlannedStep:
        """Return that step; the one after the last is the on_failure job."""
        if number < len(self.steps):
            return self.steps[number]
        assert self.on_failure is not None
        return self.on_failure

    def first(self) -> Sequence[int]:
        """Return the numbers of the steps that wait for none."""
        return [number for number, step in enumerate(self.steps) if not step.inputs]

    def followers(self, number: int) -> Sequence[int]:
        """Return the numbers of the steps that wait for that one."""
        return [follower for follower, step in enumerate(self.steps) if number in step.inputs]

    def params(self, number: int, results: Sequence[bytes]) -> bytes:
        """Return the params of a step, given the results of its inputs."""
        step = self.steps[number]
        if step.payload is not None:
            return step.payload
        if not step.gathers:
            return results[0]
        null = self.encode(None)
        return self.encode([msgspec.Raw(result or null) for result in results])

    def encode(self, value: object) -> bytes:
        """Return `value` as a payload of this flow's jobs."""
        return _ENCODERS[self.serializer](value)


_load_plan = msgspec.json.Decoder(Plan).decode


def new_flow_id() -> str:
    """Return an id that no other flow has."""
    return f"flow-{os.urandom(8).hex()}"


def is_flow_id(text: str) -> bool:
    """Whether `text` names a flow."""
    return _FLOW_ID.fullmatch(text) is not None


def step_id(flow: str, number: int) -> str:
    """Return the id of the job that is that step."""
    return f"{flow}.{number}"


def parse_step_id(id: str) -> tuple[str, int] | None:
    """Return the flow and the number of the step that is the job `id`, None if it is none."""
    found = _STEP_ID.fullmatch(id)
    return None if found is None else (found[1], int(found[2]))


class StepJob(Protocol):
    """What a flow needs of a job."""

    @property
    def name(self) -> str: ...
    @property
    def serializer(self) -> Serializer: ...
    @property
    def options(self) -> Options: ...
    def bound_to(self) -> "FlowSubmitter": ...
    def dump_params(self, params: Never, /) -> bytes: ...
    def load_result(self, payload: bytes, /) -> object: ...


class FlowSubmitter(Protocol):
    """What takes a flow: a backend."""

    def submit_flow(self, plan: Plan, job: StepJob, /) -> Handle[object]: ...
    def prepare_flow(self, plan: Plan, job: StepJob, /) -> tuple[Handle[object], Callable[[], None]]: ...


class Leads(Protocol[ParamsT_contra, ResultT_co]):
    """What leads from params to a result: a Job, or a Flow."""

    def as_flow(self) -> "Flow[ParamsT_contra, ResultT_co]": ...


class FailureJob(Protocol):
    """A job of FlowFailure."""

    def dump_params(self, params: FlowFailure, /) -> bytes: ...


class Step(msgspec.Struct, frozen=True):
    """A job's place in a flow that is being declared; the fields are those of PlannedStep."""

    job: StepJob
    inputs: tuple[int, ...] = ()
    gathers: bool = False
    payload: bytes | None = None

    def planned(self, params: object) -> PlannedStep:
        """Return the step as it is kept, with the flow's params if it waits for nothing."""
        payload = self.payload
        if payload is None and not self.inputs:
            payload = self.job.dump_params(cast(Never, params))
        priority = self.job.options.priority
        return PlannedStep(
            self.job.name, self.inputs, self.gathers, payload, Priority.NORMAL if priority is None else priority
        )


class Flow(Generic[ParamsT_contra, ResultT_co]):
    """Jobs that follow one another; `a.then(b)` makes one. A value: every method gives a new one.

    Raises ConfigurationError where its jobs have different serializers, or one that expires: a job that ends without
    having run would leave its flow without an end.
    """

    __slots__ = ("_failure", "_steps")

    def __init__(self, steps: Sequence[Step], failure: StepJob | None = None) -> None:
        self._steps = tuple(steps)
        self._failure = failure
        jobs = [step.job for step in self._steps] + ([] if failure is None else [failure])
        for job in jobs:
            if job.options.expires is not None:
                raise ConfigurationError(f"job {job.name!r} expires, and a flow would wait for it without end")
            if job.serializer is not jobs[0].serializer:
                raise ConfigurationError(
                    f"jobs {jobs[0].name!r} ({jobs[0].serializer.name}) and {job.name!r} ({job.serializer.name}) "
                    "cannot be in one flow: give them one serializer"
                )

    def __repr__(self) -> str:
        return f"<Flow {', '.join(step.job.name for step in self._steps)}>"

    def as_flow(self) -> "Flow[ParamsT_contra, ResultT_co]":
        """Return this."""
        return self

    def then(self, next: Leads[ResultT_co, NextT], /) -> "Flow[ParamsT_contra, NextT]":
        """Return a flow in which `next`, a job or a flow, takes what this one gives."""
        return Flow(self.followed(next.as_flow(), (len(self._steps) - 1,)), self._failure)

    def given(self: "Flow[ParamsT, ResultT_co]", params: ParamsT, /) -> "Flow[None, ResultT_co]":
        """Return a flow whose params are `params`, and that takes None; raises ParamsInvalid."""
        return Flow[None, ResultT_co](
            [step if step.inputs else replace(step, payload=step.planned(params).payload) for step in self._steps],
            self._failure,
        )

    def on_failure(self, job: FailureJob, /) -> "Flow[ParamsT_contra, ResultT_co]":
        """Return a flow that sends `job` a FlowFailure when one of its jobs has failed for good.

        Raises ConfigurationError if there is one already, or the flow's serializer is neither JSON nor MSGPACK.
        """
        if self._failure is not None:
            raise ConfigurationError(f"{self!r} has an on_failure already")
        _refuse_other_formats(self._steps[0].job)
        return Flow(self._steps, cast(StepJob, job))

    def submit(self, params: ParamsT_contra, /, *, result_ttl: float = DEFAULT_RESULT_TTL) -> Handle[ResultT_co]:
        """Return a Handle of the last job's result at once; the flow is under way once it is accepted.

        The result is kept for `result_ttl` seconds after the end, to be found again by its receipt. Cancelling the
        handle ends the flow: what has not run does not run. Raises what Job.submit() raises, UnsupportedFeature where
        nothing keeps the state of flows, and ConfigurationError if the jobs are not of one backend.
        """
        submitter, plan, last = self.plan(params, result_ttl)
        return cast(Handle[ResultT_co], submitter.submit_flow(plan, last))

    def plan(self, params: ParamsT_contra, result_ttl: float, /) -> tuple[FlowSubmitter, Plan, StepJob]:
        """Return what carries the flow, its plan, and the job that gives its result; raises what submit() raises."""
        last = self._steps[-1].job
        submitter = last.bound_to()
        for job in [step.job for step in self._steps] + ([] if self._failure is None else [self._failure]):
            if job.bound_to() is not submitter:
                raise ConfigurationError(f"jobs {last.name!r} and {job.name!r} are of different backends: use one")
        Options(result_ttl=result_ttl)
        steps = tuple(step.planned(params) for step in self._steps)
        failure = None if self._failure is None else Step(self._failure, payload=b"").planned(None)
        return submitter, Plan(steps, last.serializer.name, result_ttl, failure), last

    def followed(self, next: "Flow[Never, object]", ends: tuple[int, ...], gathers: bool = False) -> list[Step]:
        """Return the steps of this flow and those of `next`, whose first ones wait for `ends`."""
        if next._failure is not None:
            raise ConfigurationError(f"{next!r} has an on_failure: a flow has one, so call on_failure() last")
        return [
            *self._steps,
            *(
                replace(step, inputs=_moved(step.inputs, len(self._steps)))
                if step.inputs
                else replace(step, inputs=ends, gathers=gathers)
                for step in next._steps
            ),
        ]

    def beside(self, steps: Sequence[Step]) -> list[Step]:
        """Return `steps` and this flow's, which wait for none of them."""
        if self._failure is not None:
            raise ConfigurationError(f"{self!r} has an on_failure: a flow has one, so call on_failure() last")
        return [*steps, *(replace(step, inputs=_moved(step.inputs, len(steps))) for step in self._steps)]


def _moved(inputs: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(number + by for number in inputs)


class Gathered(Generic[ParamsT_contra, ResultT_co]):
    """Flows side by side: all get the same params, and what comes then takes the list of their results."""

    __slots__ = ("_ends", "_steps")

    def __init__(self, flows: Sequence[Flow[ParamsT_contra, ResultT_co]]) -> None:
        if not flows:
            raise ConfigurationError("together() of no flows gives nothing")
        steps: list[Step] = []
        ends: list[int] = []
        for flow in flows:
            steps = flow.beside(steps)
            ends.append(len(steps) - 1)
        _refuse_other_formats(steps[0].job)
        self._steps = steps
        self._ends = tuple(ends)

    def then(self, next: Leads[list[ResultT_co], NextT], /) -> Flow[ParamsT_contra, NextT]:
        """Return a flow in which `next` takes the list of all the results, in the order of the declaration."""
        whole = Flow[ParamsT_contra, object](self._steps)
        return Flow(whole.followed(next.as_flow(), self._ends, gathers=True))


def together(*flows: Leads[ParamsT, ResultT]) -> Gathered[ParamsT, ResultT]:
    """Return jobs and flows side by side: `together(a, b).then(c)`, where `c` takes the list of what they give.

    Each gets the flow's params; `job.given(params)` has its own. Raises ConfigurationError where the serializer is
    neither JSON nor MSGPACK.
    """
    return Gathered([flow.as_flow() for flow in flows])


def _refuse_other_formats(job: StepJob) -> None:
    if job.serializer not in (JSON, MSGPACK):
        raise ConfigurationError(
            f"job {job.name!r} has the serializer {job.serializer.name}: lists and failures are JSON or MSGPACK"
        )
