"""Drivers by scheme: which one opens a URL, and what is said of a driver that cannot be had."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import cast

import pytest

import que
from que import driver as registry
from que.address import Address
from que.driver import Driver, DriverFactory, known_schemes, open_driver
from que.drivers.gearman import GearmanDriver
from que.drivers.memory import MemoryDriver
from tests.unit.fakes import FakeDriver, url_of


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Let a scheme be an entry point whose module has the given source, as an installed package's would be."""
    points: list[EntryPoint] = []

    def found(*, group: str, name: str | None = None) -> EntryPoints:
        return EntryPoints(each for each in points if name in (None, each.name))

    def add(scheme: str, source: str) -> None:
        again = "_again" * sum(point.name == scheme for point in points)
        module = f"que_test_plugin_{scheme}{again}"
        (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        points.append(EntryPoint(scheme, f"{module}:open_it", "que.drivers"))

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(metadata, "entry_points", found)
    return add


def opened(url: str) -> Driver:
    return open_driver(Address.parse(url))


def opens(driver: object) -> DriverFactory:
    """Return a factory that gives `driver`, whatever it is."""

    def open_it(address: Address) -> Driver:
        return cast(Driver, driver)

    return open_it


def open_fake(address: Address) -> FakeDriver:
    return FakeDriver()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryDriver),
        ("gearman://127.0.0.1", GearmanDriver),
        ("gearmans://127.0.0.1", GearmanDriver),
        ("MEMORY://", MemoryDriver),
    ],
)
def test_a_built_in_scheme_opens_its_driver(url: str, kind: type[object]) -> None:
    assert isinstance(opened(url), kind)


def test_a_registered_factory_gets_the_address() -> None:
    seen: list[Address] = []

    def open_it(address: Address) -> FakeDriver:
        seen.append(address)
        return FakeDriver()

    que.register_driver("mine", open_it)
    assert isinstance(opened("mine://host:1/path?size=2"), FakeDriver)
    assert seen == [Address.parse("mine://host:1/path?size=2")]


def test_the_last_registration_of_a_scheme_counts_also_over_a_built_in_one() -> None:
    first, second = FakeDriver(), FakeDriver()
    for scheme in ("mine", "memory"):
        que.register_driver(scheme, opens(first))
        que.register_driver(scheme, opens(second))
        assert opened(f"{scheme}://") is second


@pytest.mark.parametrize("scheme", ["", "Mine", "my scheme", "1st", "mine://", "_"])
def test_a_scheme_that_could_not_stand_in_a_url_is_refused(scheme: str) -> None:
    with pytest.raises(que.ConfigurationError, match="must be a lower-case word"):
        que.register_driver(scheme, open_fake)


def test_a_factory_that_cannot_be_called_is_refused_when_it_is_registered() -> None:
    with pytest.raises(que.ConfigurationError, match=r"the driver of mine://, .*, cannot be called"):
        que.register_driver("mine", cast(DriverFactory, FakeDriver()))
    assert "mine" not in known_schemes()


def test_an_unknown_scheme_is_refused_with_the_nearest_and_all_that_are_known() -> None:
    with pytest.raises(que.UnknownDriver) as caught:
        opened("memry://")
    assert str(caught.value).startswith("no driver for 'memry'; did you mean memory://? known: ")
    assert (caught.value.scheme, caught.value.nearest) == ("memry", "memory://")
    assert {"gearman", "gearmans", "memory"} <= set(caught.value.known)


def test_an_unknown_scheme_that_resembles_none_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(que.UnknownDriver, match=r"no driver for 'xyz'; known: .*gearman, gearmans.*memory") as caught:
        opened("xyz://")
    assert caught.value.nearest is None


def test_known_schemes_are_sorted_and_hold_what_was_registered(plug: Callable[[str, str], None]) -> None:
    plug("plugged", "")
    que.register_driver("mine", open_fake)
    assert known_schemes() == sorted(known_schemes())
    assert {"gearman", "gearmans", "memory", "mine", "plugged"} <= set(known_schemes())


def test_an_entry_point_opens_its_driver(plug: Callable[[str, str], None]) -> None:
    plug("good", "from tests.unit.test_driver_registry import open_fake as open_it")
    assert isinstance(opened("good://"), FakeDriver)


