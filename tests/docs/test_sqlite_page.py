"""docs/sqlite.md names every option of the URL, with the default that it has."""

import re

from que.address import Address
from que.drivers.sqlite.options import OPTIONS, SqliteOptions
from tests.docs.pages import ROOT


def test_the_page_has_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", (ROOT / "docs" / "sqlite.md").read_text(), re.MULTILINE))
    options = SqliteOptions.parse(Address.parse("sqlite:///jobs.db"))
    assert rows == {
        "synchronous": options.settings.synchronous,
        "lease": f"{options.lease_seconds:g}",
        "dead_letter_ttl": f"{options.dead_letter_ttl:.0f}",
        "busy_timeout": f"{options.settings.busy_timeout_seconds:g}",
    }
    assert set(rows) == set(OPTIONS)
