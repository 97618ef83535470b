"""Everything that a driver promises, one room for each kind."""

from que.testing.scenario import Scenario
from que.testing.scenarios import crowds, faults, results, waiting

SCENARIOS: tuple[Scenario, ...] = (*results.SCENARIOS, *waiting.SCENARIOS, *crowds.SCENARIOS, *faults.SCENARIOS)
