"""What the tests against a real gearmand share."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Protocol

import pytest

from tests.gearman.raw import Raw, worker
from tests.servers import Gearmand

_numbers = count(1)


class Connect(Protocol):
    """Opens raw connections to the shared server, as a worker where functions are named; closed with the test."""

    def __call__(self, *functions: bytes) -> Raw: ...


@pytest.fixture
def function() -> bytes:
    """A function name that no other test of this run uses, on the shared server."""
    return b"function-%d" % next(_numbers)


@pytest.fixture
def connect(gearmand: Gearmand) -> Iterator[Connect]:
    """Open raw connections to the shared server that are closed again at the end of the test."""
    with ExitStack() as stack:
        yield lambda *functions: stack.enter_context(worker(gearmand.port, *functions))
