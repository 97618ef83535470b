"""Checkers know the names that `import que` imports late like the others, and that no more are there."""

from typing import assert_type

import que
from que import BlockingQue, Watchdog, log_runs

blocking = que.Que("memory://").blocking()
assert_type(blocking, que.BlockingQue)
assert_type(blocking, BlockingQue)
middleware: que.Middleware[None] = log_runs
middleware = que.log_runs
watchdog = Watchdog(0.5)
assert_type(watchdog, que.Watchdog)

que.Wroker()  # E: mypy[attr-defined] pyright[reportAttributeAccessIssue,reportUnknownMemberType]
