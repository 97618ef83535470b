"""The table of packets is Gearman's: written out here a second time, from the protocol and not from the code."""

import pytest

from que.gearman.packets import LAYOUTS, Magic, PacketType
from tests.unit.wire.twins import Twin, head, sample_args

# Number, name, arguments; the starred one is data and may hold NULs.
PROTOCOL = """
1 CAN_DO function
2 CANT_DO function
3 RESET_ABILITIES
4 PRE_SLEEP
6 NOOP
7 SUBMIT_JOB function unique data*
8 JOB_CREATED handle
9 GRAB_JOB
10 NO_JOB
11 JOB_ASSIGN handle function data*
12 WORK_STATUS handle numerator denominator
13 WORK_COMPLETE handle data*
14 WORK_FAIL handle
15 GET_STATUS handle
16 ECHO_REQ data*
17 ECHO_RES data*
18 SUBMIT_JOB_BG function unique data*
19 ERROR code text*
20 STATUS_RES handle known running numerator denominator
21 SUBMIT_JOB_HIGH function unique data*
22 SET_CLIENT_ID client_id
23 CAN_DO_TIMEOUT function milliseconds
24 ALL_YOURS
25 WORK_EXCEPTION handle data*
26 OPTION_REQ option
27 OPTION_RES option
28 WORK_DATA handle data*
29 WORK_WARNING handle data*
30 GRAB_JOB_UNIQ
31 JOB_ASSIGN_UNIQ handle function unique data*
32 SUBMIT_JOB_HIGH_BG function unique data*
33 SUBMIT_JOB_LOW function unique data*
34 SUBMIT_JOB_LOW_BG function unique data*
35 SUBMIT_JOB_SCHED function unique minute hour day_of_month month day_of_week data*
36 SUBMIT_JOB_EPOCH function unique epoch data*
37 SUBMIT_REDUCE_JOB function unique reducer aggregator data*
38 SUBMIT_REDUCE_JOB_BACKGROUND function unique reducer aggregator data*
39 GRAB_JOB_ALL
40 JOB_ASSIGN_ALL handle function unique reducer data*
41 GET_STATUS_UNIQUE unique
42 STATUS_RES_UNIQUE unique known running numerator denominator waiting
"""
ROWS = [line.split() for line in PROTOCOL.strip().splitlines()]


def test_there_are_the_41_types_of_the_protocol_and_no_other() -> None:
    assert [(str(int(kind)), kind.name) for kind in PacketType] == [(row[0], row[1]) for row in ROWS]
    assert list(LAYOUTS) == list(PacketType)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_type_has_the_arguments_of_the_protocol(row: list[str]) -> None:
    layout = LAYOUTS[PacketType[row[1]]]
    assert [argument.name + "*" * argument.data for argument in layout] == row[2:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_type_is_packed_as_the_protocol_lays_it_out(codec: Twin, row: list[str]) -> None:
    body = b"\0".join(b"\0da\0ta\0" if name.endswith("*") else name.encode() for name in row[2:])
    expected = head(b"\0REQ", int(row[0]), len(body)) + body
    kind = PacketType[row[1]]
    assert codec.pack(Magic.REQUEST, kind, sample_args(kind)) == expected
    assert codec.Parser(Magic.REQUEST).feed(expected) == [(int(kind), sample_args(kind))]
