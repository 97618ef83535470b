"""Declaring flows: what becomes which step, and what is refused at the declaration or at the call."""

import pytest

import que
from que.flow import Flow, Plan, parse_step_id, step_id

app = que.Que("memory://", other="memory://")
words = app.add(que.Job("words", str, list[str]))
count = app.add(que.Job("count", list[str], int))
longest = app.add(que.Job("longest", list[str], int, priority=que.Priority.HIGH))
total = app.add(que.Job("total", list[int], int))
shout = app.add(que.Job("shout", int, str))
alarm = app.add(que.Job("alarm", que.FlowFailure, None))
elsewhere = app.add(que.Job("elsewhere", int, str, driver="other"))
packed = app.add(que.Job("packed", int, str, serializer=que.MSGPACK))
raw = app.add(que.Job("raw", bytes, bytes, serializer=que.RAW))
raw_too = app.add(que.Job("rawToo", bytes, bytes, serializer=que.RAW))


def plan_of(flow: "Flow[str, object]") -> Plan:
    return flow.plan("a b", 60.0)[1]


def shape(flow: "Flow[str, object]") -> list[tuple[str, tuple[int, ...], bool]]:
    return [(step.function, step.inputs, step.gathers) for step in plan_of(flow).steps]


def test_a_job_that_follows_waits_for_the_one_before() -> None:
    assert shape(words.then(count).then(shout)) == [
        ("words", (), False),
        ("count", (0,), False),
        ("shout", (1,), False),
    ]


def test_a_flow_that_follows_is_the_same_as_its_jobs() -> None:
    assert shape(words.then(count.then(shout))) == shape(words.then(count).then(shout))


def test_what_is_gathered_waits_for_the_same_and_what_follows_waits_for_all() -> None:
    assert shape(words.then(que.together(count, longest, count).then(total)).then(shout)) == [
        ("words", (), False),
        ("count", (0,), False),
        ("longest", (0,), False),
        ("count", (0,), False),
        ("total", (1, 2, 3), True),
        ("shout", (4,), False),
    ]


def test_whole_flows_are_gathered_too() -> None:
    assert shape(que.together(words.then(count), words.then(longest)).then(total)) == [
        ("words", (), False),
        ("count", (0,), False),
        ("words", (), False),
        ("longest", (2,), False),
        ("total", (1, 3), True),
    ]


def test_a_flow_is_a_value_and_can_be_used_twice() -> None:
    start = words.then(count)
    first, second = start.then(shout), start.then(shout).on_failure(alarm)
    assert (len(plan_of(start).steps), len(plan_of(first).steps)) == (2, 3)
    assert (plan_of(first).on_failure, plan_of(second).on_failure is None) == (None, False)


def test_only_the_first_steps_get_the_params_and_given_params_come_first() -> None:
    flow = que.together(count.given(["x"]), longest.given(["yy"])).then(total)
    steps = flow.plan(None, 60.0)[1].steps
    assert [step.payload for step in steps] == [b'["x"]', b'["yy"]', None]
    assert [step.payload for step in plan_of(words.then(count)).steps] == [b'"a b"', None]


def test_a_step_has_the_priority_of_its_job() -> None:
    assert [step.priority for step in plan_of(words.then(longest)).steps] == [que.Priority.NORMAL, que.Priority.HIGH]


def test_an_empty_result_of_a_foreign_worker_is_null_in_a_list() -> None:
    plan = plan_of(que.together(words.then(count), words.then(longest)).then(total))
    assert plan.params(4, [b"1", b""]) == b"[1,null]"


def test_a_plan_can_be_kept() -> None:
    plan = plan_of(words.then(count).on_failure(alarm))
    assert Plan.load(plan.dump()) == plan


def test_a_step_is_found_again_by_its_id() -> None:
    assert parse_step_id(step_id("flow-0123456789abcdef", 12)) == ("flow-0123456789abcdef", 12)
    assert parse_step_id("flow-0123456789abcdef") is None
    assert parse_step_id("flow-of-mine.1") is None


def test_params_that_do_not_fit_are_refused_at_the_call() -> None:
    with pytest.raises(que.ParamsInvalid, match="job 'words': params: expected str"):
        words.then(count).plan(3, 60.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the wrong type is the point
    with pytest.raises(que.ParamsInvalid, match="job 'shout'"):
        shout.given("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the wrong type is the point


def test_jobs_of_two_serializers_are_refused_at_the_declaration() -> None:
    with pytest.raises(que.ConfigurationError, match=r"'count' \(JSON\) and 'packed' \(MSGPACK\)"):
        count.then(packed)


def test_raw_jobs_can_follow_one_another_and_not_be_gathered() -> None:
    assert [step.function for step in raw.then(raw_too).plan(b"", 60.0)[1].steps] == ["raw", "rawToo"]
    with pytest.raises(que.ConfigurationError, match="JSON or MSGPACK"):
        que.together(raw, raw_too)
    with pytest.raises(que.ConfigurationError, match="JSON or MSGPACK"):
        raw.then(raw_too).on_failure(alarm)


def test_nothing_cannot_be_gathered() -> None:
    with pytest.raises(que.ConfigurationError, match="no flows"):
        que.together(*list[que.Flow[str, int]]())


def test_a_job_that_expires_is_refused() -> None:
    with pytest.raises(que.ConfigurationError, match="'brief' expires"):
        words.then(que.Job("brief", list[str], int, expires=5))


def test_a_flow_has_one_on_failure_and_it_comes_last() -> None:
    flow = words.then(count).on_failure(alarm)
    with pytest.raises(que.ConfigurationError, match="has an on_failure already"):
        flow.on_failure(alarm)
    with pytest.raises(que.ConfigurationError, match="has an on_failure: a flow has one"):
        words.then(count.as_flow().on_failure(alarm))
    with pytest.raises(que.ConfigurationError, match="has an on_failure: a flow has one"):
        que.together(flow, words.then(count))


def test_jobs_of_two_backends_are_refused_at_the_call() -> None:
    with pytest.raises(que.ConfigurationError, match="'elsewhere' and 'count' are of different backends"):
        count.then(elsewhere).submit(["x"])


def test_an_unbound_job_is_refused_at_the_call() -> None:
    with pytest.raises(que.NotBound, match="'loose'"):
        count.then(que.Job("loose", int, int)).submit(["x"])


def test_a_flow_cannot_be_submitted_before_the_app_is_connected() -> None:
    with pytest.raises(que.NotConnected):
        words.then(count).submit("x")


@pytest.mark.parametrize("ttl", [-1.0, float("nan")])
def test_a_time_that_cannot_be_meant_is_refused(ttl: float) -> None:
    with pytest.raises(que.ConfigurationError, match="result_ttl"):
        words.then(count).submit("x", result_ttl=ttl)


def test_a_flow_shows_its_jobs() -> None:
    assert repr(words.then(count)) == "<Flow words, count>"
