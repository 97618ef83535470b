"""What verdicts have to say, as messages: answers for those who wait, copies for later, dead letters."""

import logging
from collections.abc import Sequence
from typing import assert_never

import msgspec

from que.drivers.amqp.channel import Fate, Outgoing
from que.drivers.amqp.link import Link
from que.drivers.amqp.messages import (
    APP,
    Letter,
    answer_to_others,
    answer_to_que,
    copy_properties,
    first_again,
    lease_of,
    letter_properties,
)
from que.drivers.amqp.submitter import Outbox
from que.model import Completed, Delivery, Failed, Redeliver, Released, Settlement, Verdict

_log = logging.getLogger("que.amqp")

# One answer holds many jobs' results, but stays a message of a size that every server takes.
_MOST_ANSWER_BYTES = 1024 * 1024
_ANSWER_OVERHEAD_BYTES = 1024
_NO_BURIAL = frozenset({"cancelled", "expired"})


class _Mail:
    """Messages that are being made, and which settlements hang on each."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.messages: list[Outgoing] = []
        self.settlements: list[list[int]] = []
        self.ids: list[str] = []
        self._answers: dict[str, tuple[list[Letter], list[int], int]] = {}

    def add(self, message: Outgoing, settlements: list[int], id: str = "") -> None:
        self.messages.append(message)
        self.ids.append(id)
        self.settlements.append(settlements)

    def answer(self, delivery: Delivery, letter: Letter, settlement: int) -> None:
        """Have the one who waits told; many jobs of one submitter of ours share an answer."""
        properties = lease_of(delivery).properties
        to = properties.reply_to
        assert to is not None
        if properties.app_id != APP:
            self.add(self._to(to, *answer_to_others(letter, properties)), [settlement])
            return
        letters, settlements, size = self._answers.pop(to, ([], [], 0))
        if letters and size + len(letter.body) > _MOST_ANSWER_BYTES:
            self.add(self._to(to, *answer_to_que(letters)), settlements)
            letters, settlements, size = [], [], 0
        letters.append(letter)
        settlements.append(settlement)
        self._answers[to] = (letters, settlements, size + len(letter.body))

    def close(self) -> None:
        """Make the answers that are still open."""
        for to, (letters, settlements, _) in self._answers.items():
            self.add(self._to(to, *answer_to_que(letters)), settlements)

    def _to(self, reply_to: str, properties: bytes, body: bytes) -> Outgoing:
        # Not mandatory: one who has gone needs no answer, and that is no reason to run the job again.
        return Outgoing(self.outbox.head(self.outbox.rest, "", reply_to, mandatory=False), properties, body)


async def publish(outboxes: Link[Outbox], settlements: Sequence[Settlement]) -> list[bool]:
    """Publish what the verdicts ask for, and return for each whether the server has all of it.

    A connection that dies meanwhile is followed by a second try: nothing is worse for it than for a job that runs
    again. While the server blocks those who publish, what is to be said waits, for as long as that takes.
    """
    safe = [_says_nothing(delivery, verdict) for delivery, verdict in settlements]
    tries = 2
    while tries and (left := [index for index, is_safe in enumerate(safe) if not is_safe]):
        outbox = await outboxes.wait()
        if outbox is None:
            break
        failed = await _publish(outbox, settlements, left)
        for index in left:
            safe[index] = index not in failed
        if not (failed and outbox.connection.alive and outbox.connection.blocked):
            tries -= 1
    return safe


async def _publish(outbox: Outbox, settlements: Sequence[Settlement], indices: Sequence[int]) -> set[int]:
    """Return those of `indices` of which the server does not have all."""
    mail = _Mail(outbox)
    try:
        await outbox.mend()
        for index in indices:
            await _write(mail, index, *settlements[index])
    except (OSError, TimeoutError) as error:
        _log.warning("what became of %d jobs cannot be told yet: %s", len(indices), error)
        return set(indices)
    mail.close()
    failed: set[int] = set()
    outcomes = await outbox.rest.publish(mail.messages, mail.ids)
    for outcome, settled in zip(outcomes, mail.settlements, strict=True):
        if outcome.fate is not Fate.SAFE:
            _log.warning("what became of %d jobs was not taken: %s", len(settled), outcome.why)
            failed.update(settled)
            for index in settled:
                outbox.topology.forget(settlements[index][0].function)
    return failed


def _says_nothing(delivery: Delivery, verdict: Verdict) -> bool:
    """Whether an acknowledgement alone says it."""
    if lease_of(delivery).properties.reply_to is not None:
        return False
    return isinstance(verdict, Completed) or (isinstance(verdict, Failed) and verdict.kind in _NO_BURIAL)


async def _write(mail: _Mail, index: int, delivery: Delivery, verdict: Verdict) -> None:
    properties = lease_of(delivery).properties
    waited_for = properties.reply_to is not None
    attempt = delivery.attempt or 1
    match verdict:
        case Completed(payload) if len(payload) > mail.outbox.max_payload - _ANSWER_OVERHEAD_BYTES:
            # The server would close the channel, and the job would run, and fail, for ever.
            message = f"{len(payload)} bytes of result, more than the {mail.outbox.max_payload} that the server takes"
            await _write(mail, index, delivery, Failed("result", "ResultInvalid", message))
        case Completed(payload):
            if waited_for:
                mail.answer(delivery, Letter(delivery.id, "completed", payload), index)
        case Failed():
            if waited_for:
                kind = "expired" if verdict.kind == "expired" else "failed"
                mail.answer(delivery, Letter(delivery.id, kind, msgspec.json.encode(verdict)), index)
            elif verdict.kind not in _NO_BURIAL:
                await _copy(mail, index, delivery, letter_properties(properties, attempt, verdict), dead=True)
        case Redeliver(after):
            await _copy(mail, index, delivery, copy_properties(properties, attempt), after=after)
        case Released():
            await _copy(mail, index, delivery, first_again(properties, attempt - 1))
        case _:
            assert_never(verdict)


async def _copy(
    mail: _Mail, index: int, delivery: Delivery, properties: bytes, *, after: float = 0.0, dead: bool = False
) -> None:
    outbox = mail.outbox
    head = await outbox.way(delivery.function, after, outbox.rest)
    if dead:
        head = outbox.head(outbox.rest, "", outbox.topology.names.dead(delivery.function))
    id = lease_of(delivery).properties.message_id or lease_of(delivery).properties.correlation_id or ""
    mail.add(Outgoing(head, properties, delivery.payload), [index], id)


def post(outbox: Outbox, letters: Sequence[tuple[Delivery, Letter]]) -> None:
    """Send what handlers have to say, without waiting for anything: the one who hears it may have gone."""
    by_submitter: dict[str, list[Letter]] = {}
    for delivery, letter in letters:
        to = lease_of(delivery).properties.reply_to
        assert to is not None
        by_submitter.setdefault(to, []).append(letter)
    outbox.rest.post(
        [
            Outgoing(outbox.head(outbox.rest, "", to, mandatory=False), *answer_to_que(said))
            for to, said in by_submitter.items()
        ]
    )
