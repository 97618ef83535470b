"""What a redis:// URL may say, and what it may not."""

import pytest

from que.address import Address
from que.drivers.redis.options import RedisOptions
from que.errors import ConfigurationError


def options(url: str) -> RedisOptions:
    return RedisOptions.parse(Address.parse(url))


def test_a_bare_url_is_the_standard_server() -> None:
    said = options("redis://")
    assert [str(host) for host in said.hosts] == ["127.0.0.1"]
    assert (said.database, said.prefix, said.tls, said.username) == (0, "{que}:", None, None)


def test_a_full_url_is_read_whole() -> None:
    said = options("redis://joe:secret@a:1,b:2/3?namespace=mine&lease=5&timeout=1&linger=9")
    assert [str(host) for host in said.hosts] == ["a:1", "b:2"]
    assert (said.username, said.password, said.database, said.prefix) == ("joe", "secret", 3, "{mine}:")
    assert (said.lease, said.timeout, said.linger) == (5, 1, 9)
    assert "secret" not in repr(said)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://h/jobs", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h/123456", "number of a database"),
        ("redis://h?namespace={x}", "namespace"),
        ("redis://h?namespace=", "namespace"),
        ("redis://h?namespace=a%0Ab", "namespace"),
        ("redis://h?lease=0", "lease"),
        ("redis://h?linger=0", "linger"),
        ("redis://h?timeout=soon", "timeout"),
        ("redis://h?cafile=/x", "unknown option 'cafile'"),
        ("redis://h?leese=1", "did you mean lease"),
        ("rediss://h?certfile=/nowhere", "certfile"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        options(url)
