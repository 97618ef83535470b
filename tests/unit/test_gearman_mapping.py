"""How jobs, keys, receipts and failures are written in Gearman's words."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.drivers.gearman.mapping import (
    Receipt,
    decode_failure,
    encode_failure,
    failure_in,
    function_name,
    request,
    wire_unique,
)
from que.errors import InvalidName
from que.gearman.packets import PacketType
from que.model import Envelope, Failed, Priority

P = PacketType
words = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("background", "priority", "kind"),
    [
        (False, Priority.LOW, P.SUBMIT_JOB_LOW),
        (False, Priority.NORMAL, P.SUBMIT_JOB),
        (False, Priority.HIGH, P.SUBMIT_JOB_HIGH),
        (True, Priority.LOW, P.SUBMIT_JOB_LOW_BG),
        (True, Priority.NORMAL, P.SUBMIT_JOB_BG),
        (True, Priority.HIGH, P.SUBMIT_JOB_HIGH_BG),
    ],
)
def test_each_priority_has_its_packet(background: bool, priority: Priority, kind: PacketType) -> None:
    assert request(Envelope("id", "f", b"x", background, priority), b"f") == (kind, (b"f", b"id"))


@pytest.mark.parametrize(("due", "second"), [(4e9, b"4000000000"), (4e9 + 0.001, b"4000000001")], ids=["whole", "part"])
def test_a_delay_is_rounded_up_to_whole_seconds(due: float, second: bytes) -> None:
    kind, leading = request(Envelope("id", "f", b"x", background=True, due=due), b"f")
    assert (kind, leading) == (P.SUBMIT_JOB_EPOCH, (b"f", b"id", second))


@pytest.mark.parametrize(
    ("key", "background", "unique"),
    [
        ("order-7", False, "f:order-7"),
        ("order-7", True, "b:order-7"),
        ("", False, "f:"),
        ("-", True, "b:-"),
        ("with blank", False, "f:with blank"),
        ("k" * 61, False, "f:" + "k" * 61),
        ("k" * 62, False, "f:" + blake2b(b"k" * 62, digest_size=30).hexdigest()),
        ("a\0b", True, "b:" + blake2b(b"a\0b", digest_size=30).hexdigest()),
        ("a\nb", True, "b:" + blake2b(b"a\nb", digest_size=30).hexdigest()),
    ],
    ids=["submit", "send", "empty", "dash", "blank", "just fits", "too long", "NUL", "line end"],
)
def test_a_foreign_client_can_make_the_same_unique(key: str, background: bool, unique: str) -> None:
    assert wire_unique(Envelope("id", "f", b"x", background, unique=key)) == unique


@given(words, words, st.booleans())
def test_equal_keys_meet_and_others_do_not(one: str, other: str, background: bool) -> None:
    first, second = (wire_unique(Envelope("id", "f", b"x", background, unique=key)) for key in (one, other))
    assert (first == second) == (one == other)
    assert len(first.encode()) <= 63
    assert first.isprintable() or not first.isascii()
    assert first != wire_unique(Envelope("id", "f", b"x", not background, unique=one))


@given(words)
def test_every_id_can_stand_on_the_wire(id: str) -> None:
    unique = wire_unique(Envelope(id, "f", b"x"))
    assert 0 < len(unique.encode()) <= 63
    assert "\0" not in unique
    assert unique != "-"


def test_an_ordinary_id_stands_as_it_is() -> None:
    assert wire_unique(Envelope("0123456789abcdef-1f", "f", b"x")) == "0123456789abcdef-1f"


@given(st.from_regex("[a-z0-9.:]+", fullmatch=True), st.from_regex("H:[a-z.-]+:[0-9]+", fullmatch=True), words)
def test_a_receipt_reads_as_it_was_written(server: str, handle: str, unique: str) -> None:
    receipt = Receipt(server, handle, f"f:{unique}/{unique}")
    assert Receipt.parse(str(receipt)) == receipt


@pytest.mark.parametrize("text", ["", "H:1", "a/b", "//x", "a//x", "/b/x", "a/b/"])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Receipt.parse(text)


@pytest.mark.parametrize("name", ["f", "é" * 256, "a.b:c/d"], ids=["short", "512 bytes", "signs"])
def test_a_function_name_is_its_utf_8(name: str) -> None:
    assert function_name(name) == name.encode()


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\0", "\x7f", "é" * 257, "\ud800", "a\u2028b"], ids=ascii)
def test_a_function_name_that_gearman_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        function_name(name)


@given(words, words, words)
def test_a_failure_reads_as_it_was_written(kind: str, type_name: str, message: str) -> None:
    failure = Failed(kind, type_name, message)
    assert decode_failure(encode_failure(failure)) == failure
    assert failure_in(encode_failure(failure)) == failure


@pytest.mark.parametrize(
    "warning",
    [b"", b"boom", b"{", b'{"kind":"handler"}', b'{"kind":1,"type":"","message":""}', b'["handler","",""]', b"{\xff}"],
    ids=repr,
)
def test_any_other_warning_is_no_reason(warning: bytes) -> None:
    assert failure_in(warning) is None


@given(st.binary())
def test_whatever_a_foreign_worker_says_is_a_failure(data: bytes) -> None:
    assert isinstance(decode_failure(data), Failed)
