"""What verdicts have to say, as messages: answers for those who wait, copies for later, dead letters."""

from collections.abc import Sequence
from typing import assert_never

import msgspec

from que.drivers.amqp.channel import Fate, Outgoing
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

# One answer holds many jobs' results, but stays a message of a size that every server takes.
_MOST_ANSWER_BYTES = 1024 * 1024
_NO_BURIAL = frozenset({"cancelled", "expired"})


class _Mail:
    """Messages that are being made, and which settlements hang on each."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.messages: list[Outgoing] = []
        self.settlements: list[list[int]] = []
        self.failed: set[int] = set()
        self._answers: dict[str, tuple[list[Letter], list[int], int]] = {}

    def add(self, message: Outgoing, settlements: list[int]) -> None:
        self.messages.append(message)
        self.settlements.append(settlements)

    def answer(self, delivery: Delivery, letter: Letter, settlement: int) -> None:
        """Have the one who waits told; many jobs of one submitter of ours share an answer."""
        properties = lease_of(delivery).properties
        to = properties.reply_to
        assert to is not None
        if properties.app_id != APP:
            self.add(self._to(to, *answer_to_others(letter, properties)), [settlement])
            return
        letters, settlements, size = self._answers.get(to, ([], [], 0))
        letters.append(letter)
        settlements.append(settlement)
        size += len(letter.body)
        if size < _MOST_ANSWER_BYTES:
            self._answers[to] = (letters, settlements, size)
        else:
            self._answers.pop(to, None)
            self.add(self._to(to, *answer_to_que(letters)), settlements)

    def close(self) -> None:
        """Make the answers that are still open."""
        for to, (letters, settlements, _) in self._answers.items():
            self.add(self._to(to, *answer_to_que(letters)), settlements)

    def _to(self, reply_to: str, properties: bytes, body: bytes) -> Outgoing:
        # Not mandatory: one who has gone needs no answer, and that is no reason to run the job again.
        return Outgoing(self.outbox.head(self.outbox.rest, "", reply_to, mandatory=False), properties, body)


async def publish(outbox: Outbox | None, settlements: Sequence[Settlement]) -> list[bool]:
    """Publish what the verdicts ask for, and return for each whether the server has all of it."""
    if outbox is None:
        return [_says_nothing(delivery, verdict) for delivery, verdict in settlements]
    mail = _Mail(outbox)
    for index, (delivery, verdict) in enumerate(settlements):
        try:
            await _write(mail, index, delivery, verdict)
        except (OSError, TimeoutError):
            mail.failed.add(index)
    mail.close()
    failed = mail.failed
    if mail.messages:
        outcomes = await outbox.rest.publish(mail.messages, [""] * len(mail.messages))
        for outcome, settled in zip(outcomes, mail.settlements, strict=True):
            if outcome.fate is not Fate.SAFE:
                failed.update(settled)
                for index in settled:
                    outbox.topology.forget(settlements[index][0].function)
    return [index not in failed for index in range(len(settlements))]


def _says_nothing(delivery: Delivery, verdict: Verdict) -> bool:
    """Whether an acknowledgement alone is enough."""
    if lease_of(delivery).properties.reply_to is not None:
        return False
    return isinstance(verdict, Completed) or (isinstance(verdict, Failed) and verdict.kind in _NO_BURIAL)


async def _write(mail: _Mail, index: int, delivery: Delivery, verdict: Verdict) -> None:
    properties = lease_of(delivery).properties
    waited_for = properties.reply_to is not None
    attempt = delivery.attempt or 1
    match verdict:
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
    mail.add(Outgoing(head, properties, delivery.payload), [index])


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