def test_a_registered_driver_comes_before_an_entry_point(plug: Callable[[str, str], None]) -> None:
    plug("both", "raise RuntimeError('must not be imported')")
    que.register_driver("both", open_fake)
    assert isinstance(opened("both://"), FakeDriver)


@pytest.mark.parametrize(
    ("scheme", "source", "cause"),
    [
        pytest.param("absent", "import no_such_module", ModuleNotFoundError, id="a missing dependency"),
        pytest.param("broken", "1 / 0", ZeroDivisionError, id="any error"),
        pytest.param("typo", "def", SyntaxError, id="a syntax error"),
        pytest.param("leaving", "raise SystemExit('needs a newer Python')", SystemExit, id="an exit"),
        pytest.param("empty", "", AttributeError, id="a missing name"),
    ],
)
def test_a_driver_that_cannot_be_imported_is_an_error_that_names_scheme_module_and_cause(
    scheme: str, source: str, cause: type[BaseException], plug: Callable[[str, str], None]
) -> None:
    plug(scheme, source)
    said = rf"the driver of {scheme}://, que_test_plugin_{scheme}:open_it, cannot be imported: {cause.__name__}\("
    with pytest.raises(que.ConfigurationError, match=said) as caught:
        opened(f"{scheme}://")
    assert isinstance(caught.value.__cause__, cause)


def test_a_built_in_driver_whose_library_is_missing_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.__dict__["_BUILT_IN"], "lazy", "que.drivers.absent:Driver")
    with pytest.raises(que.ConfigurationError, match=r"the driver of lazy://, que\.drivers\.absent:Driver, cannot be"):
        opened("lazy://")


def test_two_installed_drivers_of_one_scheme_are_refused_until_one_is_chosen(plug: Callable[[str, str], None]) -> None:
    plug("twice", "raise RuntimeError('must not be imported')")
    plug("twice", "raise RuntimeError('must not be imported')")
    said = "for twice://, que_test_plugin_twice:open_it and que_test_plugin_twice_again:open_it: uninstall all but one"
    with pytest.raises(que.ConfigurationError, match=said):
        opened("twice://")
    que.register_driver("twice", open_fake)
    assert isinstance(opened("twice://"), FakeDriver)


def test_what_a_driver_says_itself_about_what_it_lacks_is_raised_as_it_is(plug: Callable[[str, str], None]) -> None:
    plug("needy", "import que\nraise que.ConfigurationError('needy:// needs bread')")
    with pytest.raises(que.ConfigurationError, match=r"^needy:// needs bread$"):
        opened("needy://")


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [("amqp://h", "pamqp", "amqp"), ("nats://h", "nats", "nats"), ("postgresql://h/d", "psycopg", "postgres")],
)
def test_a_built_in_driver_without_its_library_says_what_to_install(url: str, library: str, extra: str) -> None:
    program = f"import sys; sys.modules[{library!r}] = None; import que; que.Que({url!r})"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("que.errors.ConfigurationError: ")
    assert last.endswith(f"pip install 'que-jobs[{extra}]'")


def test_an_entry_point_that_cannot_be_called_is_refused(plug: Callable[[str, str], None]) -> None:
    plug("five", "open_it = 5")
    with pytest.raises(que.ConfigurationError, match="the driver of five://, 5, cannot be called"):
        opened("five://")


class Half:
    """Has some of a driver's verbs."""

    calls_in_flight: int | None = None

    async def connect(self, events: object) -> None: ...
    async def disconnect(self) -> None: ...
    async def submit(self, envelopes: object) -> None: ...


def test_what_is_no_driver_is_refused_with_what_it_lacks_and_the_password_hidden() -> None:
    que.register_driver("half", opens(Half()))
    with pytest.raises(que.ConfigurationError) as caught:
        que.Que("half://me:hunter2@host")
    assert str(caught.value) == "half://me:***@host: Half is no Driver: it has no capabilities, register"
    que.register_driver("none", opens(None))
    with pytest.raises(que.ConfigurationError, match="NoneType is no Driver"):
        opened("none://")


@pytest.mark.parametrize("calls", [0, -1])
def test_a_driver_that_allows_no_call_would_never_submit_and_is_refused(calls: int) -> None:
    driver = FakeDriver()
    driver.calls_in_flight = calls
    with pytest.raises(que.ConfigurationError, match=f"calls_in_flight={calls}: expected at least 1, or None"):
        opened(url_of(driver))
