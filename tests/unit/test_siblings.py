"""Every public async method has a blocking sibling with the same parameters and types."""

import inspect
import re
import typing
from collections.abc import Callable

import pytest

from que.app import Que
from que.blocking import BlockingQue, BlockingWorker
from que.classform import Model
from que.declare import Declare
from que.handle import Events, Handle, Sending
from que.observer import Observe
from que.portal import BlockingEvents, BlockingHandle, BlockingSending
from que.schedule import Clock, Missed, Scheduler, When
from que.worker import Worker

PAIRS: dict[str, tuple[type, type]] = {
    "Que": (Que, BlockingQue),
    "Worker": (Worker, BlockingWorker),
    "Handle": (Handle, BlockingHandle),
    "Sending": (Sending, BlockingSending),
    "Events": (Events, BlockingEvents),
}

# An async protocol of the language and the one that threads have.
PROTOCOLS = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}

# What a type of the async face is called on the blocking one.
TYPES = [
    (r"que\.handle\.Handle\b", "que.portal.BlockingHandle"),
    (r"que\.handle\.Sending\b", "que.portal.BlockingSending"),
    (r"que\.handle\.Events\b", "que.portal.BlockingEvents"),
    (r"que\.worker\.Worker\[[^]]*\]", "que.blocking.BlockingWorker"),
    (r" \| collections\.abc\.AsyncIterable\[[^]]*\]", ""),
    (r"typing\.Union\[(collections\.abc\.Iterable\[[^]]*\]), collections\.abc\.AsyncIterable\[[^]]*\]\]", r"\1"),
    (r"collections\.abc\.AsyncIterator\b", "collections.abc.Iterator"),
]

# What `import que` does not import, so that it is light: only checkers see these names there.
LAZY = {
    "BlockingQue": BlockingQue,
    "Clock": Clock,
    "Declare": Declare,
    "Missed": Missed,
    "Model": Model,
    "Observe": Observe,
    "Scheduler": Scheduler,
    "When": When,
    "Worker": Worker,
}

# Neither the variance of a type variable nor the name that an inherited method has for it is a difference.
VARIABLES = [(r"[~+-](\w+?)(_co)?\b", r"\1"), (r"\bValueT\b", "ResultT")]

# `with` and `for` ask nothing of what these return; the others have to say the same.
LOOSE = {"__enter__", "__iter__"}


def spelled(hint: object) -> str:
    return (
        hint.__module__ + "." + hint.__qualname__
        if isinstance(hint, type) and not typing.get_args(hint)
        else repr(hint)
    )


def rewritten(text: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def translated(hint: object) -> str:
    return rewritten(spelled(hint), [*TYPES, *VARIABLES])


def methods(class_: type) -> dict[str, Callable[..., object]]:
    wanted = {name for name in dir(class_) if not name.startswith("_")} | (PROTOCOLS.keys() & set(dir(class_)))
    return {name: each for name in wanted if inspect.isfunction(each := inspect.getattr_static(class_, name))}


def is_async(method: Callable[..., object]) -> bool:
    """Whether a method waits, or gives something that does."""
    if inspect.iscoroutinefunction(method) or method.__name__ == "__aiter__":
        return True
    hint = typing.get_type_hints(method, localns=LAZY).get("return")
    return translated(hint) != rewritten(spelled(hint), VARIABLES)


def face(method: Callable[..., object], say: Callable[[object], str]) -> list[tuple[str, object, object, str]]:
    """Return what a caller sees of a method: each parameter's name, kind, default and type, and the result's type."""
    hints = typing.get_type_hints(method, localns=LAZY)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    seen = [(each.name, each.kind, each.default, say(hints[each.name])) for each in parameters]
    return [*seen, ("return", None, None, say(hints["return"]))]


def differences(async_class: type, blocking_class: type) -> list[str]:
    """Return the async methods of one class that the other has not, or has in another form."""
    siblings = methods(blocking_class) | {name: getattr(blocking_class, name, None) for name in PROTOCOLS.values()}
    found: list[str] = []
    for name, method in sorted(methods(async_class).items()):
        if not is_async(method):
            continue
        sibling_name = PROTOCOLS.get(name, name)
        sibling = siblings.get(sibling_name)
        if sibling is None or not inspect.isfunction(sibling) or inspect.iscoroutinefunction(sibling):
            found.append(f"{name}: no blocking {sibling_name}")
            continue
        asked, answered = face(method, translated), face(sibling, translated)
        if sibling_name in LOOSE:
            asked, answered = asked[:-1], answered[:-1]
        if asked != answered:
            found.append(f"{name}: {asked} is not {answered}")
    return found


@pytest.mark.parametrize("pair", PAIRS)
def test_every_async_method_has_a_blocking_sibling_with_the_same_parameters_and_types(pair: str) -> None:
    assert differences(*PAIRS[pair]) == []


@pytest.mark.parametrize("pair", ["Handle", "Sending"])
def test_the_sibling_of_await_is_result(pair: str) -> None:
    asked, answering = PAIRS[pair]
    assert hasattr(asked, "__await__")
    assert inspect.isfunction(answering.__dict__.get("result") or getattr(answering, "result", None))


class Sleeper:
    async def rest(self, seconds: float, *, deep: bool = False) -> int:
        raise NotImplementedError


class Awake:
    pass


class Renamed:
    def rest(self, minutes: float, *, deep: bool = False) -> int:
        raise NotImplementedError


class OtherDefault:
    def rest(self, seconds: float, *, deep: bool = True) -> int:
        raise NotImplementedError


class OtherResult:
    def rest(self, seconds: float, *, deep: bool = False) -> str:
        raise NotImplementedError


class StillAsync:
    async def rest(self, seconds: float, *, deep: bool = False) -> int:
        raise NotImplementedError


class Rested:
    def rest(self, seconds: float, *, deep: bool = False) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("sibling", [Awake, Renamed, OtherDefault, OtherResult, StillAsync])
def test_a_sibling_that_is_missing_or_differs_is_found(sibling: type) -> None:
    assert len(differences(Sleeper, sibling)) == 1


def test_a_sibling_that_is_the_same_is_accepted() -> None:
    assert differences(Sleeper, Rested) == []


def test_the_comparison_sees_the_methods_that_matter() -> None:
    """A comparison that overlooks what it should compare would find no differences either."""
    seen = {
        f"{name}.{method}"
        for name, (one, _) in PAIRS.items()
        for method, each in methods(one).items()
        if is_async(each)
    }
    assert {
        "Que.connect", "Que.disconnect", "Que.submit", "Que.send", "Que.submit_many", "Que.map", "Que.send_many",
        "Que.drain", "Que.status", "Que.cancel", "Que.worker", "Que.work", "Que.__aenter__",
        "Worker.run", "Worker.stop", "Handle.result", "Handle.accepted", "Handle.events", "Handle.status",
        "Handle.cancel", "Events.__anext__",
    } <= seen  # fmt: skip
