"""The PostgreSQL driver: durable queues in a database that is there already. `postgresql://user@host/database`."""

from que.errors import ConfigurationError

try:
    import psycopg as _psycopg
except ModuleNotFoundError as _error:
    raise ConfigurationError("PostgreSQL needs psycopg: pip install 'que-jobs[postgres]'") from _error

if tuple(map(int, _psycopg.__version__.split(".")[:2])) < (3, 2):
    raise ConfigurationError(f"psycopg {_psycopg.__version__} is too old: pip install 'que-jobs[postgres]'")

from que.drivers.postgres.driver import PostgresDriver

__all__ = ["PostgresDriver"]
