"""The conformance kit: whether a driver does what it states.

`python -m que.testing URL` plays its scenarios, and so does a subclass of DriverSuite under pytest.
"""

from typing import TYPE_CHECKING

from que.testing.clock import Clock
from que.testing.ledger import Entry, Ledger, Tally, tally
from que.testing.sandbox import Sandbox
from que.testing.scenario import Scenario, perform
from que.testing.scenarios import SCENARIOS
from que.testing.sizes import FULL, QUICK, Sizes
from que.testing.subject import PromiseBroken, Subject

if TYPE_CHECKING:
    from que.testing.suite import DriverSuite
else:

    def __getattr__(name):
        # The suite is the one part that needs pytest, which worker processes and `python -m que.testing` do without.
        if name == "DriverSuite":
            try:
                from que.testing.suite import DriverSuite
            except ModuleNotFoundError as error:
                if error.name != "pytest":
                    raise
                raise ImportError("que.testing.DriverSuite needs pytest: pip install pytest") from error
            return DriverSuite
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "FULL",
    "QUICK",
    "SCENARIOS",
    "Clock",
    "DriverSuite",
    "Entry",
    "Ledger",
    "PromiseBroken",
    "Sandbox",
    "Scenario",
    "Sizes",
    "Subject",
    "Tally",
    "perform",
    "tally",
]
