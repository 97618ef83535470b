"""What is written about a job: the record on the server, and the lease in a worker's hand. The Lua reads both."""

import itertools
import re
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, assert_never

import msgspec

from que.model import (
    Completed,
    Delivery,
    Ending,
    Envelope,
    Failed,
    Kept,
    Priority,
    Redeliver,
    Released,
    Settlement,
    Verdict,
)

MOST_IN_CALL: int = 1000
_MOST_BYTES_IN_CALL = 4 * 1024 * 1024
_MOST_HEADS = 1000
_RANKS = {Priority.HIGH: -1, Priority.NORMAL: 0, Priority.LOW: 1}
_RECEIPT = re.compile(r"[1-9][0-9]{0,15}")

ItemT = TypeVar("ItemT")
encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


class Head(msgspec.Struct, array_like=True, frozen=True, eq=False, gc=False):
    """What the server must know of a job. `submitter`: the session that waits, None for nobody.

    Two heads are never equal; jobs of one kind share one, which is what lets their verdicts travel together.
    """

    function: str
    rank: int
    submitter: str | None
    unique: str | None
    result_ttl: float | None
    expires: bool
    run_timeout: float | None


class Lease(msgspec.Struct, frozen=True, gc=False):
    """What holds a delivery: the server's id of the job, and what its hold says while this run has it."""

    id: str
    hold: str
    head: Head


_decode_head = msgspec.msgpack.Decoder(Head).decode
_encode_failure = msgspec.json.Encoder().encode
decode_failure: Callable[[bytes], Failed] = msgspec.json.Decoder(Failed).decode
_SIZES = struct.Struct(">II")
_heads: dict[bytes, Head] = {}


class Submission:
    """A batch as the script wants it: by function and priority. `order`: the envelopes in the order of their ids."""

    def __init__(self, session: str, envelopes: Sequence[Envelope]) -> None:
        groups: dict[tuple[str, int], list[Envelope]] = {}
        for envelope in envelopes:
            groups.setdefault((envelope.function, _RANKS[envelope.priority]), []).append(envelope)
        self.order: list[Envelope] = list(itertools.chain.from_iterable(groups.values()))
        self._session = session
        self._groups = groups

    @property
    def request(self) -> object:
        """What the script is asked."""
        heads: dict[object, bytes] = {}
        groups = [
            (function, rank, [raw(_record(self._session, rank, envelope, heads)) for envelope in group])
            for (function, rank), group in self._groups.items()
        ]
        specials = {
            place: _special(envelope)
            for place, envelope in enumerate(self.order)
            if envelope.due is not None or envelope.unique is not None or envelope.expires is not None
        }
        return self._session, groups, specials

    def receipts(self, reply: Sequence[bytes | int]) -> Iterator[tuple[str, str]]:
        """Yield each envelope's id and its receipt: its own job's, or that of the one with its unique key."""
        first = int(reply[0])
        doubles = dict(zip(reply[1::2], reply[2::2], strict=True))
        for place, envelope in enumerate(self.order):
            yield envelope.id, str(int(doubles.get(place, first + place)))


def _record(session: str, rank: int, envelope: Envelope, heads: dict[object, bytes]) -> bytes:
    """Return u32 sizes of head and id (big-endian), head, id, payload. `heads`: those that the batch has had."""
    head = (
        envelope.function,
        rank,
        None if envelope.background else session,
        envelope.unique,
        envelope.result_ttl or None,
        envelope.expires is not None,
        envelope.run_timeout,
    )
    packed = heads.get(head)
    if packed is None:
        packed = heads[head] = encode(head)
    id = envelope.id.encode()
    return b"%b%b%b%b" % (_SIZES.pack(len(packed), len(id)), packed, id, envelope.payload)


def _special(envelope: Envelope) -> tuple[float | None, float | None, str | None, str | None]:
    # A delay rather than a time: the server's clock may differ from ours.
    delay = None if envelope.due is None else envelope.due - time.time()
    return (
        delay if delay is not None and delay > 0 else None,
        envelope.expires,
        envelope.unique,
        None if envelope.background else envelope.id,
    )


def opened(record: bytes) -> tuple[Head, str, bytes]:
    """Return the head, the submitter's id and the payload of a record."""
    head_size, id_size = _SIZES.unpack_from(record)
    head_end = _SIZES.size + head_size
    id_end = head_end + id_size
    packed = record[_SIZES.size : head_end]
    head = _heads.get(packed)
    if head is None:
        if len(_heads) == _MOST_HEADS:
            _heads.clear()
        head = _heads[packed] = _decode_head(packed)
    return head, record[head_end:id_end].decode(), record[id_end:]


