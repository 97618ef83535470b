"""What packs, and what is refused before a byte leaves."""

import pytest

from que.errors import PacketError
from que.gearman.packets import (
    DEFAULT_MAX_PAYLOAD,
    LAYOUTS,
    MAX_BODY_BYTES,
    MAX_CLIENT_ID_BYTES,
    MAX_FUNCTION_BYTES,
    MAX_LEADING_BYTES,
    MAX_UNIQUE_BYTES,
    Magic,
    PacketType,
)
from tests.unit.wire.twins import MAGICS, Twin, head, sample_args

WITH_DATA = [kind for kind in PacketType if LAYOUTS[kind] and LAYOUTS[kind][-1].data]
WITHOUT_DATA = [kind for kind in PacketType if kind not in WITH_DATA]
NAMED = [(kind, index) for kind in PacketType for index, argument in enumerate(LAYOUTS[kind]) if not argument.data]
LIMITED = [
    (kind, index, argument.max_bytes)
    for kind in PacketType
    for index, argument in enumerate(LAYOUTS[kind])
    if not argument.data
]


def name_of(value: object) -> str:
    return value.name if isinstance(value, PacketType) else str(value)


def replaced(kind: PacketType, index: int, value: bytes) -> tuple[bytes, ...]:
    args = sample_args(kind)
    return (*args[:index], value, *args[index + 1 :])


@pytest.mark.parametrize("kind", PacketType, ids=name_of)
@pytest.mark.parametrize("change", [-1, 1], ids=["too few", "too many"])
def test_a_wrong_count_of_arguments_is_refused_and_the_right_ones_are_named(
    codec: Twin, kind: PacketType, change: int
) -> None:
    args = sample_args(kind)
    wrong = (*args, b"more") if change > 0 else args[:-1]
    if len(wrong) == len(args):
        wrong = (b"one", b"two")
    names = ", ".join(argument.name for argument in LAYOUTS[kind]) or "none"
    with pytest.raises(PacketError, match=rf"{kind.name} takes {len(args)} arguments \({names}\), not {len(wrong)}"):
        codec.pack(Magic.REQUEST, kind, wrong)


@pytest.mark.parametrize(("kind", "index"), NAMED, ids=name_of)
@pytest.mark.parametrize("value", [b"\0", b"a\0", b"\0a", b"a\0b"], ids=repr)
def test_a_nul_is_refused_in_any_argument_but_data(codec: Twin, kind: PacketType, index: int, value: bytes) -> None:
    with pytest.raises(PacketError, match=f"{kind.name}: {LAYOUTS[kind][index].name} .* holds a NUL"):
        codec.pack(Magic.REQUEST, kind, replaced(kind, index, value))


@pytest.mark.parametrize("kind", [kind for kind in PacketType if len(LAYOUTS[kind]) > 1], ids=name_of)
def test_a_nul_does_not_make_up_for_a_missing_argument(codec: Twin, kind: PacketType) -> None:
    first, second, *rest = sample_args(kind)
    with pytest.raises(PacketError, match="takes"):
        codec.pack(Magic.REQUEST, kind, (first + b"\0" + second, *rest))


@pytest.mark.parametrize(("kind", "index", "limit"), LIMITED, ids=name_of)
def test_an_argument_may_have_as_many_bytes_as_its_limit_and_no_more(
    codec: Twin, kind: PacketType, index: int, limit: int
) -> None:
    if limit < MAX_LEADING_BYTES:
        packet = codec.pack(Magic.REQUEST, kind, replaced(kind, index, b"x" * limit))
        assert b"x" * limit in packet
    with pytest.raises(PacketError, match=f"{LAYOUTS[kind][index].name} has {limit + 1} bytes, over its limit"):
        codec.pack(Magic.REQUEST, kind, replaced(kind, index, b"x" * (limit + 1)))


def test_the_limits_are_those_that_gearmand_bears() -> None:
    assert (MAX_UNIQUE_BYTES, MAX_FUNCTION_BYTES, MAX_CLIENT_ID_BYTES) == (63, 512, 127)
    assert DEFAULT_MAX_PAYLOAD == 64 * 1024 * 1024
    bounded = {argument.name: argument.max_bytes for layout in LAYOUTS.values() for argument in layout}
    assert (bounded["unique"], bounded["function"], bounded["client_id"]) == (63, 512, 127)


@pytest.mark.parametrize("kind", PacketType, ids=name_of)
def test_the_arguments_but_the_data_are_bounded_together(codec: Twin, kind: PacketType) -> None:
    free = [i for i, argument in enumerate(LAYOUTS[kind]) if argument.max_bytes == MAX_LEADING_BYTES]
    named = [index for index in free if not LAYOUTS[kind][index].data]
    if not named:
        return
    args = replaced(kind, named[0], b"")
    others = len(b"\0".join(args)) - (len(args[-1]) if kind in WITH_DATA else 0)
    exact = replaced(kind, named[0], b"x" * (MAX_LEADING_BYTES - others))
    over = replaced(kind, named[0], b"x" * (MAX_LEADING_BYTES - others + 1))
    packet = codec.pack(Magic.RESPONSE, kind, exact)
    assert codec.Parser(Magic.RESPONSE).feed(packet) == [(int(kind), exact)]
    with pytest.raises(PacketError, match=r"together|over its limit"):
        codec.pack(Magic.RESPONSE, kind, over)


