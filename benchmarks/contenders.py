"""Who takes part in the end-to-end questions, what each needs, and how it is started."""

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Contender
from benchmarks.stage import Command, Missing, program, python

Pair = Callable[..., Command]
"""Return the command of a pair's program with these arguments; raises Missing."""

LIBGEARMAN = "libgearman (C)"
KERNEL_BUFFERS = "libgearman (C), the kernel's buffers"


@dataclass(frozen=True, slots=True)
class Module:
    """A pair in Python: `needs` are the packages without which it cannot run."""

    name: str
    needs: Sequence[str] = ()
    leading: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    def __call__(self, *arguments: object) -> Command:
        for package in self.needs:
            if find_spec(package) is None:
                raise Missing(f"{package} is not installed")
        return python(f"benchmarks.pairs.{self.name}", *self.leading, *arguments, **self.env)


def _on_uvloop(name: str, **env: str) -> Module:
    return Module(name, ["uvloop"], ["uvloop"], env)


def _on_asyncio(name: str, **env: str) -> Module:
    return Module(name, [], ["asyncio"], env)


def _compiled(wire: Module) -> Pair:
    def command(*arguments: object) -> Command:
        if find_spec("que.gearman._wire_c") is None:
            raise Missing("que's extension is not built")
        return wire(*arguments)

    return command


@cache
def _build() -> str:
    source = Path(__file__).with_name("pairs") / "libgearman_pair.c"
    directory = tempfile.mkdtemp(prefix="que-benchmarks-")
    atexit.register(shutil.rmtree, directory)
    target = f"{directory}/libgearman_pair"
    built = subprocess.run(
        [program("cc"), "-O2", "-o", target, str(source), "-lgearman"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise Missing(f"libgearman-dev is not installed, or does not compile: {built.stderr.strip().splitlines()[0]}")
    return target


def _libgearman(*arguments: object) -> Command:
    return Command([_build(), *map(str, arguments)])


def _libgearman_on_kernel_buffers(*arguments: object) -> Command:
    return Command([_build(), *map(str, arguments)], {"KERNEL_BUFFERS": "1"})


QUE: Mapping[str, Pair] = {
    "que, uvloop": _compiled(_on_uvloop("que_pair", QUE_WIRE="c")),
    "que, asyncio": _compiled(_on_asyncio("que_pair", QUE_WIRE="c")),
}
PURE: Mapping[str, Pair] = {
    "que without its extension, uvloop": _on_uvloop("que_pair", QUE_WIRE="py"),
    "que without its extension, asyncio": _on_asyncio("que_pair", QUE_WIRE="py"),
}
UNTYPED: Mapping[str, Pair] = {
    "the untyped limit, uvloop": _compiled(_on_uvloop("untyped_pair", QUE_WIRE="c")),
    "the untyped limit, asyncio": _compiled(_on_asyncio("untyped_pair", QUE_WIRE="c")),
}
RIVALS: Mapping[str, Pair] = {
    LIBGEARMAN: _libgearman,
    "gearman3": Module("gearman3_pair", ["gearman"]),
    "gear": Module("gear_pair", ["gear"]),
}
BULK_RIVALS: Mapping[str, Pair] = {KERNEL_BUFFERS: _libgearman_on_kernel_buffers, LIBGEARMAN: _libgearman}
ALL: Mapping[str, Pair] = {**QUE, **PURE, **UNTYPED, **RIVALS}


def contender(name: str, pair: Pair, port: int, mode: str, workers: int) -> Contender:
    """Return a contender whose jobs are its own function on the server at `port`; raises Missing."""
    common = (port, f"{mode}/{name}".replace(" ", "-"), mode)
    return Contender(name, pair("client", *common), [pair("worker", *common)] * workers)
