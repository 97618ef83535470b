"""What is seen of jobs on Gearman, which has no headers."""

import pytest

from tests.engines.observed import (
    test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context,
    test_what_happens_to_jobs_is_counted_where_it_happens,
    traced,
)
from tests.servers import Gearmand
from tests.unit.loops import in_loop

__all__ = [
    "test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context",
    "test_what_happens_to_jobs_is_counted_where_it_happens",
]


@pytest.fixture
def url(gearmand: Gearmand) -> str:
    return f"gearman://127.0.0.1:{gearmand.port}"


@in_loop
async def test_a_span_tells_which_server_it_was(url: str, gearmand: Gearmand) -> None:
    submitter, _ = await traced(url)
    (send,) = submitter.named("send double")
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