@pytest.mark.parametrize("kind", WITH_DATA, ids=name_of)
def test_max_payload_counts_the_data_alone(codec: Twin, kind: PacketType) -> None:
    args = (*sample_args(kind)[:-1], b"12345678")
    assert codec.pack(Magic.REQUEST, kind, args, 8).endswith(b"12345678")
    assert codec.pack(Magic.REQUEST, kind, args, max_payload=8).endswith(b"12345678")
    with pytest.raises(
        PacketError, match=rf"{kind.name}: data has 8 bytes, over max_payload \(7\): split it, or raise"
    ):
        codec.pack(Magic.REQUEST, kind, args, 7)


@pytest.mark.parametrize("kind", WITHOUT_DATA, ids=name_of)
def test_max_payload_says_nothing_of_a_packet_without_data(codec: Twin, kind: PacketType) -> None:
    assert codec.pack(Magic.REQUEST, kind, sample_args(kind), 0) == codec.pack(
        Magic.REQUEST, kind, list(sample_args(kind))
    )


@pytest.mark.parametrize("kind", [-1, 0, 5, 43, 2**31, 2**32 + 7, 2**64, -(2**64)], ids=str)
def test_an_unknown_type_is_refused(codec: Twin, kind: int) -> None:
    with pytest.raises(PacketError, match=f"unknown packet type {kind}: Gearman has 1 to 42 without 5"):
        codec.pack(Magic.REQUEST, kind, ())
    with pytest.raises(PacketError, match=f"unknown packet type {kind}:"):
        codec.pack_header(Magic.REQUEST, kind, (), 1)


@pytest.mark.parametrize("magic", [b"", b"\0RE", b"\0REQ ", b"\0REX", b"REQ\0"], ids=repr)
def test_an_unknown_magic_is_refused(codec: Twin, magic: bytes) -> None:
    with pytest.raises(PacketError, match="unknown magic"):
        codec.pack(magic, PacketType.NOOP, ())
    with pytest.raises(PacketError, match="unknown magic"):
        codec.pack_header(magic, PacketType.ECHO_REQ, (), 0)
    with pytest.raises(ValueError, match="unknown magic"):
        codec.Parser(magic)


def test_text_is_refused_with_the_name_of_the_argument(codec: Twin) -> None:
    args: tuple[bytes, ...] = (b"reverse", "key", b"")  # type: ignore[assignment]  # what an untyped caller does
    with pytest.raises(TypeError, match="SUBMIT_JOB: unique must be bytes, not str"):
        codec.pack(Magic.REQUEST, PacketType.SUBMIT_JOB, args)
    with pytest.raises(TypeError, match="SUBMIT_JOB: unique must be bytes, not str"):
        codec.pack_header(Magic.REQUEST, PacketType.SUBMIT_JOB, args[:2], 1)


@pytest.mark.parametrize("kind", WITH_DATA, ids=name_of)
@pytest.mark.parametrize("magic", MAGICS, ids=["request", "response"])
def test_a_header_and_its_data_are_the_packet(codec: Twin, kind: PacketType, magic: bytes) -> None:
    *leading, data = sample_args(kind)
    assert codec.pack_header(magic, kind, leading, len(data)) + data == codec.pack(magic, kind, (*leading, data))


@pytest.mark.parametrize("kind", WITHOUT_DATA, ids=name_of)
def test_a_type_without_data_has_no_header_apart(codec: Twin, kind: PacketType) -> None:
    with pytest.raises(PacketError, match=f"{kind.name} has no data argument"):
        codec.pack_header(Magic.REQUEST, kind, sample_args(kind)[:-1], 1)


def test_a_header_is_refused_for_what_its_packet_would_be(codec: Twin) -> None:
    kind, names = PacketType.SUBMIT_JOB, (b"reverse", b"key")
    refused = [
        ((b"reverse",), 1, 10, "takes 3 arguments"),
        ((b"re\0verse", b"key"), 1, 10, "function .* holds a NUL"),
        ((b"reverse", b"k" * 64), 1, 10, "unique has 64 bytes"),
        (names, 11, 10, "data has 11 bytes, over max_payload"),
        (names, -1, 10, "data cannot have -1 bytes"),
        (names, MAX_BODY_BYTES, 2**40, "a packet carries at most 4294967295 bytes"),
        (names, 2**70, 2**80, "a packet carries at most 4294967295 bytes"),
    ]
    for leading, data_bytes, max_payload, reason in refused:
        with pytest.raises(PacketError, match=reason):
            codec.pack_header(Magic.REQUEST, kind, leading, data_bytes, max_payload)


def test_a_header_may_announce_as_much_as_a_u32_holds(codec: Twin) -> None:
    leading_bytes = len(b"H:lap:1\0")
    packed = codec.pack_header(
        Magic.REQUEST, PacketType.WORK_COMPLETE, (b"H:lap:1",), MAX_BODY_BYTES - leading_bytes, 2**40
    )
    assert packed == head(b"\0REQ", 13, MAX_BODY_BYTES) + b"H:lap:1\0"
    with pytest.raises(PacketError, match="at most"):
        codec.pack_header(
            Magic.REQUEST, PacketType.WORK_COMPLETE, (b"H:lap:1",), MAX_BODY_BYTES - leading_bytes + 1, 2**40
        )
