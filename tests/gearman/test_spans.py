"""Spans over Gearman, which has no headers: there is one of each kind, and nothing joins them."""

from tests.engines.spans import traced
from tests.servers import Gearmand
from tests.unit.loops import in_loop


@in_loop
async def test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context(gearmand: Gearmand) -> None:
    submitter, worker = await traced(f"gearman://127.0.0.1:{gearmand.port}")
    (send,) = submitter.named("send double")
    runs = worker.named("process double")
    assert len(runs) == 2
    for run in runs:
        assert run.parent is None
        assert list(run.links) == []
        assert run.context is not None
        assert send.context is not None
        assert run.context.trace_id != send.context.trace_id
    assert send.attributes is not None
    assert dict(send.attributes) == {
        "messaging.system": "gearman",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "double",
        "messaging.message.id": send.attributes["messaging.message.id"],
        "server.address": "127.0.0.1",
        "server.port": gearmand.port,
    }
