"""Consistent hashing: who serves a key, and who moves when a server goes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.drivers.gearman.ring import Ring

SERVERS = [f"10.0.0.{number}:4730" for number in range(1, 6)]
KEYS = [b"function\0key-%d" % number for number in range(2000)]


@given(st.permutations(SERVERS), st.binary(max_size=100))
def test_the_order_of_a_key_names_every_server_once_whatever_order_they_were_given_in(
    servers: list[str], key: bytes
) -> None:
    order = Ring(servers).order(key)
    assert sorted(order) == sorted(SERVERS)
    assert order == Ring(SERVERS).order(key)


@pytest.mark.parametrize("gone", SERVERS)
def test_a_server_that_goes_moves_its_own_keys_only_and_each_to_its_stand_in(gone: str) -> None:
    whole, rest = Ring(SERVERS), Ring([server for server in SERVERS if server != gone])
    for key in KEYS:
        order = [server for server in whole.order(key) if server != gone]
        assert rest.order(key) == tuple(order)


def test_the_keys_of_a_server_that_goes_are_shared_among_the_others() -> None:
    ring = Ring(SERVERS)
    stand_ins = Counter(ring.order(key)[1] for key in KEYS if ring.order(key)[0] == SERVERS[0])
    assert set(stand_ins) == set(SERVERS[1:])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_server_gets_its_share_of_the_keys(count: int) -> None:
    ring = Ring(SERVERS[:count])
    shares = Counter(ring.order(key)[0] for key in KEYS)
    fair = len(KEYS) / count
    assert len(shares) == count
    assert all(fair / 2 < share < fair * 1.5 for share in shares.values())


def test_a_key_stays_where_every_release_has_put_it() -> None:
    # Workers and clients of different releases must agree, so the placing may not change.
    homes = [Ring(SERVERS).order(b"f\0key-%d" % number)[0] for number in range(6)]
    assert homes == [SERVERS[index] for index in [2, 0, 3, 0, 0, 1]]
