"""How que's words are written in Gearman's, so that peers in any language can take part.

The payload on the wire is the params and nothing else. The unique on the wire is

- without a key, the job's own id, which its worker sees as the delivery's id;
- for a key of submit(), `f:` and the key in UTF-8; for a key of send(), `b:` and the key;
- where that would be over 63 bytes, or the key holds a control character (below 0x20, or 0x7f), the same two characters
  and 60 hexadecimal digits: BLAKE2b of the key in UTF-8 with a digest of 30 bytes. An id that cannot stand as it is
  becomes 60 digits likewise.

The name spaces differ because a foreground job that meets a queued background one and disconnects would kill it.
A failure travels as WORK_WARNING with the JSON object {"kind": …, "type": …, "message": …} and WORK_FAIL behind it.
Every client understands that; a client of que takes the warning for the failure's reason. A foreign worker may do the
same, or send WORK_EXCEPTION, whose text is then the reason.
"""

import math
import re
import time
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from que.errors import InvalidName, Rejected
from que.gearman.packets import MAX_FUNCTION_BYTES, MAX_UNIQUE_BYTES, PacketType
from que.model import Envelope, Failed, Priority

# Indexed by Priority: 0 is NORMAL, 1 is HIGH, -1 is LOW.
_FOREGROUND: Final = tuple(map(int, (PacketType.SUBMIT_JOB, PacketType.SUBMIT_JOB_HIGH, PacketType.SUBMIT_JOB_LOW)))
_BACKGROUND: Final = tuple(
    map(int, (PacketType.SUBMIT_JOB_BG, PacketType.SUBMIT_JOB_HIGH_BG, PacketType.SUBMIT_JOB_LOW_BG))
)
_EPOCH: Final = int(PacketType.SUBMIT_JOB_EPOCH)
_PLAIN: Final = re.compile(f"[!-~]{{2,{MAX_UNIQUE_BYTES}}}").fullmatch
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_DIGEST_BYTES: Final = 30
# The end of the year 9999: an epoch that overflows is never answered.
_LAST_SECOND: Final = 253_402_300_799
_MOST_REASON: Final = 32 * 1024

Request = tuple[int, tuple[bytes, ...]]


class Receipt(NamedTuple):
    """What names an accepted job: two servers on one host give equal handles, and handles start again after a restart.

    Whether the job was coalesced with an older one is unknown to a Gearman client.
    """

    server: str
    handle: str
    unique: str

    def __str__(self) -> str:
        return f"{self.server}/{self.handle}/{self.unique}"

    @classmethod
    def parse(cls, text: str) -> "Receipt":
        """Return the parts of `text`; the unique may hold slashes. Raises InvalidName if it is no receipt of ours."""
        parts = text.split("/", 2)
        if len(parts) != 3 or not all(parts):
            raise InvalidName("receipt", text, "a Gearman receipt looks like 127.0.0.1:4730/H:host:1/unique")
        return cls(*parts)


def function_name(name: str) -> bytes:
    """Return the name on the wire; raises InvalidName for one that the binary or the text protocol cannot carry."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not 0 < len(encoded) <= MAX_FUNCTION_BYTES or not name.isprintable() or " " in name:
        raise InvalidName(
            "function", name, f"Gearman carries 1 to {MAX_FUNCTION_BYTES} bytes without blanks or control characters"
        )
    return encoded


def wire_unique(envelope: Envelope) -> str:
    """Return the unique that stands for this job on the wire, see the module. Raises Rejected if it is no text."""
    # A job whose key is its own id is written as any other, so that its worker finds the id.
    if envelope.unique is not None and envelope.unique != envelope.id:
        return _fitting("b:" if envelope.background else "f:", envelope.unique)
    id = envelope.id
    # Ids of our own are always plain, and this is asked twice a job.
    return id if _PLAIN(id) else _fitting("", id)


def _fitting(prefix: str, key: str) -> str:
    try:
        encoded = key.encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"the unique key {key!r} is not valid text: {error}") from error
    # To gearmand an empty unique is none and "-" means the payload.
    if len(prefix) + len(encoded) <= MAX_UNIQUE_BYTES and not _CONTROL.search(key) and (prefix or key not in ("", "-")):
        return prefix + key
    return prefix + blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()


def request(envelope: Envelope, function: bytes) -> Request:
    """Return the packet type and the arguments before the data; raises Rejected for what Gearman has no place for."""
    unique = wire_unique(envelope).encode()
    if envelope.expires is not None or envelope.run_timeout is not None:
        raise Rejected("Gearman has no place for expires or for one call's run_timeout: bound the run on the worker")
    if envelope.due is not None:
        return _delayed(envelope, function, unique, envelope.due)
    if not envelope.background:
        return _FOREGROUND[envelope.priority], (function, unique)
    if not envelope.payload:
        raise Rejected("an empty background job keeps a gearmand with a sqlite queue from starting again: send a byte")
    return _BACKGROUND[envelope.priority], (function, unique)


def _delayed(envelope: Envelope, function: bytes, unique: bytes, due: float) -> Request:
    if not envelope.background:
        raise Rejected("Gearman delays background jobs only: nobody can wait for a delayed one; use send()")
    immediate = msgspec.structs.replace(envelope, due=None)
    if due <= time.time():
        return request(immediate, function)
    if envelope.priority is not Priority.NORMAL:
        raise Rejected("Gearman's delayed jobs have no priority: leave out either")
    if not due <= _LAST_SECOND:
        raise Rejected(f"a delay until {due} is beyond what gearmand can hold (the year 9999)")
    request(immediate, function)
    # Never early: gearmand counts whole seconds.
    return _EPOCH, (function, unique, b"%d" % math.ceil(due))


_failures: Final = msgspec.json.Decoder(Failed)


def encode_failure(failure: Failed) -> bytes:
    """Return the reason as one line; each text is cut at 32 Ki characters, and made valid text."""
    texts = (failure.kind, failure.type, failure.message)
    clean = (text[:_MOST_REASON].encode(errors="replace").decode() for text in texts)
    # The line's end is for the `gearman` tool, which prints warnings as they are.
    return msgspec.json.encode(Failed(*clean)) + b"\n"


def failure_in(warning: bytes) -> Failed | None:
    """Return the failure whose reason this warning is, None for any other warning."""
    if not warning.startswith(b"{"):
        return None
    try:
        return _failures.decode(warning)
    except (msgspec.MsgspecError, ValueError):
        return None


def decode_failure(data: bytes) -> Failed:
    """Return what a WORK_EXCEPTION says; a foreign worker's words become the message."""
    try:
        return _failures.decode(data)
    except (msgspec.MsgspecError, ValueError):
        return Failed("handler", "", data.decode("utf-8", "replace"))
