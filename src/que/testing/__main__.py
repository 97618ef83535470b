"""`python -m que.testing URL`: whether the engine behind a URL keeps what its driver states.

The exit status is 0 if every promise that could be asked for is kept, 1 if one is broken, 2 if nothing could be asked.
"""

import argparse
import asyncio
import importlib
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from que.address import Address
from que.errors import QueError
from que.testing.scenario import Scenario, perform
from que.testing.scenarios import SCENARIOS
from que.testing.sizes import FULL, QUICK
from que.testing.subject import PromiseBroken, Subject
from que.testing.table import rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the scenarios, print what came of each, and return the exit status."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    chosen = [scenario for scenario in SCENARIOS if asked.word in scenario.name]
    if not chosen:
        parser.error(f"no scenario has {asked.word!r} in its name")
    # What the scenarios provoke is logged as it should be, and is no news to whoever reads this.
    logging.getLogger("que").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory(prefix="que-testing-") as scratch:
        try:
            for module in asked.modules:
                importlib.import_module(module)
            address = Address.parse(asked.url)
            subject = Subject(
                url=asked.url,
                sizes=QUICK if asked.quick else FULL,
                scratch=Path(scratch),
                restart=_restarting(asked.restart),
                imports=asked.modules,
            )
            capabilities = asyncio.run(subject.look())
        except (QueError, ImportError) as error:
            print(f"que.testing: {error}", file=sys.stderr)
            return 2
        print(f"{address} states")
        for name, value in rows(capabilities):
            print(f"  {name:16} {value}")
        counts = Counter(_play(scenario, subject) for scenario in chosen)
    print(f"{counts['kept']} kept, {counts['BROKEN']} broken, {counts['-']} not applicable")
    return 1 if counts["BROKEN"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m que.testing",
        description="Test whether the engine behind URL keeps what its driver states. It uses job names of its own.",
    )
    parser.add_argument("url", metavar="URL", help="such as gearman://127.0.0.1:4730 or sqlite:///jobs.db?lease=1")
    parser.add_argument("--quick", action="store_true", help="less of everything: about half a minute")
    parser.add_argument("-k", dest="word", default="", help="only the scenarios whose name holds this")
    parser.add_argument(
        "--import", dest="modules", metavar="MODULE", action="append", default=[], help="that registers the driver"
    )
    parser.add_argument(
        "--restart", metavar="COMMAND", help="a shell command that has restarted the engine when it ends"
    )
    return parser


def _restarting(command: str | None) -> Callable[[], None] | None:
    if command is None:
        return None

    def restart() -> None:
        subprocess.run(command, shell=True, check=True, timeout=120)

    return restart


def _play(scenario: Scenario, subject: Subject) -> str:
    """Print what came of `scenario`, with its ledger and its figures; return the word for it."""
    subject.notes.clear()
    subject.ledgers.clear()
    start = time.monotonic()
    said = ""
    try:
        hurdle = perform(scenario, subject)
        word, said = ("kept", "") if hurdle is None else ("-", hurdle)
    except PromiseBroken as error:
        word, said = "BROKEN", str(error)
    except Exception:
        word, said = "BROKEN", traceback.format_exc()
    print(f"{word:7} {time.monotonic() - start:6.1f} s  {scenario.name}")
    for line in (*subject.ledgers, *subject.notes, *said.splitlines()):
        print(f"{'':18}{line}", flush=True)
    return word


if __name__ == "__main__":
    sys.exit(main())
