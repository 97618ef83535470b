"""The schema in the database, and how an older one becomes a newer one."""

from importlib.resources import files
from typing import cast

from psycopg import AsyncConnection

# One file of tables for each version; a schema of version n has been through the first n of them.
VERSIONS = ("tables-1.sql", "tables-2.sql", "tables-3.sql")
_FUNCTIONS = ("telling.sql", "submitting.sql", "working.sql", "looking.sql", "keeping.sql")
# Plans are made when the tables are empty and kept when they are not: these leave only those that hold for both.
_PLANS = " ".join(
    f"SET {name} = off"
    for name in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
)


class WrongSchema(Exception):
    """The database has another version of que's tables than this que can use."""


async def version_of(connection: AsyncConnection[tuple[object, ...]], schema: str) -> int:
    """Return the version of que's tables in `schema`; 0 where there are none. Raises WrongSchema for a newer one."""
    # Not to_regclass(), which may have remembered from before the migration's lock that there is none.
    cursor = await connection.execute(
        "SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = %s AND relname = %s",
        (schema, "version"),
    )
    if await cursor.fetchone() is None:
        return 0
    cursor = await connection.execute(_sql('SELECT max(number) FROM "{schema}".version', schema))
    ((version,),) = cast(list[tuple[int | None]], await cursor.fetchall())
    if (version or 0) > len(VERSIONS):
        raise WrongSchema(f"it has version {version} of que's tables, and this que knows {len(VERSIONS)}: update que")
    return version or 0


async def migrate(connection: AsyncConnection[tuple[object, ...]], schema: str) -> tuple[int, int]:
    """Bring `schema` up to date, in one transaction, whoever else tries the same; return the versions before and after.

    Raises WrongSchema, and psycopg.Error, after which all is as it was.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"que:{schema}",))
        before = await version_of(connection, schema)
        if before == 0:
            # Not IF NOT EXISTS alone: whoever may use a schema that is there need not be allowed to make one.
            cursor = await connection.execute("SELECT to_regnamespace(%s)", (f'"{schema}"',))
            if await cursor.fetchone() == (None,):
                await connection.execute(_sql('CREATE SCHEMA "{schema}"', schema))
            await connection.execute(
                _sql('CREATE TABLE IF NOT EXISTS "{schema}".version (number integer PRIMARY KEY)', schema)
            )
        for number, name in enumerate(VERSIONS[before:], before + 1):
            await connection.execute(_script(name, schema))
            await connection.execute(_sql('INSERT INTO "{schema}".version VALUES (%s)', schema), (number,))
        for name in _FUNCTIONS:
            await connection.execute(_script(name, schema))
    return before, len(VERSIONS)


def _script(name: str, schema: str) -> bytes:
    return _sql(files("que.drivers.postgres").joinpath(name).read_text(), schema)


def _sql(text: str, schema: str) -> bytes:
    # Text of ours and a name that PostgresOptions let through; psycopg asks for a literal, or for bytes.
    return text.replace("{schema}", schema).replace("{plans}", _PLANS).encode()
