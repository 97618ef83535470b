"""What things are called on the server, and the headers that carry a job's facts beside its bare params.

Subjects, after the prefix of the installation: job.FUNCTION.LANE holds a job, dead.FUNCTION.RECEIPT a dead letter,
result.AGE.RECEIPT a result, note.SEQUENCE how often a job was given back. to.SESSION is a submitter's ear,
ends.FUNCTION tells whoever else watches, ask reaches the workers; nothing is kept of these three.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

from que.model import Envelope, Priority

LANES: dict[Priority, str] = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}

# A stream has one max_age: a result goes to the first that keeps it for long enough, and carries its own end too.
RESULT_AGES = (600, 86_400, 40 * 86_400, 400 * 86_400)
LONGEST_RESULT_TTL = RESULT_AGES[-1]

ID, TO, DUE, EXPIRES = "Que-Id", "Que-To", "Que-Due", "Que-Expires"
RUN_TIMEOUT, RESULT_TTL, RECEIPT = "Que-Run-Timeout", "Que-Result-Ttl", "Que-Receipt"
KIND, FAILURE, ATTEMPTS, BURIED_AT = "Que-Kind", "Que-Failure", "Que-Attempts", "Que-Buried-At"
LANE = "Que-Lane"
UNIQUE = "Nats-Msg-Id"
_NOT_GIVEN = ("Que-", "Nats-")

# Kept free of each message for its headers, which hold the failure of a dead letter too.
HEADER_BYTES = 16_384
MOST_FAILURE_CHARACTERS = 2000
_SLUG = re.compile("[^A-Za-z0-9_-]+")


@lru_cache(1024)
def token(function: str) -> str:
    """Return `function` as one token of a subject: what is not a plain letter, digit, _, - or ~ becomes %XX."""
    return quote(function, safe="", errors="surrogatepass").replace(".", "%2E")


def function_of(subject: str) -> str:
    """Return the function whose token is the third of `subject`."""
    return unquote(subject.split(".")[2], errors="surrogatepass")


def durable(function: str, lane: str) -> str:
    """Return the name of the consumer of one lane: no two functions share one, and it is short enough for a file."""
    digest = hashlib.sha256(function.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return f"{_SLUG.sub('-', function)[:40]}-{digest}-{lane}"


def unique_id(function: str, key: str) -> str:
    """Return what the server compares: one line, whatever the key holds."""
    return hashlib.sha256(f"{token(function)}.{key}".encode("utf-8", "surrogatepass")).hexdigest()


def result_age(seconds: float) -> int:
    """Return the age of the result stream that keeps an entry for `seconds` at least."""
    return next((age for age in RESULT_AGES if seconds <= age), LONGEST_RESULT_TTL)


def headers_of(envelope: Envelope, session: str, now: float) -> dict[str, str]:
    """Return the facts of a job; a foreground job names its submitter's ear."""
    headers = {ID: envelope.id}
    if not envelope.background:
        headers[TO] = session
    if envelope.due is not None and envelope.due > now:
        headers[DUE] = repr(envelope.due)
    if envelope.expires is not None:
        headers[EXPIRES] = repr(max(now, envelope.due or 0.0) + envelope.expires)
    if envelope.run_timeout is not None:
        headers[RUN_TIMEOUT] = repr(envelope.run_timeout)
    if envelope.result_ttl:
        headers[RESULT_TTL] = repr(envelope.result_ttl)
    if envelope.unique is not None:
        headers[UNIQUE] = unique_id(envelope.function, envelope.unique)
    if envelope.headers is not None:
        headers.update(envelope.headers)
    return headers


def given(headers: Mapping[str, str]) -> dict[str, str] | None:
    """Return the headers that are the submitter's own, by names in lower case."""
    return {name.lower(): value for name, value in headers.items() if not name.startswith(_NOT_GIVEN)} or None


def number(headers: Mapping[str, str], name: str) -> float | None:
    """Return a header as a number, or None: what somebody else wrote there must not stop a worker."""
    try:
        value = float(headers[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def parse_ack(reply: str) -> tuple[int, int]:
    """Return how often a job was delivered, and its sequence, from the subject that acknowledges it.

    `$JS.ACK.` and then stream, consumer, delivered, sequence, …; newer servers put domain and account before these.
    """
    parts = reply.split(".")
    first = 4 if len(parts) < 11 else 6
    return int(parts[first]), int(parts[first + 1])


def sequence(receipt: str) -> int | None:
    """Return the sequence that a receipt names, or None if it is none of ours."""
    return int(receipt) if receipt.isascii() and receipt.isdigit() and len(receipt) < 19 else None


def receipt_of(headers: Mapping[str, str], number: int) -> int:
    """Return the receipt of the job at `number`: its own, or, of one that was replayed, its first."""
    return sequence(headers.get(RECEIPT, "")) or number


def kept_seconds(headers: Mapping[str, str], unique_window: float) -> float:
    """Return for how long a job's end is kept; equal keys of one window share it, whoever asked first."""
    seconds = number(headers, RESULT_TTL) or 0.0
    return max(seconds, unique_window) if UNIQUE in headers and RECEIPT not in headers else seconds
