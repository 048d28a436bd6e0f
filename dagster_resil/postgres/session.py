"""The settings under which a database is read, the same on every side of a comparison."""

from __future__ import annotations

from psycopg import sql

from dagster_resil.postgres.connection import Connection

_SETTINGS = {
    # As pg_dump sets them: values print the same everywhere…
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "TimeZone": "UTC",
    # …no function of the owner's is picked up by its place in the path…
    "search_path": "",
    # …row-level security is an error, never a filter…
    "row_security": "off",
    # …a scan begins at the first page…
    "synchronize_seqscans": "off",
    # …and no time-out of the role or database ends a long read.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


def settle(connection: Connection, *, lock_timeout_s: float = 60, gentle: bool = False) -> None:
    """Prepare a session for reading; needs to come before its first transaction's reads.

    :param gentle: on a source, no parallel workers (one connection costs one core), and no
        compiler, which takes longer than it saves on one pass over a table.
    """
    connection.execute(
        settling(connection.info.server_version, lock_timeout_s=lock_timeout_s, gentle=gentle)
    )


def settling(
    server_version: int, *, lock_timeout_s: float = 60, gentle: bool = False
) -> sql.Composed:
    """Return the statement that :func:`settle` runs.

    :param server_version: 150018 for 15.18.
    """
    settings = dict(_SETTINGS, lock_timeout=f"{int(lock_timeout_s * 1000)}ms")
    if gentle:
        settings["max_parallel_workers_per_gather"] = "0"
        settings["jit"] = "off"
    if server_version >= 140000:
        settings["idle_session_timeout"] = "0"
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    return sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("pg_catalog.set_config({}, {}, false)").format(
                sql.Literal(key), sql.Literal(value)
            )
            for key, value in settings.items()
        )
    )
