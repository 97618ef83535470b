"""One typed interface to many job queues: declare a job once, choose the engine with a URL."""

from typing import TYPE_CHECKING

from que.app import Que
from que.driver import register_driver
from que.errors import (
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    InvalidName,
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobTimeout,
    JobUnknown,
    NotBound,
    NotConnected,
    NotSent,
    Overloaded,
    PacketError,
    ParamsInvalid,
    ProtocolError,
    QueError,
    QueueFull,
    Reject,
    Rejected,
    ResultInvalid,
    ResultTimeout,
    RetryAfter,
    SubmitAmbiguous,
    SubmitError,
    UnknownDriver,
    UnsupportedFeature,
    WorkerLost,
    WrongLoop,
)
from que.flow import Flow, FlowFailure, Gathered, together
from que.handle import Events, Handle, Receipt, Sending, as_completed, gather
from que.job import Context, Job, Middleware, Next
from que.model import (
    Capabilities,
    Chunk,
    DeadLetter,
    JobStatus,
    Lease,
    Priority,
    Progress,
    QueueDepth,
    Support,
    UniqueScope,
    Warned,
)
from que.outcome import Outcome, Refused, Sent
from que.retry import Retry
from que.serializer import JSON, MSGPACK, RAW, Serializer

if TYPE_CHECKING:
    from que.blocking import BlockingQue, BlockingWorker
    from que.classform import Model
    from que.middleware import log_runs
    from que.observer import Observe, Observer
    from que.portal import BlockingEvents, BlockingHandle, BlockingSending
    from que.watchdog import Watchdog
    from que.worker import Worker

__all__ = [
    "JSON",
    "MSGPACK",
    "RAW",
    "BlockingEvents",
    "BlockingHandle",
    "BlockingQue",
    "BlockingSending",
    "BlockingWorker",
    "Capabilities",
    "Chunk",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLost",
    "Context",
    "DeadLetter",
    "Events",
    "Flow",
    "FlowFailure",
    "Gathered",
    "Handle",
    "InvalidName",
    "Job",
    "JobCancelled",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobStatus",
    "JobTimeout",
    "JobUnknown",
    "Lease",
    "Middleware",
    "Model",
    "Next",
    "NotBound",
    "NotConnected",
    "NotSent",
    "Observe",
    "Observer",
    "Outcome",
    "Overloaded",
    "PacketError",
    "ParamsInvalid",
    "Priority",
    "Progress",
    "ProtocolError",
    "Que",
    "QueError",
    "QueueDepth",
    "QueueFull",
    "Receipt",
    "Refused",
    "Reject",
    "Rejected",
    "ResultInvalid",
    "ResultTimeout",
    "Retry",
    "RetryAfter",
    "Sending",
    "Sent",
    "Serializer",
    "SubmitAmbiguous",
    "SubmitError",
    "Support",
    "UniqueScope",
    "UnknownDriver",
    "UnsupportedFeature",
    "Warned",
    "Watchdog",
    "Worker",
    "WorkerLost",
    "WrongLoop",
    "as_completed",
    "gather",
    "log_runs",
    "register_driver",
    "together",
]

if not TYPE_CHECKING:
    # What a program that only submits does without is imported when it is first asked for.
    _LATE = {
        "BlockingEvents": "que.portal",
        "BlockingHandle": "que.portal",
        "BlockingQue": "que.blocking",
        "BlockingSending": "que.portal",
        "BlockingWorker": "que.blocking",
        "Model": "que.classform",
        "Observe": "que.observer",
        "Observer": "que.observer",
        "Watchdog": "que.watchdog",
        "Worker": "que.worker",
        "log_runs": "que.middleware",
    }

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
