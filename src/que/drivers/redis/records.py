"""What is written about a job: the record on the server, and the lease in a worker's hand. The Lua reads both."""

import itertools
import re
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, assert_never

import msgspec

from que.model import Completed, Delivery, Envelope, Failed, Priority, Redeliver, Released, Settlement, Verdict

_MOST_IN_CALL = 1000
_MOST_BYTES_IN_CALL = 4 * 1024 * 1024
_RANKS = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}
_RECEIPT = re.compile(r"[1-9][0-9]{0,15}")

ItemT = TypeVar("ItemT")
encode = msgspec.msgpack.Encoder().encode


class Slip(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the server must know of a job to end it. `submitter`: the session that waits, None for nobody."""

    function: str
    rank: int
    job_id: str
    submitter: str | None
    unique: str | None
    result_ttl: float | None
    expires: bool


class Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What stands before the payload in a record."""

    slip: Slip
    run_timeout: float | None


class Lease(msgspec.Struct, frozen=True, gc=False):
    """What holds a delivery: the server's id of the job, and its state while this run holds it."""

    id: str
    held: str
    slip: Slip


_decode_head = msgspec.msgpack.Decoder(Head).decode
_LENGTH = struct.Struct(">I")
_encode_failure = msgspec.json.Encoder().encode
decode_failure = msgspec.json.Decoder(Failed).decode


class Submission:
    """A batch as the script wants it: by function and priority. `order`: the envelopes in the order of their ids."""

    def __init__(self, session: str, envelopes: Sequence[Envelope]) -> None:
        groups: dict[tuple[str, int], list[Envelope]] = {}
        for envelope in envelopes:
            groups.setdefault((envelope.function, _RANKS[envelope.priority]), []).append(envelope)
        self.order = list(itertools.chain.from_iterable(groups.values()))
        self._session = session
        self._groups = [
            (function, rank, [raw(_record(session, rank, envelope)) for envelope in group])
            for (function, rank), group in groups.items()
        ]

    @property
    def request(self) -> object:
        """What the script is asked."""
        specials = {
            place: _special(envelope)
            for place, envelope in enumerate(self.order)
            if envelope.due is not None or envelope.unique is not None or envelope.expires is not None
        }
        return self._session, self._groups, specials

    def receipts(self, reply: Sequence[bytes | int]) -> Iterator[tuple[str, str]]:
        """Yield each envelope's id and its receipt: its own job's, or that of the one with its unique key."""
        first = int(reply[0])
        doubles = dict(zip(reply[1::2], reply[2::2], strict=True))
        for place, envelope in enumerate(self.order):
            yield envelope.id, str(int(doubles.get(place, first + place)))


def _record(session: str, rank: int, envelope: Envelope) -> bytes:
    slip = (
        envelope.function,
        rank,
        envelope.id,
        None if envelope.background else session,
        envelope.unique,
        envelope.result_ttl or None,
        envelope.expires is not None,
    )
    head = encode((slip, envelope.run_timeout))
    return _LENGTH.pack(len(head)) + head + envelope.payload


def _special(envelope: Envelope) -> tuple[float | None, float | None, str | None, str | None]:
    # A delay rather than a time: the server's clock may differ from ours.
    delay = None if envelope.due is None else envelope.due - time.time()
    return (
        delay if delay is not None and delay > 0 else None,
        envelope.expires,
        envelope.unique,
        None if envelope.background else envelope.id,
    )


def opened(record: bytes) -> tuple[Head, bytes]:
    """Return the head and the payload of a record: u32 length of the head (big-endian), head, payload."""
    end = _LENGTH.size + _LENGTH.unpack_from(record)[0]
    return _decode_head(record[_LENGTH.size : end]), record[end:]


def deliveries(reply: Sequence[bytes]) -> list[Delivery]:
    """Return what was taken: `reply` is id, state and record of each, flat."""
    return [
        _delivery(id.decode(), held.decode(), record)
        for id, held, record in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]


def _delivery(id: str, held: str, record: bytes) -> Delivery:
    head, payload = opened(record)
    slip = head.slip
    attempt = int(held.partition(" ")[0])
    return Delivery(slip.function, payload, slip.job_id, attempt, head.run_timeout, Lease(id, held, slip))


def raw(data: bytes) -> msgspec.Raw:
    """Return bytes as MessagePack's string: the server's reader knows no other kind, and minds no encoding."""
    size = len(data)
    if size < 32:
        return msgspec.Raw(_SHORT_HEADS[size] + data)
    kind = bisect_left(_MOST_BYTES, size)
    return msgspec.Raw(_KINDS[kind] + size.to_bytes(1 << kind, "big") + data)


_SHORT_HEADS = [bytes([0xA0 | size]) for size in range(32)]
_KINDS, _MOST_BYTES = (b"\xd9", b"\xda", b"\xdb"), (0xFF, 0xFFFF, 0xFFFFFFFF)


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


def settling(settlement: Settlement) -> tuple[str, str, str, msgspec.Raw | float, Slip]:
    """Return a verdict as the script wants it."""
    delivery, verdict = settlement
    lease = lease_of(delivery)
    kind, body = _verdict(verdict, lease.slip)
    return lease.id, lease.held, kind, body, lease.slip


def _verdict(verdict: Verdict, slip: Slip) -> tuple[str, msgspec.Raw | float]:
    match verdict:
        case Completed(payload):
            return "C", raw(payload)
        case Failed(kind):
            return "B" if slip.submitter is None and kind != "cancelled" else "F", raw(_encode_failure(verdict))
        case Redeliver(after):
            return "R", after
        case Released():
            return "Z", 0
        case _:
            assert_never(verdict)


def ids_of(receipts: Iterable[str]) -> list[str]:
    """Return the ids that `receipts` name; what is no receipt of this driver names none."""
    return [receipt for receipt in receipts if _RECEIPT.fullmatch(receipt)]


def parts(items: Sequence[ItemT], size: Callable[[ItemT], int]) -> Iterator[Sequence[ItemT]]:
    """Yield the items in the parts that one call each may carry, so that no script holds up the server for long."""
    begun, total = 0, 0
    for place, item in enumerate(items):
        total += size(item)
        if place - begun == _MOST_IN_CALL or (total > _MOST_BYTES_IN_CALL and place > begun):
            yield items[begun:place]
            begun, total = place, size(item)
    if begun < len(items):
        yield items[begun:]
