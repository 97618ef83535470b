"""What is seen of jobs on NATS, which carries headers."""

from tests.engines.observed import (
    test_the_context_is_carried_to_every_run,
    test_what_happens_to_jobs_is_counted_where_it_happens,
)

__all__ = ["test_the_context_is_carried_to_every_run", "test_what_happens_to_jobs_is_counted_where_it_happens"]
