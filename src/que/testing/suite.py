"""The suite for pytest: a class that a driver's author subclasses."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from que.testing.scenario import Scenario, perform
from que.testing.scenarios import SCENARIOS
from que.testing.sizes import QUICK, Sizes
from que.testing.subject import Subject

# pytest_que prints what stands under this name.
_PROPERTY = "que.testing"


class DriverSuite:
    """What a driver promises, as tests: `class TestMine(DriverSuite): url = "mine://"`.

    Instead of the attribute, a fixture `url` may start a server. `imports`: modules that register the driver, for the
    worker processes. `not_applicable`: the scenarios, by name, that cannot be played on this engine; naming one that
    can be is a failure, and one that is not named is skipped. The fixtures `restart` and `sizes` may be overridden.
    """

    imports: Sequence[str] = ()
    not_applicable: Collection[str] = ()

    @pytest.fixture
    def restart(self) -> Callable[[], None] | None:
        """What stops the engine and starts it again; None where that cannot be done."""
        return None

    @pytest.fixture
    def sizes(self) -> Sizes:
        """How much is asked of the engine."""
        return QUICK

    @pytest.fixture
    def subject(
        self, request: pytest.FixtureRequest, restart: Callable[[], None] | None, sizes: Sizes, tmp_path: Path
    ) -> Subject:
        """The engine under test."""
        unknown = set(self.not_applicable) - {scenario.name for scenario in SCENARIOS}
        assert not unknown, f"no scenario is called {unknown.pop()!r}: see que.testing.SCENARIOS"
        given: object = getattr(self, "url", None)
        url: object = given if isinstance(given, str) else request.getfixturevalue("url")
        if not isinstance(url, str):
            raise TypeError(f"url: expected a URL, got {url!r}")
        return Subject(url=url, sizes=sizes, scratch=tmp_path, restart=restart, imports=self.imports)

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
    def test_that(self, scenario: Scenario, subject: Subject, record_property: Callable[[str, object], None]) -> None:
        """The driver keeps this promise."""
        try:
            hurdle = perform(scenario, subject)
        finally:
            for line in (*subject.ledgers, *subject.notes):
                record_property(_PROPERTY, line)
        self._compare(scenario, hurdle)

    def _compare(self, scenario: Scenario, hurdle: str | None) -> None:
        if hurdle is None:
            assert scenario.name not in self.not_applicable, f"{scenario.name!r} can be played: expect it to be"
        elif scenario.name not in self.not_applicable:
            pytest.skip(hurdle)
