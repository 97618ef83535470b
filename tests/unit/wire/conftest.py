"""Every wire test runs on both twins; a compiled one that is missing is an error, not a skip."""

import pytest

from tests.unit.wire.twins import TWINS, Twin, twin


@pytest.fixture(scope="session", params=TWINS)
def codec(request: pytest.FixtureRequest) -> Twin:
    return twin(str(request.param))
