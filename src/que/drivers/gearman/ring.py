"""Consistent hashing: each key has an order of servers, and a server's coming or going moves its own keys only."""

from bisect import bisect
from collections.abc import Sequence
from hashlib import blake2b

# So many points a server keep the largest share of three within a few per cent of the smallest.
POINTS = 160


class Ring:
    """The order in which servers are tried for a key, the same in every process that names the same servers.

    A server is placed by its name alone, so neither the order of the names in a URL nor the other servers matter.
    """

    __slots__ = ("_hashes", "_orders", "_owners")

    def __init__(self, servers: Sequence[str]) -> None:
        points = sorted((_hash(f"{server}#{point}".encode()), server) for server in servers for point in range(POINTS))
        self._owners = [server for _, server in points]
        self._hashes = [position for position, _ in points]
        self._orders: dict[int, tuple[str, ...]] = {}

    def order(self, key: bytes) -> tuple[str, ...]:
        """Return all servers, the key's own first, each followed by the one that stands in for it."""
        start = bisect(self._hashes, _hash(key)) % len(self._owners)
        order = self._orders.get(start)
        if order is None:
            order = self._orders[start] = tuple(dict.fromkeys(self._owners[start:] + self._owners[:start]))
        return order


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
