"""Everything that a driver promises, one room for each kind."""

from que.testing.scenario import Scenario
from que.testing.scenarios import callers, crowds, faults, leases, results, telling, waiting

SCENARIOS: tuple[Scenario, ...] = tuple(
    scenario for room in (results, waiting, telling, leases, callers, crowds, faults) for scenario in room.SCENARIOS
)
