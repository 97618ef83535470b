"""The SQLite driver: durable queues in one file, shared by the processes of one machine. `sqlite:///jobs.db`."""

from que.drivers.sqlite.driver import SqliteDriver

__all__ = ["SqliteDriver"]
