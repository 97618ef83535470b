"""Headers: what may be given, who refuses it, and that no value is ever told."""

import logging

import pytest

import que
from que.headers import checked, fits
from tests.unit.fakes import FakeDriver, url_of
from tests.unit.loops import in_loop

SECRET = "hunter2"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, id="traceparent"),
        pytest.param({"a": ""}, id="empty value"),
        pytest.param({"x-tenant_1.b~": 'a=%C3; "q", b'}, id="punctuation"),
    ],
)
def test_what_every_engine_can_carry_is_kept_as_it_is(headers: dict[str, str]) -> None:
    assert checked(headers) == headers
    assert all(fits(name, value) for name, value in headers.items())


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        pytest.param([("a", SECRET)], "expected a mapping", id="no mapping"),
        pytest.param({"Tenant": SECRET}, "'Tenant'", id="upper case"),
        pytest.param({"": SECRET}, "''", id="no name"),
        pytest.param({"a b": SECRET}, "'a b'", id="blank in a name"),
        pytest.param({"a\r\nb": SECRET}, "'a", id="line break in a name"),
        pytest.param({"a:": SECRET}, "'a:'", id="colon in a name"),
        pytest.param({"a" * 65: SECRET}, "1 to 64", id="long name"),
        pytest.param({1: SECRET}, "the name 1", id="name of another type"),
        pytest.param({"que-id": SECRET}, "begins like", id="ours"),
        pytest.param({"nats-msg-id": SECRET}, "begins like", id="of NATS"),
        pytest.param({"x-death": SECRET}, "begins like", id="of RabbitMQ"),
        pytest.param({"a": f"{SECRET}\r\nNats-Msg-Id: 1"}, "the value of 'a'", id="line break in a value"),
        pytest.param({"a": f"{SECRET}\n"}, "the value of 'a'", id="line break at the end"),
        pytest.param({"a": f"{SECRET}\0"}, "the value of 'a'", id="NUL"),
        pytest.param({"a": f" {SECRET}"}, "the value of 'a'", id="blank before"),
        pytest.param({"a": f"{SECRET} "}, "the value of 'a'", id="blank behind"),
        pytest.param({"a": f"{SECRET}é"}, "the value of 'a'", id="beyond ASCII"),
        pytest.param({"a": SECRET.encode()}, "the value of 'a'", id="bytes"),
        pytest.param({"a": SECRET * 1000}, "more than 4096", id="too much"),
    ],
)
def test_what_some_engine_could_not_carry_is_refused_and_no_value_is_told(headers: object, complaint: str) -> None:
    with pytest.raises(que.ConfigurationError) as caught:
        checked(headers)
    assert complaint in str(caught.value)
    assert SECRET not in str(caught.value)


@in_loop
async def test_headers_are_refused_where_the_engine_has_none() -> None:
    async with que.Que(url_of(FakeDriver())) as app:
        job = app.add(que.Job("work", int, int))
        with pytest.raises(que.UnsupportedFeature, match="headers"):
            job.submit(1, headers={"a": "1"})
        await job.send(1, headers={})


@in_loop
async def test_headers_reach_the_handler_whatever_the_caller_does_with_them_afterwards() -> None:
    app = que.Que("memory://")
    seen: list[object] = []

    @app.job("work")
    async def work(params: int, context: que.Context) -> None:
        seen.append(context.headers)

    given = {"tenant": "7"}
    async with app, app.worker():
        handle = work.submit(1, headers=given)
        given["tenant"] = "8"
        await handle
    assert seen == [{"tenant": "7"}]


def test_the_headers_of_a_context_made_by_hand_are_empty() -> None:
    assert que.Context("work", state=None).headers == {}


@in_loop
async def test_no_value_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = que.Que("memory://", middleware=[que.log_runs])
    caplog.set_level(logging.DEBUG)

    @app.job("work", retry=que.Retry(attempts=2, base=0.0))
    async def work(params: int) -> None:
        raise ValueError

    async with app, app.worker():
        with pytest.raises(que.JobFailed):
            await work.submit(1, headers={"token": SECRET})
    assert len(caplog.records) > 2
    assert SECRET not in caplog.text + repr([vars(record) for record in caplog.records])
