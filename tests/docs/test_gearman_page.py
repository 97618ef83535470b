"""docs/gearman.md names every option of the URL, with the default that it has."""

import dataclasses
import re

from que.address import Address
from que.drivers.gearman.options import Options
from que.tls import TLS
from tests.docs.pages import ROOT

WORDS = {"none": "", "the system's": "", "the host": ""}


def test_the_page_has_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", (ROOT / "docs" / "gearman.md").read_text(), re.MULTILINE)
    told = {name: WORDS.get(default, default) for names, default in rows for name in re.findall("[a-z_]+", names)}
    options = Options.of(Address.parse("gearmans://127.0.0.1"))
    true = {
        field.name: getattr(part, field.name)
        for part in (options, options.tls or TLS())
        for field in dataclasses.fields(part)
        if field.name not in ("hosts", "tls")
    }
    assert told == {name: _shown(value) for name, value in true.items()}


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:g}" if isinstance(value, float) else str(int(value) if isinstance(value, bool) else value)
