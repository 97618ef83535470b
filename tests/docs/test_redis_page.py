"""docs/redis.md names every option of the URL, with the default that it has."""

import re

import pytest

from que.address import Address
from que.drivers.redis.options import RedisOptions
from que.errors import ConfigurationError
from tests.docs.pages import ROOT

ROWS = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", (ROOT / "docs" / "redis.md").read_text(), re.MULTILINE)
TOLD = {name: default for names, default in ROWS for name in re.findall("[a-z_]+", names)}
DEFAULTS = RedisOptions.parse(Address.parse("redis://"))


def test_the_page_has_every_option_and_no_other() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisOptions.parse(Address.parse("rediss://?zzzzzzzz=1"))
    known = str(caught.value).partition("known: ")[2].split(", ")
    assert sorted(TOLD) == sorted(known)


@pytest.mark.parametrize("name", ["lease", "timeout", "linger", "dead_letter_ttl", "backoff"])
def test_the_page_has_the_default_of_each_time(name: str) -> None:
    assert float(TOLD[name]) == getattr(DEFAULTS, name)


def test_the_page_has_the_default_namespace() -> None:
    assert DEFAULTS.prefix == f"{{{TOLD['namespace']}}}:"
