"""The tables, and how an older file becomes a newer one. All names begin with que_: the file may be the user's own."""

import sqlite3

# One script for each version; a file of version n has been through the first n of them. Never change one: add another.
# States: 0 ready, 1 delayed, 2 running. Partial indexes hold only what may be asked for, so that taking jobs costs the
# same whatever waits.
_VERSIONS = (
    """
    CREATE TABLE que_jobs (
        id INTEGER PRIMARY KEY,
        state INTEGER NOT NULL,
        function TEXT NOT NULL,
        priority INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due REAL,
        expires REAL,
        token INTEGER,
        worker TEXT,
        lease_until REAL,
        job_id TEXT NOT NULL,
        submitter TEXT,
        unique_key TEXT,
        run_timeout REAL,
        result_ttl REAL,
        done INTEGER NOT NULL DEFAULT 0,
        total INTEGER NOT NULL DEFAULT 0,
        payload BLOB NOT NULL
    );
    CREATE INDEX que_ready ON que_jobs (function, priority DESC, id) WHERE state = 0;
    CREATE INDEX que_delayed ON que_jobs (due) WHERE state = 1;
    CREATE INDEX que_leased ON que_jobs (lease_until) WHERE state = 2;
    CREATE INDEX que_expiring ON que_jobs (expires) WHERE expires IS NOT NULL AND state < 2 AND attempts = 0;
    CREATE UNIQUE INDEX que_unique ON que_jobs (function, unique_key) WHERE unique_key IS NOT NULL;

    CREATE TABLE que_watchers (
        job INTEGER NOT NULL, watch_id TEXT NOT NULL, peer TEXT NOT NULL, PRIMARY KEY (job, watch_id)
    ) WITHOUT ROWID;

    CREATE TABLE que_mail (
        id INTEGER PRIMARY KEY, peer TEXT NOT NULL, watch_id TEXT NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL
    );
    CREATE INDEX que_mail_peer ON que_mail (peer);

    CREATE TABLE que_results (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, expires REAL NOT NULL);
    CREATE INDEX que_results_expire ON que_results (expires);

    CREATE TABLE que_dead_letters (
        id INTEGER PRIMARY KEY,
        function TEXT NOT NULL,
        priority INTEGER NOT NULL,
        job_id TEXT NOT NULL,
        unique_key TEXT,
        run_timeout REAL,
        result_ttl REAL,
        attempts INTEGER NOT NULL,
        failure BLOB NOT NULL,
        buried_at REAL NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE INDEX que_dead_letters_function ON que_dead_letters (function, id);
    CREATE INDEX que_dead_letters_age ON que_dead_letters (buried_at);

    CREATE TABLE que_peers (name TEXT PRIMARY KEY, pid INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE que_consumers (
        function TEXT NOT NULL, peer TEXT NOT NULL, consumer INTEGER NOT NULL, PRIMARY KEY (function, peer, consumer)
    ) WITHOUT ROWID;

    CREATE TABLE que_counter (last INTEGER NOT NULL);
    INSERT INTO que_counter VALUES (0);
    """,
    """
    CREATE TABLE que_ticks (schedule TEXT PRIMARY KEY, done REAL, owner TEXT, held_until REAL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE que_kept (key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body BLOB NOT NULL, expires REAL NOT NULL);
    CREATE INDEX que_kept_expire ON que_kept (expires);

    CREATE TABLE que_attending (
        key TEXT NOT NULL, watch_id TEXT NOT NULL, peer TEXT NOT NULL, PRIMARY KEY (key, watch_id)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE que_begun (
        function TEXT NOT NULL,
        until REAL NOT NULL,
        earlier INTEGER NOT NULL,
        so_far INTEGER NOT NULL,
        PRIMARY KEY (function, until, so_far)
    ) WITHOUT ROWID;
    """,
)
VERSION = len(_VERSIONS)


class NewerSchema(Exception):
    """The file was made by a que that knows more than this one."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to VERSION, in one transaction, whoever else tries the same; raises NewerSchema."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS que_schema (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM que_schema").fetchone()
        version: int = 0 if row is None else row[0]
        if version > VERSION:
            raise NewerSchema(f"it has version {version} of que's tables, and this que knows {VERSION}: update que")
        for script in _VERSIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        if version < VERSION:
            connection.execute("DELETE FROM que_schema")
            connection.execute("INSERT INTO que_schema VALUES (?)", (VERSION,))
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
