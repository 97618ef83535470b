"""Spans over NATS."""

from tests.engines.spans import test_the_context_is_carried_to_every_run

__all__ = ["test_the_context_is_carried_to_every_run"]
