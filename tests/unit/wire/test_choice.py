"""Which codec a process uses, and how large payloads leave."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.gearman import wire
from tests.unit.wire.twins import TWINS

HIDE_THE_COMPILED = "import sys; sys.modules['que.gearman._wire_c'] = None; "
SAY = "import que.gearman.wire as wire; print(wire.IMPLEMENTATION, wire.Parser.__module__, wire.pack.__module__)"


def run(code: str, chosen: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "QUE_WIRE"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if chosen is not None:
        environment["QUE_WIRE"] = chosen
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", TWINS)
def test_a_codec_can_be_forced(name: str) -> None:
    module = f"que.gearman._wire_{name}"
    assert run(SAY, name).stdout.split() == [name, module, module]


def test_the_compiled_codec_is_used_where_it_was_built() -> None:
    assert run(SAY, None).stdout.split()[0] == run(SAY, "").stdout.split()[0] == TWINS[0]


def test_the_pure_codec_steps_in_for_a_compiled_one_that_was_not_built() -> None:
    assert run(HIDE_THE_COMPILED + SAY, None).stdout.split()[0] == "py"


def test_a_forced_compiled_codec_that_was_not_built_is_an_error() -> None:
    failed = run(HIDE_THE_COMPILED + SAY, "c")
    assert failed.returncode != 0
    assert "ImportError" in failed.stderr or "ModuleNotFoundError" in failed.stderr


def test_a_codec_that_does_not_exist_is_an_error() -> None:
    assert "QUE_WIRE='rust' names no codec: use c or py" in run(SAY, "rust").stderr


@given(data=st.binary(max_size=300), slice_bytes=st.integers(1, 400))
def test_the_slices_are_the_payload_in_order_and_bounded(data: bytes, slice_bytes: int) -> None:
    slices = list(wire.payload_slices(data, slice_bytes))
    assert b"".join(slices) == data
    assert all(0 < len(view) <= slice_bytes for view in slices)
    assert len(slices) == -(-len(data) // slice_bytes)


def test_slices_are_views_and_not_copies() -> None:
    data = bytes(3 * wire.SLICE_BYTES + 1)
    slices = list(wire.payload_slices(data))
    assert [len(view) for view in slices] == [wire.SLICE_BYTES] * 3 + [1]
    assert all(view.obj is data for view in slices)
