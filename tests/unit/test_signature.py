"""What a handler's signature says: names, shapes and types, and a clear error for each that cannot be meant."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Annotated, Optional, Protocol, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import que
from que.errors import ConfigurationError, InvalidName
from que.job import shape_of
from que.signature import checked_name, types_of
from tests.unit.loops import in_loop


@dataclass
class Size:
    width: int


Positive = Annotated[int, msgspec.Meta(gt=0)]


async def with_await(params: Size) -> int:
    return params.width


async def with_await_and_context(params: Size, context: que.Context[None]) -> int:
    return params.width


def plain(params: Size) -> int:
    return params.width


def plain_with_context(params: Size, context: que.Context[None]) -> int:
    return params.width


def scaled(factor: int, params: Size, *, offset: int = 0) -> int:
    return params.width * factor + offset


async def scaled_with_await(factor: int, params: Size) -> int:
    return params.width * factor


def scaled_and_more(factor: int, params: Size, offset: int = 0) -> int:
    return params.width * factor + offset


class Callable_:
    """Objects that are called."""

    def __call__(self, params: Size) -> int:
        return params.width


class Awaitable_:
    """Objects that are called and awaited."""

    async def __call__(self, params: Size, context: que.Context[None]) -> int:
        return params.width


class Methods:
    def method(self, params: Size) -> int:
        return params.width

    async def with_await(self, params: Size) -> int:
        return params.width

    @classmethod
    def of_class(cls, params: Size) -> int:
        return params.width

    @staticmethod
    def static(params: Size, context: que.Context[None]) -> int:
        return params.width


@wraps(with_await)
def wrapped(*args: Size) -> object:
    return with_await(*args)


SHAPES: list[tuple[str, Callable[..., object], bool, bool]] = [
    ("async def", with_await, True, False),
    ("async def with context", with_await_and_context, True, True),
    ("def", plain, False, False),
    ("def with context", plain_with_context, False, True),
    ("partial", partial(scaled, 2), False, False),
    ("partial of a partial with a keyword", partial(partial(scaled, 2), offset=3), False, False),
    ("async partial", partial(scaled_with_await, 2), True, False),
    ("object", Callable_(), False, False),
    ("async object", Awaitable_(), True, True),
    ("method", Methods().method, False, False),
    ("async method", Methods().with_await, True, False),
    ("partial of a method", partial(Methods().method), False, False),
    ("class method", Methods.of_class, False, False),
    ("static method", Methods.static, False, True),
    ("wrapped", wrapped, False, False),
]


@pytest.mark.parametrize(
    ("function", "is_async", "wants_context"), [each[1:] for each in SHAPES], ids=[each[0] for each in SHAPES]
)
def test_a_handler_of_this_shape_is_understood(
    function: Callable[..., object], is_async: bool, wants_context: bool
) -> None:
    assert types_of(function) == (Size, int)
    handler = shape_of(function)
    assert (handler.is_async, handler.wants_context) == (is_async, wants_context)


Text = TypeVar("Text")


class HasState(Protocol):
    @property
    def state(self) -> None: ...


def optional_factor(params: Size, factor: int = 2) -> int:
    return params.width * factor


def optional_more(params: Size, factor: int = 2, *rest: int, offset: int = 0, **more: int) -> int:
    return params.width


def context_and_more(params: Size, context: que.Context, factor: int = 2, *rest: int) -> int:
    return params.width


def optional_context(params: Size, context: que.Context | None = None) -> int:
    return params.width


def optional_in_quotes(params: Size, context: Optional["que.Context"] = None) -> int:
    return params.width


def annotated_context(params: Size, context: Annotated[que.Context[None], "of one run"]) -> int:
    return params.width


def any_object(params: Size, context: object) -> int:
    return params.width


def any_object_or_none(params: Size, context: object = None) -> int:
    return params.width


def protocol(params: Size, context: HasState) -> int:
    return params.width


def variable(params: Size, context: Text) -> Text:
    return context


def quoted(params: Size, context: "que.Context[None]") -> int:
    return params.width


def quoted_factor(params: Size, factor: "int" = 2) -> int:
    return params.width


def without_annotations(names: str) -> Callable[..., object]:
    """Return a function of parameters that a checker would not let stand."""
    made: dict[str, Callable[..., object]] = {}
    exec(f"def handler({names}): return 0", made)
    return made["handler"]


SECONDS: list[tuple[str, Callable[..., object], bool]] = [
    ("a factor with a default", optional_factor, False),
    ("anything optional", optional_more, False),
    ("a context and anything optional", context_and_more, True),
    ("an optional context", optional_context, True),
    ("an optional context in quotes", optional_in_quotes, True),
    ("an annotated context", annotated_context, True),
    ("any object", any_object, True),
    ("any object with a default", any_object_or_none, False),
    ("a protocol", protocol, True),
    ("a type variable", variable, True),
    ("a context in quotes", quoted, True),
    ("a factor in quotes", quoted_factor, False),
    ("no annotation", without_annotations("params, context"), True),
    ("no annotation and a default", without_annotations("params, factor=2"), False),
    ("Any", without_annotations("params, context: __import__('typing').Any"), True),
    ("a name for checkers only", without_annotations("params, context: 'que.Context[Pool]'"), True),
    ("another name for checkers only", without_annotations("params, factor: 'Pool' = 2"), False),
    ("a partial", partial(scaled_and_more, 2), False),
]


@pytest.mark.parametrize(("function", "is_context"), [each[1:] for each in SECONDS], ids=[each[0] for each in SECONDS])
def test_a_second_parameter_is_the_context_where_a_checker_would_take_it_for_one(
    function: Callable[..., object], is_context: bool
) -> None:
    assert shape_of(function).wants_context is is_context


@in_loop
async def test_a_default_of_the_handler_is_kept() -> None:
    app = que.Que("memory://")
    job = app.job("scale")(optional_factor)
    async with app, app.worker():
        assert await job(Size(3)) == 6
        assert await job.submit(Size(3)) == 6


def factor_for_context(params: Size, factor: int) -> int:
    return params.width * factor


def quoted_for_context(params: Size, factor: "int") -> int:
    return params.width * factor


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(factor_for_context, id="int"),
        pytest.param(quoted_for_context, id="int in quotes"),
        pytest.param(without_annotations("params, factor: int | None"), id="a union"),
        pytest.param(without_annotations("params, factor: list[int]"), id="a list"),
        pytest.param(without_annotations("params, factor: 'Pool'"), id="a name for checkers only"),
    ],
)
def test_a_required_second_parameter_that_is_no_context_is_refused_at_the_declaration(
    function: Callable[..., object],
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"its second parameter 'factor' is no Context: annotate it as one, or"
    ):
        shape_of(function)


def no_parameter() -> int:
    return 0


def three(a: Size, b: que.Context[None], c: int) -> int:
    return 0


def keyword_only(*, params: Size) -> int:
    return 0


def with_required_keyword(params: Size, *, factor: int) -> int:
    return 0


def only_star(*params: Size) -> int:
    return 0


@pytest.mark.parametrize(
    "function",
    [no_parameter, three, keyword_only, with_required_keyword, only_star, partial(plain, Size(1)), dict, object()],
    ids=["none", "three", "keyword", "required keyword", "star", "empty partial", "a builtin class", "no function"],
)
def test_a_handler_of_another_shape_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ConfigurationError, match=r"handler .*: expected"):
        shape_of(function)
    with pytest.raises(ConfigurationError, match=r"handler .*: expected"):
        types_of(function)


def test_an_optional_keyword_is_no_parameter_of_ours() -> None:
    def handler(params: Size, *, verbose: bool = False, **more: int) -> int:
        return 0

    assert types_of(handler) == (Size, int)


def annotated(**annotations: str) -> Callable[..., object]:
    """Return a handler with these annotations, which are nothing that a checker would let stand."""

    async def handler(params: Size) -> int:
        return params.width

    handler.__annotations__ = annotations
    return handler


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        pytest.param(annotated(**{"return": "int"}), "its parameter 'params' has no type; annotate it", id="parameter"),
        pytest.param(annotated(params="Size"), "its result has no type; annotate it", id="result"),
        pytest.param(annotated(params="Absent"), "name 'Absent' is not defined; declare the type", id="a name"),
        pytest.param(annotated(params="que.Absent"), "no attribute 'Absent'; declare the type", id="an attribute"),
        pytest.param(annotated(params="no type"), "; declare the type at module level", id="syntax"),
    ],
)
def test_a_handler_whose_types_cannot_be_known_is_refused(function: Callable[..., object], reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        types_of(function)
    assert "handler annotated.<locals>.handler: " in str(caught.value)
    assert reason in str(caught.value)


def test_a_type_in_quotes_is_resolved() -> None:
    def handler(params: "Size") -> "list[Size]":
        return [params]

    assert types_of(handler) == (Size, list[Size])


def test_a_result_of_none_is_a_type() -> None:
    async def handler(params: None) -> None:
        return None

    assert types_of(handler) == (type(None), type(None))


def test_what_annotated_adds_to_a_type_is_kept() -> None:
    async def handler(params: Positive) -> Positive:
        return params

    job = que.Que("memory://").job("positive")(handler)
    assert job.load_params(b"1") == 1
    with pytest.raises(que.ParamsInvalid, match="expected int >= 1"):
        job.load_params(b"0")


def test_an_async_generator_is_no_handler() -> None:
    async def handler(params: Size) -> AsyncIterator[int]:
        yield params.width

    with pytest.raises(ConfigurationError, match="result"):
        que.Que("memory://").job("generate")(handler)


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=128))
def test_a_name_of_letters_digits_and_signs_is_a_name(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a b", id="blank"),
        pytest.param("a\tb", id="tab"),
        pytest.param("a\0", id="NUL"),
        pytest.param("a\n", id="line break"),
        pytest.param("a\x7f", id="delete"),
        pytest.param("a\u00a0b", id="no-break space"),
        pytest.param("a\u2028b", id="line separator"),
        pytest.param("a\ud800", id="half a surrogate pair"),
        pytest.param("a" * 513, id="513 bytes"),
        pytest.param("é" * 257, id="514 bytes in 257 letters"),
    ],
)
def test_a_name_that_an_engine_could_not_carry_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="job name"):
        checked_name(name)
    with pytest.raises(InvalidName, match="job name"):
        que.Job(name, Size, int)
    with pytest.raises(InvalidName, match="job name"):
        que.Que("memory://").job(name)


def test_a_name_of_512_bytes_is_a_name() -> None:
    assert checked_name("a" * 512)


def test_a_bare_decorator_says_how_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match=r'a job needs a name: write @app\.job\("plain"\)'):
        que.Que("memory://").job(plain)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # the point
