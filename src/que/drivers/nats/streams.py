"""The streams and consumers of an installation, made when they are missing and read where they exist."""

import msgspec

from que.drivers.nats import names
from que.drivers.nats.link import ApiError, Link, Silence
from que.drivers.nats.options import NatsOptions

_NANOSECONDS = 1_000_000_000
# A note outlives any job that is worth a look.
_NOTE_SECONDS = 400 * 86_400
_NOT_FOUND = frozenset({10014, 10059})
_SAME_NAME = 10058

_LEASES_DIFFER = "consumer {name} of stream {stream} has ack_wait={there:g} s: use lease={there:g}, or remove it"


class _StreamConfig(msgspec.Struct):
    storage: str = "file"
    duplicate_window: int = 0


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class StreamInfo(msgspec.Struct):
    """What is read of a stream."""

    config: _StreamConfig = msgspec.field(default_factory=_StreamConfig)
    state: _State = msgspec.field(default_factory=_State)


class _Delivered(msgspec.Struct):
    stream_seq: int = 0


class _ConsumerConfig(msgspec.Struct):
    ack_wait: int = 0


class ConsumerInfo(msgspec.Struct):
    """What is read of a consumer."""

    config: _ConsumerConfig = msgspec.field(default_factory=_ConsumerConfig)
    delivered: _Delivered = msgspec.field(default_factory=_Delivered)


class Refused(Exception):
    """JetStream cannot make, or use, what the driver needs."""


_read_stream = msgspec.json.Decoder(StreamInfo).decode
_read_consumer = msgspec.json.Decoder(ConsumerInfo).decode


class Streams:
    """What an installation has on the server, each found or made once."""

    def __init__(self, link: Link, options: NatsOptions) -> None:
        self.jobs: str = f"{options.prefix}_jobs"
        self.dead: str = f"{options.prefix}_dead"
        self.notes: str = f"{options.prefix}_notes"
        self._link = link
        self._options = options
        self._results: set[int] = set()

    def results(self, age: int) -> str:
        """Return the name of the stream that keeps results for `age` seconds."""
        return f"{self._options.prefix}_results_{age}"

    async def open(self) -> StreamInfo:
        """Return the stream of jobs, with those of dead letters and notes beside it; raises Refused and Silence."""
        options = self._options
        self._results.clear()
        window = int(options.unique_window * _NANOSECONDS)
        jobs = await self._stream(self.jobs, "job.*.*", retention="workqueue", duplicate_window=window)
        await self._stream(self.dead, "dead.*.*", max_age=int(options.dead_letter_ttl * _NANOSECONDS))
        await self._stream(self.notes, "note.*", max_age=_NOTE_SECONDS * _NANOSECONDS, max_msgs_per_subject=1)
        return jobs

    async def open_results(self, age: int) -> None:
        """Make sure that results can be kept for `age` seconds; raises Refused and Silence."""
        if age not in self._results:
            await self._stream(self.results(age), f"result.{age}.*", max_age=age * _NANOSECONDS, max_msgs_per_subject=1)
            self._results.add(age)

    async def _stream(self, name: str, subject: str, **settings: object) -> StreamInfo:
        answer, error = await self._link.api(f"STREAM.INFO.{name}")
        if error is not None and error.err_code in _NOT_FOUND:
            config = {
                "name": name,
                "subjects": [f"{self._options.prefix}.{subject}"],
                "storage": self._options.storage,
                "num_replicas": self._options.replicas,
                "duplicate_window": min(120 * _NANOSECONDS, _age(settings)),
                **settings,
            }
            answer, error = await self._link.api(f"STREAM.CREATE.{name}", config)
            if error is not None and error.err_code == _SAME_NAME:
                # Another process was quicker, with options of its own.
                answer, error = await self._link.api(f"STREAM.INFO.{name}")
        if error is not None:
            raise Refused(f"stream {name}: {_said(error)}")
        return _read_stream(answer)

    async def open_consumer(self, function: str, lane: str) -> None:
        """Make sure that a lane of `function` can be pulled from; raises Refused and Silence."""
        name = names.durable(function, lane)
        ack_wait = int(self._options.lease * _NANOSECONDS)
        info = await self.consumer(function, lane)
        if info is None:
            config = {
                "durable_name": name,
                "filter_subject": f"{self._options.prefix}.job.{names.token(function)}.{lane}",
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": ack_wait,
                "max_deliver": -1,
                "max_ack_pending": -1,
                "max_waiting": 100_000,
                "replay_policy": "instant",
            }
            answer, error = await self._link.api(
                f"CONSUMER.DURABLE.CREATE.{self.jobs}.{name}", {"stream_name": self.jobs, "config": config}
            )
            if error is not None:
                raise Refused(f"consumer {name}: {_said(error)}")
            info = _read_consumer(answer)
        if info.config.ack_wait != ack_wait:
            raise Refused(_LEASES_DIFFER.format(name=name, stream=self.jobs, there=info.config.ack_wait / _NANOSECONDS))

    async def consumer(self, function: str, lane: str) -> ConsumerInfo | None:
        """Return what a lane's consumer has done, None if nobody ever worked there; raises Silence."""
        answer, error = await self._link.api(f"CONSUMER.INFO.{self.jobs}.{names.durable(function, lane)}")
        if error is None:
            return _read_consumer(answer)
        if error.err_code in _NOT_FOUND:
            return None
        raise Silence(_said(error), sent=True)

    async def queued(self) -> dict[str, int]:
        """Return how many jobs there are of each subject; raises Silence."""
        answer, error = await self._link.api(f"STREAM.INFO.{self.jobs}", {"subjects_filter": ">"})
        if error is not None:
            raise Silence(_said(error), sent=True)
        return _read_stream(answer).state.subjects or {}


def _age(settings: dict[str, object]) -> int:
    age = settings.get("max_age")
    return age if isinstance(age, int) and age else 120 * _NANOSECONDS


def _said(error: ApiError) -> str:
    return f"{error.description} ({error.err_code})"
