"""The plain values that travel between the core and a driver.

They are msgspec Structs. A frozen dataclass takes seven times as long to make (1.03 µs against 0.15 for an Envelope on
Python 3.11), which at 100,000 jobs a second is a tenth of a core, and sixty times as long to declare (1.6 ms against
0.026), which every import of que would wait for. `msgspec.structs.replace` gives another one.
"""

import enum
from collections.abc import Mapping

import msgspec

# How many jobs a worker runs at once per backend.
DEFAULT_CONCURRENCY = 100


class Priority(enum.IntEnum):
    """The three priorities that every engine can tell apart, by name, never by number."""

    LOW = -1
    NORMAL = 0
    HIGH = 1


class Envelope(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A job as submitted, under an id of ours that no other job has.

    `background`: nobody waits for the result. `due`: Unix seconds before which it must not run, or None.
    `unique`: the user's key for coalescing. `expires`: seconds it may wait in the queue, counted from when it is due.
    `run_timeout`: seconds for one run, which only a driver with that capability carries. `result_ttl`: seconds for
    which the engine keeps the result after the job's end, for whoever asks for it by receipt; None or 0 for not at all.
    `headers`: facts that travel beside the params, names and values as que.headers allows them; only for a driver with
    that capability.
    """

    id: str
    function: str
    payload: bytes
    background: bool = False
    priority: Priority = Priority.NORMAL
    due: float | None = None
    unique: str | None = None
    expires: float | None = None
    run_timeout: float | None = None
    result_ttl: float | None = None
    headers: Mapping[str, str] | None = None


class Delivery(msgspec.Struct, frozen=True, eq=False):
    """A job as handed to a worker; two deliveries are never equal.

    `id`: the submitter's id where the engine carries it, else the engine's own. `attempt`: 1 for the first run, or None
    where the engine cannot count. `run_timeout`: what the submitter allowed this run, in seconds. `lease`: whatever the
    driver needs to settle it; nobody else looks inside. `headers`: those of the envelope, or what a client in another
    language sent in their place.
    """

    function: str
    payload: bytes
    id: str
    attempt: int | None = None
    run_timeout: float | None = None
    lease: object = None
    headers: Mapping[str, str] | None = None

    @property
    def facts(self) -> dict[str, object]:
        """What a log record about it has as its `extra`."""
        return {"que_job": self.function, "que_job_id": self.id, "que_attempt": self.attempt}


class Completed(msgspec.Struct, frozen=True, gc=False):
    """Verdict: the handler returned; `payload` is its encoded result."""

    payload: bytes


class Failed(msgspec.Struct, frozen=True, gc=False):
    """Verdict: no result will come. `kind` is handler, params, result, timeout or rejected.

    `type` is the name of the exception's class, `message` its text; there is never a traceback.
    """

    kind: str
    type: str
    message: str


class Redeliver(msgspec.Struct, frozen=True, gc=False):
    """Verdict: run it again, not before `after` seconds have passed."""

    after: float


class Released(msgspec.Struct, frozen=True, gc=False):
    """Verdict: this worker gives the job back, as if it had never taken it."""


Ending = Completed | Failed
Verdict = Ending | Redeliver | Released
Settlement = tuple[Delivery, Verdict]


class Kept(msgspec.Struct, frozen=True, gc=False):
    """How something ended, to be kept for `ttl` seconds under a key that nothing else has."""

    key: str
    ending: Ending
    ttl: float


class Settled(enum.Enum):
    """What became of a verdict."""

    CONFIRMED = "confirmed"  # the engine has it, or will read it: the bytes left on a live connection
    LOST = "lost"  # the lease was gone: the engine has given, or will give, the job to another worker
    UNCONFIRMED = "unconfirmed"  # the connection died before the engine's answer


class Progress(msgspec.Struct, frozen=True):
    """The worker has done `done` of `total`."""

    done: int
    total: int


class Chunk(msgspec.Struct, frozen=True):
    """A part of the result, sent before its end."""

    data: bytes


class Warned(msgspec.Struct, frozen=True):
    """The worker warns; the job goes on."""

    text: str


Event = Progress | Chunk | Warned


class JobStatus(msgspec.Struct, frozen=True):
    """What the engine says of a job now. `waiting` counts the clients that wait for it, None where it cannot tell."""

    known: bool
    running: bool
    done: int = 0
    total: int = 0
    waiting: int | None = None


class QueueDepth(msgspec.Struct, frozen=True):
    """How much of one function's work waits and runs, and how many workers serve it."""

    function: str
    queued: int
    running: int
    workers: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A job that has failed for good and that nobody waited for: its engine keeps it to be looked into.

    `receipt`: the engine's name for it. `attempts`: its runs, None where the engine cannot count. `buried_at`: Unix
    seconds.
    """

    receipt: str
    function: str
    payload: bytes
    failure: Failed
    attempts: int | None
    buried_at: float


class TickClaim(msgspec.Struct, frozen=True):
    """Whether a scheduler may see to the ticks of a schedule now, and up to which moment they have been seen to.

    `done`: Unix seconds, None for a schedule of which nothing is known.
    """

    granted: bool
    done: float | None


class Support(enum.Enum):
    """How a driver has a feature; NONE is false."""

    NATIVE = "native"
    EMULATED = "emulated"
    NONE = "none"

    def __bool__(self) -> bool:
        return self is not Support.NONE


class Lease(enum.Enum):
    """What holds a delivery for its worker."""

    CONNECTION = "connection"
    TIMED = "timed"
    PROCESS = "process"


class UniqueScope(enum.Enum):
    """For how long a unique key coalesces."""

    NEVER = "never"
    WHILE_QUEUED = "while queued"
    WHILE_ALIVE = "until it is settled"
    WINDOW = "for a window of time"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver can do; all is NONE unless stated.

    `results_pushed`: the EventSink hears how a job that is not in the background ended, or else submit() is refused.
    `delayed_results`: a delayed job can also be awaited. `expiry`: a job that nobody took in time ends as expired.
    `run_timeout`: one call's own run_timeout travels with it. `ticks`: it remembers how far each schedule has come.
    `keeps`: it can keep the results of another engine's jobs, and the state of flows. `retry`: the engine delays a
    redelivery. `total_rate`: it holds a rate among all workers. `fifo`: jobs of one function and priority that were
    submitted one after the other are handed out in that order. `headers`: a delivery has those of its envelope.
    `lease_seconds`: how long a timed lease lasts without being extended. `max_payload`: bytes, None without a limit.
    """

    lease: Lease
    lease_seconds: float | None = None
    durable: Support = Support.NONE
    attempts: Support = Support.NONE
    results_pushed: Support = Support.NONE
    results_stored: Support = Support.NONE
    delay: Support = Support.NONE
    delayed_results: Support = Support.NONE
    unique: Support = Support.NONE
    unique_scope: UniqueScope = UniqueScope.NEVER
    priorities: Support = Support.NONE
    expiry: Support = Support.NONE
    run_timeout: Support = Support.NONE
    progress: Support = Support.NONE
    chunks: Support = Support.NONE
    cancel_queued: Support = Support.NONE
    cancel_running: Support = Support.NONE
    retry: Support = Support.NONE
    dead_letters: Support = Support.NONE
    headers: Support = Support.NONE
    inspect: Support = Support.NONE
    ticks: Support = Support.NONE
    keeps: Support = Support.NONE
    total_rate: Support = Support.NONE
    fifo: Support = Support.NONE
    max_payload: int | None = None
