"""What an amqp URL asks for."""

import pytest

from que.address import Address, Host
from que.drivers.amqp.options import Options
from que.errors import ConfigurationError


def options(url: str) -> Options:
    return Options.of(Address.parse(url))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("amqp://h", "/"),
        ("amqp://h/", "/"),
        ("amqp://h/%2F", "/"),
        ("amqp://h/jobs", "jobs"),
        ("amqp://h/a%2Fb", "a/b"),
    ],
)
def test_the_path_is_the_virtual_host(url: str, name: str) -> None:
    assert options(url).virtual_host == name


def test_what_is_left_out_is_what_every_client_takes() -> None:
    plain = options("amqp://")
    assert (plain.hosts, plain.username, plain.password) == ((Host("127.0.0.1", 5672),), "guest", "guest")
    assert options("amqps://rabbit").hosts == (Host("rabbit", 5671),)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(options("amqp://user:secret@h"))


@pytest.mark.parametrize(
    "url",
    ["amqp://h?prefix=a.b", "amqp://h?prefix=", "amqp://h?timeout=0", "amqp://h?cafile=x", "amqp://h?vhost=x"],
)
def test_an_option_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        options(url)
