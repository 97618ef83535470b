"""Typed payloads: what each kind of value is on the wire, what does not fit, and where it does not."""

import enum
import math
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.errors import ConfigurationError
from que.serializer import JSON, MSGPACK, RAW, PayloadError, Serializer


@dataclass(frozen=True, slots=True)
class Size:
    width: int
    height: int = 1


@dataclass
class Picture:
    name: str
    sizes: list[Size] = field(default_factory=list[Size])


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


@attrs.frozen
class Colour:
    red: int


class Options(TypedDict, total=False):
    depth: int


class Pair(NamedTuple):
    left: int
    right: str


class Shade(enum.Enum):
    DARK = "dark"


VALUES: list[tuple[str, object, object, bytes]] = [
    ("dataclass", Size, Size(3), b'{"width":3,"height":1}'),
    ("nested dataclasses", Picture, Picture("a", [Size(1)]), b'{"name":"a","sizes":[{"width":1,"height":1}]}'),
    ("Struct", Point, Point(1, 2.5), b'{"x":1,"y":2.5}'),
    ("attrs", Colour, Colour(255), b'{"red":255}'),
    ("TypedDict", Options, {"depth": 2}, b'{"depth":2}'),
    ("NamedTuple", Pair, Pair(1, "b"), b'[1,"b"]'),
    ("str", str, "2pac é", '"2pac é"'.encode()),
    ("int", int, -7, b"-7"),
    ("float", float, 0.5, b"0.5"),
    ("bool", bool, True, b"true"),
    ("bytes", bytes, b"\0a", b'"AGE="'),
    ("None", type(None), None, b"null"),
    ("list", list[int], [1, 2], b"[1,2]"),
    ("plain dict", dict, {"a": [1]}, b'{"a":[1]}'),
    ("dict", dict[str, int], {"a": 1}, b'{"a":1}'),
    ("tuple", tuple[int, str], (1, "a"), b'[1,"a"]'),
    ("set", set[int], {1}, b"[1]"),
    ("optional", int | None, None, b"null"),
    ("union", Size | None, Size(1), b'{"width":1,"height":1}'),
    ("Enum", Shade, Shade.DARK, b'"dark"'),
    ("Literal", Literal["a", "b"], "b", b'"b"'),
    ("datetime", datetime, datetime(2030, 1, 1, tzinfo=UTC), b'"2030-01-01T00:00:00Z"'),
    ("Any", Any, {"a": 1}, b'{"a":1}'),
]


@pytest.mark.parametrize(("type_", "value", "wire"), [each[1:] for each in VALUES], ids=[each[0] for each in VALUES])
def test_the_wire_holds_the_bare_json_of_the_value_and_nothing_else(type_: object, value: object, wire: bytes) -> None:
    codec = JSON.codec(type_, "params")
    assert codec.encode(value) == wire
    assert codec.decode(wire) == value
    assert type(codec.decode(wire)) is type(value)


@pytest.mark.parametrize(("type_", "value"), [each[1:3] for each in VALUES], ids=[each[0] for each in VALUES])
def test_messagepack_carries_the_same_values(type_: object, value: object) -> None:
    codec = MSGPACK.codec(type_, "params")
    assert codec.decode(codec.encode(value)) == value
    assert codec.encode(value) == msgspec.msgpack.encode(value)


@pytest.mark.parametrize(
    ("type_", "wire", "text"),
    [
        pytest.param(Size, b'{"width":"3"}', "params.width: expected int, got str", id="a wrong type"),
        pytest.param(Size, b"{}", "params: object missing required field width", id="a missing field"),
        pytest.param(
            Picture, b'{"name":"a","sizes":[{"width":null}]}', "params.sizes[0].width: expected int", id="a deep path"
        ),
        pytest.param(Point, b'{"x":1,"y":"a"}', "params.y: expected float, got str", id="a Struct"),
        pytest.param(Colour, b'{"red":[]}', "params.red: expected int, got array", id="attrs"),
        pytest.param(Options, b'{"depth":"a"}', "params.depth: expected int, got str", id="a TypedDict"),
        pytest.param(Pair, b"[1]", "params: expected array of", id="a NamedTuple"),
        pytest.param(list[int], b'[1,"a"]', "params[1]: expected int, got str", id="a list"),
        pytest.param(Shade, b'"light"', "params: invalid enum value 'light'", id="an Enum"),
        pytest.param(type(None), b"1", "params: expected null, got int", id="None"),
        pytest.param(Size, b"", "params: input data was truncated", id="nothing"),
        pytest.param(Size, b'{"width":3}x', "params: JSON is malformed", id="trailing letters"),
        pytest.param(Size, b"\xff", "params: JSON is malformed", id="no JSON"),
        pytest.param(str, b'"\xff"', "params: ", id="bad Unicode"),
    ],
)
def test_what_does_not_fit_says_where_and_what_was_expected(type_: object, wire: bytes, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        JSON.codec(type_, "params").decode(wire)
    assert str(caught.value).startswith(text)


@dataclass
class Picky:
    number: int

    def __post_init__(self) -> None:
        raise {1: ValueError, 2: TypeError}.get(self.number, ZeroDivisionError)("not this one")


@pytest.mark.parametrize("number", [1, 2, 3], ids=["ValueError", "TypeError", "another error"])
@pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["JSON", "MSGPACK"])
def test_a_type_that_refuses_its_values_by_any_error_makes_them_unfit(serializer: Serializer, number: int) -> None:
    wire = serializer.codec(dict[str, int], "params").encode({"number": number})
    with pytest.raises(PayloadError, match=r"params.*not this one"):
        serializer.codec(Picky, "params").decode(wire)


@pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["JSON", "MSGPACK"])
@pytest.mark.parametrize(
    "nested", [pytest.param(b"[" * 100_000, id="JSON"), pytest.param(b"\x91" * 100_000, id="MSGPACK")]
)
def test_a_payload_nested_without_end_is_unfit_and_harms_nobody(serializer: Serializer, nested: bytes) -> None:
    with pytest.raises(PayloadError, match="params"):
        serializer.codec(list[object], "params").decode(nested)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_unfit(wire: bytes) -> None:
    for serializer in (JSON, MSGPACK):
        for type_ in (Picture, dict[str, object], Pair, int | None):
            with suppress(PayloadError):
                serializer.codec(type_, "params").decode(wire)


class Odd:
    """No serializer knows it."""


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        pytest.param(Size, {"width": 3}, "result: expected Size, got dict", id="a dict for a dataclass"),
        pytest.param(int, "3", "result: expected int, got str", id="a str for an int"),
        pytest.param(int, None, "result: expected int, got NoneType", id="None for an int"),
        pytest.param(type(None), 3, "result: expected NoneType, got int", id="a value for None"),
        pytest.param(Pair, (1, "a"), "result: expected Pair, got tuple", id="a tuple for a NamedTuple"),
        pytest.param(list[object], [Odd()], "result: ", id="a foreign object inside"),
        pytest.param(Any, Odd(), "result: ", id="a foreign object as Any"),
        pytest.param(dict[str, object], {"a": "\ud800"}, "result: ", id="half a surrogate pair"),
        pytest.param(dict[object, int], {Size(1): 1}, "result: ", id="a key that is no key"),
    ],
)
def test_a_value_that_does_not_encode_says_so(type_: object, value: object, text: str) -> None:
    with pytest.raises(PayloadError) as caught:
        JSON.codec(type_, "result").encode(value)
    assert str(caught.value).startswith(text)


def test_a_value_that_refers_to_itself_does_not_encode() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(PayloadError, match="result"):
        JSON.codec(list[object], "result").encode(endless)


def test_an_integer_that_is_too_large_for_messagepack_does_not_encode() -> None:
    with pytest.raises(PayloadError, match="result"):
        MSGPACK.codec(int, "result").encode(2**70)


def test_an_int_is_good_enough_for_a_float() -> None:
    codec = JSON.codec(float, "params")
    assert codec.decode(codec.encode(3)) == 3.0
    with pytest.raises(PayloadError, match="expected float, got null"):
        codec.decode(codec.encode(math.nan))


@pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["JSON", "MSGPACK"])
@pytest.mark.parametrize("type_", [type(None), int | None, Any], ids=["None", "int | None", "Any"])
def test_an_empty_foreign_payload_is_none_where_the_type_allows_it(serializer: Serializer, type_: object) -> None:
    assert serializer.codec(type_, "result").decode(b"") is None


@pytest.mark.parametrize("type_", [int, Size, str, list[int]], ids=["int", "dataclass", "str", "list"])
def test_an_empty_foreign_payload_is_unfit_elsewhere(type_: object) -> None:
    with pytest.raises(PayloadError, match="result: "):
        JSON.codec(type_, "result").decode(b"")


@given(st.binary())
def test_raw_passes_bytes_through(data: bytes) -> None:
    codec = RAW.codec(bytes, "params")
    assert codec.encode(data) == data
    assert codec.decode(data) == data


def test_raw_carries_nothing_but_bytes() -> None:
    with pytest.raises(ConfigurationError, match="RAW carries bytes only, not result of type <class 'str'>"):
        RAW.codec(str, "result")
    with pytest.raises(PayloadError, match="params: expected bytes, got str"):
        RAW.codec(bytes, "params").encode("a")


@dataclass
class Tree:
    leaves: dict[str, tuple[Odd | None, ...]]
    parent: "Tree | None" = None


@dataclass
class Chain:
    next: "Chain | None" = None


@pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["JSON", "MSGPACK"])
@pytest.mark.parametrize("type_", [Odd, Odd | Size, list[Odd], Tree], ids=["itself", "union", "list", "field"])
def test_a_type_that_cannot_be_carried_is_refused_when_it_is_declared(serializer: Serializer, type_: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{serializer.name} cannot carry params of type"):
        serializer.codec(type_, "params")


def test_a_type_may_refer_to_itself() -> None:
    codec = JSON.codec(Chain, "params")
    assert codec.decode(b'{"next":{}}') == Chain(Chain())


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists))
def test_what_encodes_decodes_to_the_same(value: object) -> None:
    for serializer in (JSON, MSGPACK):
        codec = serializer.codec(object, "params")
        assert codec.decode(codec.encode(value)) == value
