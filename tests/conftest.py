"""What every room of the tests shares: private servers, the soak switch, and CI's view of a skip."""

import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.amqp.server import RabbitMQ, rabbitmq
from tests.certificates import Certificates, make_certificates
from tests.servers import CI, Gearmand, StartGearmand, gearmands

# Also where que is not installed, but only on the path.
pytest_plugins = ["pytest_que"]

# A run in the background ignores the interrupt, and so would every program that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Reasons for which a test may be left out even where CI=true; each is a prefix.
EXPECTED_SKIPS = ("needs Python",)

# A shared machine stalls: how long one example takes says nothing about whether it holds.
# CI draws the same examples each time.
settings.register_profile("que", deadline=None, print_blob=True, derandomize=CI)
settings.load_profile("que")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked soak as well: they take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    soaking = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soaking)
    items[:] = [item for item in items if item not in soaking]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_surprising_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_surprising_skip(report)
    return report


def _fail_surprising_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Where CI=true, a skip for a reason that is not among EXPECTED_SKIPS is a failure that names the reason."""
    if not (CI and report.skipped and isinstance(report.longrepr, tuple)) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not reason.startswith(EXPECTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"CI allows no such skip: {reason}"


@pytest.fixture(scope="session")
def gearmand() -> Iterator[Gearmand]:
    """A server that the whole run shares: use function names of your own, and never stop it."""
    with Gearmand.start() as server:
        yield server


@pytest.fixture
def own_gearmand() -> Iterator[StartGearmand]:
    """Start servers for this test alone: `own_gearmand("--job-retries=2", threads=0)`."""
    with gearmands() as start:
        yield start


@pytest.fixture(scope="session")
def node(certificates: Certificates) -> Iterator[RabbitMQ]:
    """A RabbitMQ that the whole run shares, as it takes seconds to start: use a prefix of your own, and leave it up."""
    with rabbitmq(certificates) as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once a run."""
    return make_certificates(tmp_path_factory.mktemp("tls"))
