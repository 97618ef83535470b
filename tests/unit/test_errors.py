"""The tree of errors: drawn as it is, and every error can be copied and pickled with its facts."""

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from functools import partial

import pytest

import que.errors
from que.errors import (
    ConnectError,
    InvalidName,
    JobFailed,
    NotBound,
    Overloaded,
    QueError,
    Reject,
    ResultTimeout,
    RetryAfter,
    UnknownDriver,
    UnsupportedFeature,
)

FACTS: dict[str, QueError] = {
    "UnknownDriver": UnknownDriver("reddis", "redis://", ["memory", "redis"]),
    "UnsupportedFeature": UnsupportedFeature("toy", "delay", "wait yourself"),
    "NotBound": NotBound("resize"),
    "InvalidName": InvalidName("job name", "a b", "it holds blanks"),
    "ConnectError": ConnectError("gearman://a", "refused"),
    "Overloaded": Overloaded(5),
    "JobFailed": JobFailed("handler", "ValueError", "no"),
    "Reject": Reject("not mine"),
    "RetryAfter": RetryAfter(1.5),
}
KINDS = {name: kind for name, kind in inspect.getmembers(que.errors, inspect.isclass) if issubclass(kind, QueError)}


# They are no part of what users catch.
RAISED_BY_HANDLERS = ("Reject", "RetryAfter")


def one_of(name: str) -> QueError:
    return FACTS.get(name) or KINDS[name]("what happened")


def pickled(protocol: int, error: QueError) -> object:
    return pickle.loads(pickle.dumps(error, protocol))


def drawn() -> dict[str, str]:
    """Return each error's parent, as the docstring of the module draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (que.errors.__doc__ or "").splitlines():
        if match := re.match(r"([│├└─ ]*)([A-Z][A-Za-z]+)(?:  |$)", line):
            depth = len(match[1]) // 4
            del path[depth:]
            if path:
                parents[match[2]] = path[-1]
            path.append(match[2])
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    known = {
        name: kind.__mro__[1].__name__ for name, kind in KINDS.items() if name not in ("QueError", *RAISED_BY_HANDLERS)
    }
    assert drawn() == known


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(copy.copy, id="copied"),
        pytest.param(copy.deepcopy, id="deeply copied"),
        pytest.param(partial(pickled, 2), id="pickled by protocol 2"),
        pytest.param(partial(pickled, 5), id="pickled by protocol 5"),
    ],
)
def test_an_error_keeps_its_kind_text_and_facts_when(name: str, twin: Callable[[QueError], object]) -> None:
    error = one_of(name)
    error.add_note("a note")
    again = twin(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
    assert again is not error


def test_an_unknown_driver_names_what_was_probably_meant_and_all_that_are_known() -> None:
    assert str(FACTS["UnknownDriver"]) == "no driver for 'reddis'; did you mean redis://? known: memory, redis"
    assert "did you mean" not in str(UnknownDriver("q", None, ["memory"]))


@pytest.mark.parametrize(
    ("type_name", "message", "text"),
    [
        ("ValueError", "no", "ValueError: no"),
        ("", "no", "no"),
        ("ValueError", "", "ValueError"),
        ("", "", "the worker gave no reason"),
    ],
)
def test_a_failure_says_what_the_worker_said(type_name: str, message: str, text: str) -> None:
    assert str(JobFailed("handler", type_name, message)) == text


def test_a_caller_who_stops_waiting_may_catch_the_builtin_timeout() -> None:
    assert issubclass(ResultTimeout, TimeoutError)
