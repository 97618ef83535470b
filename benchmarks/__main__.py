"""Run all questions, or those named; print the answers as Markdown: `python -m benchmarks [--quick] [QUESTION …]`."""

import argparse
import ast
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, cast

from benchmarks.answer import Answer
from benchmarks.measure import DEFAULT, QUICK, Scale
from benchmarks.stage import Missing, program

QUESTIONS = (
    "throughput", "one_at_a_time", "sending", "streams", "payloads", "footprint", "blocking_face", "memory_driver",
    "sqlite_driver", "redis_driver", "amqp_driver", "nats_driver", "postgres_driver", "flatness", "codec_floor",
)  # fmt: skip
# Those of the engines beside their peers, under one name.
ENGINES = ("sqlite_driver", "redis_driver", "amqp_driver", "nats_driver", "postgres_driver", "flatness")
PACKAGES = (
    "msgspec", "uvloop", "gearman3", "gear", "taskiq", "huey", "redis", "saq", "arq", "streaq", "dramatiq", "celery",
    "rq", "pgqueuer", "procrastinate", "taskiq-redis", "taskiq-aio-pika", "taskiq-nats", "repid",
)  # fmt: skip


class Question(Protocol):
    TITLE: str

    def run(self, scale: Scale, /) -> Answer: ...


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"questions:\n{_questions()}\n  engines: {', '.join(ENGINES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="default: all")
    parser.add_argument("--quick", action="store_true", help="show only that each still runs; the figures mean nothing")
    parser.add_argument("--rounds", type=int, default=DEFAULT.rounds, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=DEFAULT.seconds, help="of each contender and round")
    parser.add_argument("--jobs", type=int, default=DEFAULT.jobs, help="of a long run; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here, for `python -m benchmarks.chart`")
    options = parser.parse_args()
    if unknown := set(options.questions) - {*QUESTIONS, "engines"}:
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    named = [name for word in options.questions for name in (ENGINES if word == "engines" else (word,))]
    scale = QUICK if options.quick else Scale(options.rounds, options.seconds, options.jobs)
    print(machine(), flush=True)
    rounds: dict[str, Mapping[str, Sequence[float]]] = {}
    for name in named or QUESTIONS:
        question = cast(Question, import_module(f"benchmarks.{name}"))
        begun = time.monotonic()
        answer = question.run(scale)
        print(f"\n## {question.TITLE}\n\n{answer.text}\n\n({time.monotonic() - begun:.0f} s)", flush=True)
        rounds[name] = answer.rounds
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1))


def _questions() -> str:
    """Return what each question asks, as its file says, without running it."""
    files = {name: Path(__file__).with_name(f"{name}.py") for name in QUESTIONS}
    said = {name: ast.get_docstring(ast.parse(file.read_text())) or "" for name, file in files.items()}
    return "\n".join(f"  {name}: {text}".replace("\n", "\n    ") for name, text in said.items())


def machine() -> str:
    """Return one line that says where and with what this ran."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"{_cores()}; {platform.system()}, {platform.python_implementation()} {platform.python_version()}; " + (
        f"{_server_version()}; {packages}; `python -m benchmarks {' '.join(sys.argv[1:])}`"
    )


def _cores() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in cpus if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _server_version() -> str:
    try:
        path = program("gearmand")
    except Missing as why:
        return str(why)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return " ".join(said.stdout.split()[:2])


if __name__ == "__main__":
    main()
