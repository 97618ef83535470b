"""Dead letters: background jobs that failed for good, in a stream of their own, by function and receipt."""

from collections.abc import Collection, Sequence

import msgspec

from que.drivers.nats import names
from que.drivers.nats.link import Ack
from que.drivers.nats.store import Store, Stored
from que.drivers.nats.streams import Streams
from que.model import DeadLetter, Failed

_decode_failure = msgspec.json.Decoder(Failed).decode


class Graveyard:
    """Lists, replays and drops; every method raises Silence."""

    def __init__(self, store: Store, streams: Streams, prefix: str) -> None:
        self._store = store
        self._streams = streams
        self._prefix = prefix

    async def dead_letters(self, function: str, limit: int) -> Sequence[DeadLetter]:
        """Return the oldest `limit` of a function's dead letters."""
        letters: list[DeadLetter] = []
        subject = f"{self._prefix}.dead.{names.token(function)}.*"
        number = 0
        while len(letters) < limit:
            found = await self._store.get(self._streams.dead, {"seq": number + 1, "next_by_subj": subject})
            if found is None:
                break
            number = found.seq
            letters.append(_letter(function, found))
        return letters

    async def replay(self, receipts: Collection[str]) -> int:
        """Queue these letters again under their old receipts; return how many there were."""
        return sum([await self._replay(letter) for letter in await self._found(receipts)])

    async def _replay(self, letter: Stored) -> bool:
        receipt = letter.subject.rpartition(".")[2]
        headers = {name: value for name, value in letter.headers().items() if name not in _OF_THE_LETTER}
        # Two who replay it at once store one job.
        headers |= {names.RECEIPT: receipt, names.UNIQUE: f"replay.{letter.seq}"}
        subject = f"{self._prefix}.job.{letter.subject.split('.')[2]}.{letter.headers().get(names.LANE, 'normal')}"
        (ack,) = await self._store.put([(subject, letter.data, headers)])
        if not isinstance(ack, Ack) or ack.error is not None:
            return False
        await self._store.put([self._store.moved(int(receipt), ack.seq)])
        return await self._store.delete(self._streams.dead, letter.seq)

    async def drop(self, receipts: Collection[str]) -> int:
        """Forget these letters; return how many there were."""
        return sum([await self._store.delete(self._streams.dead, letter.seq) for letter in await self._found(receipts)])

    async def _found(self, receipts: Collection[str]) -> list[Stored]:
        found: list[Stored] = []
        for receipt in receipts:
            if (number := names.sequence(receipt)) is not None:
                subject = f"{self._prefix}.dead.*.{number}"
                letter = await self._store.get(self._streams.dead, {"last_by_subj": subject})
                if letter is not None:
                    found.append(letter)
        return found


_OF_THE_LETTER = frozenset({names.FAILURE, names.ATTEMPTS, names.BURIED_AT, names.LANE})


def _letter(function: str, message: Stored) -> DeadLetter:
    headers = message.headers()
    return DeadLetter(
        message.subject.rpartition(".")[2],
        function,
        message.data,
        _decode_failure(headers[names.FAILURE]),
        int(names.number(headers, names.ATTEMPTS) or 0) or None,
        names.number(headers, names.BURIED_AT) or 0.0,
    )