def deliveries(token: str, reply: Sequence[bytes | int]) -> list[Delivery]:
    """Return what was taken under `token`: `reply` is id, number of the run and record of each, flat."""
    holds: dict[int, str] = {}
    taken: list[Delivery] = []
    for id, run, record in zip(*[iter(reply)] * 3, strict=True):
        assert isinstance(id, bytes)
        assert isinstance(run, int)
        assert isinstance(record, bytes)
        head, job_id, payload = opened(record)
        hold = holds.get(run) or holds.setdefault(run, f"{run} {token}")
        lease = Lease(id.decode(), hold, head)
        taken.append(Delivery(head.function, payload, job_id, run, head.run_timeout, lease))
    return taken


def lease_of(delivery: Delivery) -> Lease:
    """Return what this driver wrote into a delivery."""
    assert isinstance(delivery.lease, Lease), "a delivery of another driver"
    return delivery.lease


class Verdicts:
    """A batch of settlements as the script wants it: by what they have in common."""

    def __init__(self, settlements: Sequence[Settlement]) -> None:
        groups: dict[tuple[str, str, Head], tuple[list[int], list[str], list[str], list[msgspec.Raw | float]]] = {}
        for place, (delivery, verdict) in enumerate(settlements):
            lease = lease_of(delivery)
            kind, body = _spelt(verdict, lease.head)
            key = kind, lease.hold, lease.head
            group = groups.get(key) or groups.setdefault(key, ([], [], [], []))
            group[0].append(place)
            group[1].append(lease.id)
            group[2].append(delivery.id)
            group[3].append(body)
        self._groups = groups

    @property
    def groups(self) -> object:
        """What the script is asked."""
        return [(*key, *columns) for key, (_, *columns) in self._groups.items()]

    def places(self, told: Iterable[int]) -> list[int]:
        """Return which of the settlements, from 0, the script means by the places `told`."""
        order = [place for places, *_ in self._groups.values() for place in places]
        return [order[place - 1] for place in told]


def _spelt(verdict: Verdict, head: Head) -> tuple[str, msgspec.Raw | float]:
    match verdict:
        case Completed(payload):
            return "C", raw(payload)
        case Failed(kind):
            buried = head.submitter is None and kind != "cancelled"
            return "B" if buried else "F", raw(_encode_failure(verdict))
        case Redeliver(after):
            return "R", after
        case Released():
            return "Z", 0
        case _:
            assert_never(verdict)


def entry_of(kept: Kept) -> object:
    """Return an entry as the script wants it."""
    match kept.ending:
        case Completed(payload):
            return kept.key, "C", raw(payload), kept.ttl
        case Failed():
            return kept.key, "F", raw(_encode_failure(kept.ending)), kept.ttl


def ending_in(kept: bytes | None) -> Ending | None:
    """Return what is kept: a kind and a body."""
    if kept is None:
        return None
    return Completed(kept[1:]) if kept.startswith(b"C") else decode_failure(kept[1:])


def raw(data: bytes) -> msgspec.Raw:
    """Return bytes as MessagePack's string: the server's reader knows no other kind, and minds no encoding."""
    size = len(data)
    if size < 32:
        return msgspec.Raw(_SHORT_HEADS[size] + data)
    kind = bisect_left(_MOST_BYTES, size)
    return msgspec.Raw(_KINDS[kind] + size.to_bytes(1 << kind, "big") + data)


_SHORT_HEADS = [bytes([0xA0 | size]) for size in range(32)]
_KINDS, _MOST_BYTES = (b"\xd9", b"\xda", b"\xdb"), (0xFF, 0xFFFF, 0xFFFFFFFF)


def ids_of(receipts: Iterable[str]) -> list[str]:
    """Return the ids that `receipts` name; what is no receipt of this driver names none."""
    return [receipt for receipt in receipts if _RECEIPT.fullmatch(receipt)]


def parts(items: Sequence[ItemT], size: Callable[[ItemT], int]) -> Iterator[Sequence[ItemT]]:
    """Yield the items in the parts that one call each may carry, so that no script holds up the server for long."""
    begun, total = 0, 0
    for place, item in enumerate(items):
        total += size(item)
        if place - begun == MOST_IN_CALL or (total > _MOST_BYTES_IN_CALL and place > begun):
            yield items[begun:place]
            begun, total = place, size(item)
    if begun < len(items):
        yield items[begun:]
