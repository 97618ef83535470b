"""The suite as this repository runs it: short in every run, at full size with --soak."""

import pytest

from que.testing import FULL, QUICK, DriverSuite, Sizes


class Contract(DriverSuite):
    pytestmark = pytest.mark.timeout(900)

    @pytest.fixture
    def sizes(self, request: pytest.FixtureRequest) -> Sizes:
        return FULL if request.config.getoption("--soak") else QUICK
