"""What is seen of jobs in a file, which has no headers."""

from tests.engines.observed import (
    test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context,
    test_what_happens_to_jobs_is_counted_where_it_happens,
)

__all__ = [
    "test_a_run_begins_a_trace_of_its_own_where_the_engine_carries_no_context",
    "test_what_happens_to_jobs_is_counted_where_it_happens",
]
