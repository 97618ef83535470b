"""The pytest plugin: its fixtures work, and cost nobody anything who does not ask for them."""

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

MODULE = """
import asyncio

def test_fixtures(que_app, que_sandbox, que_clock):
    ran = []

    @que_app.job("later")
    async def later(params: int) -> None:
        ran.append(params)

    async def main():
        async with que_sandbox(que_app) as sandbox:
            await later.send(1, delay=60)
            await sandbox.run()
            assert ran == []
            que_clock.advance(61)
            await sandbox.run()
            assert sandbox.sent(later) == ran == [1]

    asyncio.run(main())
"""


def test_its_fixtures_are_an_app_a_sandbox_and_a_clock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE)
    # A process of its own: this one has imported `tests`, which the egg-info that `pip install .` leaves names as ours.
    pytester.runpytest_subprocess("-p", "pytest_que", "-p", "no:cacheprovider", "-W", "error").assert_outcomes(passed=1)


IMPORTS = """
import sys, pytest
status = pytest.main(["-q", "-p", "pytest_que", "-p", "no:cacheprovider", sys.argv[1]])
assert "pytest_que" in sys.modules
print([name for name in sys.modules if name == "que" or name.startswith(("que.", "msgspec"))])
sys.exit(status)
"""


def test_a_pytest_that_asks_for_none_of_them_imports_nothing_of_que(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile("def test_nothing(): pass")
    command = [sys.executable, "-c", IMPORTS, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "[]"
