"""docs/postgres.md names every option of the URL that is que's own, with the default that it has."""

import re

from que.address import Address
from que.drivers.postgres.options import OWN_OPTIONS, PostgresOptions
from tests.docs.pages import ROOT


def test_the_page_has_every_option_with_its_default() -> None:
    page = (ROOT / "docs" / "postgres.md").read_text()
    told = dict(re.findall(r"^\| `([a-z_]+)` \| (\S+)(?: \||, )", page, re.MULTILINE))
    options = PostgresOptions.parse(Address.parse("postgresql://"))
    assert told.keys() == set(OWN_OPTIONS)
    assert {name: getattr(options, name) for name in told if name != "schema"} == {
        name: float(default) for name, default in told.items() if name != "schema"
    }
    assert told["schema"] == options.schema
