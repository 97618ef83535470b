"""What a Gearman URL may ask for."""

import pytest

from que.address import Address, Host
from que.driver import open_driver
from que.drivers.gearman import GearmanDriver
from que.drivers.gearman.options import Options
from que.errors import ConfigurationError
from que.model import Lease, Support, UniqueScope


def options(url: str) -> Options:
    return Options.of(Address.parse(url))


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("gearman://", (Host("127.0.0.1", 4730),)),
        ("gearman://a", (Host("a", 4730),)),
        ("gearman://a:1,[::1]:2,b", (Host("a", 1), Host("::1", 2), Host("b", 4730))),
    ],
)
def test_what_a_url_leaves_out_has_its_default(url: str, hosts: tuple[Host, ...]) -> None:
    assert options(url).hosts == hosts


def test_every_option_has_its_place() -> None:
    read = options(
        "gearman://a?heartbeat=1&deadline=2&connect_timeout=3&submit_timeout=4&watch_timeout=5&backoff=6"
        "&max_payload=7&durable=1&client_id=me"
    )
    assert (read.heartbeat, read.deadline, read.connect_timeout) == (1, 2, 3)
    assert (read.submit_timeout, read.watch_timeout, read.backoff) == (4, 5, 6)
    assert (read.max_payload, read.durable, read.client_id, read.tls) == (7, True, b"me", None)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gearman://a?hartbeat=1", "did you mean heartbeat"),
        ("gearman://a?heartbeat=0", "heartbeat must be a number"),
        ("gearman://a?deadline=soon", "deadline must be a number"),
        ("gearman://a?durable=maybe", "durable must be 1 or 0"),
        ("gearman://a?client_id=a%20b", "client_id"),
        ("gearman://a?client_id=" + "x" * 128, "client_id"),
        ("gearman://a?cafile=ca.pem", "unknown option 'cafile'"),
        ("gearmans://a?verify=0", "unknown option 'verify'"),
        ("gearman://me:secret@a", "no users"),
        ("gearman://a/path", "paths"),
        ("gearman://a,a:4730", "twice"),
    ],
)
def test_what_a_url_cannot_ask_for_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refusal:
        options(url)
    assert "secret" not in str(refusal.value)


def test_both_schemes_open_the_driver() -> None:
    for scheme in ("gearman", "gearmans"):
        assert isinstance(open_driver(Address.parse(f"{scheme}://a")), GearmanDriver)


@pytest.mark.parametrize(("durable", "support"), [("0", Support.NONE), ("1", Support.NATIVE)])
def test_the_capabilities_are_those_of_gearman(durable: str, support: Support) -> None:
    can = GearmanDriver(Address.parse(f"gearman://a?durable={durable}&max_payload=9")).capabilities
    assert can.durable is support
    assert can.lease is Lease.CONNECTION
    assert can.unique_scope is UniqueScope.WHILE_ALIVE
    assert can.max_payload == 9
    native = (can.results_pushed, can.delay, can.unique, can.priorities, can.progress, can.chunks, can.cancel_queued,
              can.inspect)  # fmt: skip
    assert set(native) == {Support.NATIVE}
    absent = (can.results_stored, can.delayed_results, can.attempts, can.expiry, can.run_timeout, can.retry,
              can.cancel_running, can.dead_letters, can.headers)  # fmt: skip
    assert set(absent) == {Support.NONE}
