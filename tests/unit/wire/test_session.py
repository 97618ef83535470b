"""The example session of gearmand's PROTOCOL document, "Worker Example" and "Client Example", byte for byte."""

import pytest

from que.gearman.packets import Magic, PacketType
from tests.unit.wire.twins import Twin

REQ, RES = Magic.REQUEST, Magic.RESPONSE
SESSION = [
    (REQ, PacketType.CAN_DO, (b"reverse",), "00524551 00000001 00000007 72657665727365"),
    (REQ, PacketType.GRAB_JOB, (), "00524551 00000009 00000000"),
    (RES, PacketType.NO_JOB, (), "00524553 0000000a 00000000"),
    (REQ, PacketType.PRE_SLEEP, (), "00524551 00000004 00000000"),
    (REQ, PacketType.SUBMIT_JOB, (b"reverse", b"", b"test"), "00524551 00000007 0000000d 7265766572736500 00 74657374"),
    (RES, PacketType.JOB_CREATED, (b"H:lap:1",), "00524553 00000008 00000007 483a6c61703a31"),
    (RES, PacketType.NOOP, (), "00524553 00000006 00000000"),
    (REQ, PacketType.GRAB_JOB, (), "00524551 00000009 00000000"),
    (
        RES,
        PacketType.JOB_ASSIGN,
        (b"H:lap:1", b"reverse", b"test"),
        "00524553 0000000b 00000014 483a6c61703a3100 7265766572736500 74657374",
    ),
    (REQ, PacketType.WORK_COMPLETE, (b"H:lap:1", b"tset"), "00524551 0000000d 0000000c 483a6c61703a3100 74736574"),
    (RES, PacketType.WORK_COMPLETE, (b"H:lap:1", b"tset"), "00524553 0000000d 0000000c 483a6c61703a3100 74736574"),
]


@pytest.mark.parametrize(
    ("magic", "kind", "args", "written"), SESSION, ids=[f"{n} {step[1].name}" for n, step in enumerate(SESSION, 1)]
)
def test_a_packet_of_the_example_is_written_so(
    codec: Twin, magic: bytes, kind: PacketType, args: tuple[bytes, ...], written: str
) -> None:
    assert codec.pack(magic, kind, args) == bytes.fromhex(written)


@pytest.mark.parametrize("magic", [REQ, RES], ids=["by the server", "by its peers"])
def test_the_example_is_read_as_it_was_meant(codec: Twin, magic: bytes) -> None:
    heard = [step for step in SESSION if step[0] == magic]
    stream = b"".join(bytes.fromhex(written) for *_, written in heard)
    assert codec.Parser(magic).feed(stream) == [(int(kind), args) for _, kind, args, _ in heard]
