"""The settings under which a database is read, the same on every side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from dagster_resil.postgres.connection import Connection

_SETTINGS = {
    # As pg_dump sets them: values print the same everywhere…
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
    # …text is read as it is written, and a comparison is one…
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # …planning a query evaluates no check constraint…
    "constraint_exclusion": "off",
    "lc_monetary": "C",
    "xmloption": "content",
    "TimeZone": "UTC",
    # …no function of the owner's is picked up by its place in the path…
    "search_path": "",
    # …row-level security is an error, never a filter…
    "row_security": "off",
    # …a scan begins at the first page…
    "synchronize_seqscans": "off",
    # …a standby refuses queries of the isolation level that some databases have by default…
    "default_transaction_isolation": "read committed",
    # …and no error ends a session.
    "exit_on_error": "off",
}
_TIME_OUTS = ("statement_timeout", "idle_in_transaction_session_timeout")

# As pg_dump sets it: what was put in the place of a table that is to be read is not read. Minor
# releases of August 2024 and later know it.
_NO_VIEWS = """CASE WHEN pg_catalog.current_setting('restrict_nonsystem_relation_kind', true)
 IS NOT NULL THEN pg_catalog.set_config('restrict_nonsystem_relation_kind', 'view, foreign-table',
 false) END"""

# What pg_dump's and psql's sessions leave to the database and the login.
FOR_DUMPS = {
    name: _SETTINGS[name]
    for name in (
        "bytea_output",
        "quote_all_identifiers",
        "standard_conforming_strings",
        "default_transaction_isolation",
    )
}
FOR_RESTORES = {name: _SETTINGS[name] for name in ("array_nulls", "transform_null_equals")}

# Only who may set it can begin a session with it.
_LOGIN_TRIGGERS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger
                WHERE evtevent = 'login' AND evtenabled <> 'D')
"""
_MAY_DISABLE_TRIGGERS = """
SELECT pg_catalog.has_parameter_privilege(session_user, 'event_triggers', 'SET')
"""


def differing(connection: Connection, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return which of the wanted settings a session does not begin with.

    Those have to be told to later ones at their start. Nothing must be set in this one so far.
    """
    names = list(wanted)
    row = connection.execute(
        sql.SQL("SELECT {}").format(
            sql.SQL(", ").join(
                sql.SQL("pg_catalog.current_setting({})").format(sql.Literal(name))
                for name in names
            )
        )
    ).fetchone()
    found = dict(zip(names, row or (), strict=True))
    return {name: value for name, value in wanted.items() if found[name] != value}


def without_login_triggers(connection: Connection, *, soon: bool = False) -> dict[str, str]:
    """Return the settings with which later sessions do not run the database's login triggers.

    There are none before version 17, nor for a login that may not set it.

    :param soon: whether the database is about to get one.
    """
    if connection.info.server_version < 170000:
        return {}
    if not soon and connection.execute(_LOGIN_TRIGGERS).fetchone() != (True,):
        return {}
    may = connection.execute(_MAY_DISABLE_TRIGGERS).fetchone() == (True,)
    return {"event_triggers": "off"} if may else {}


def prepare_session(
    connection: Connection, *, lock_timeout_s: float = 60, gentle: bool = False
) -> None:
    """Prepare a session for reading; needs to come before its first transaction's reads.

    :param gentle: on a source, nothing is written, there are no parallel workers (one connection
        costs one core), and no compiler, which takes longer than it saves on one pass over a table.
    """
    connection.execute(
        session_statement(
            connection.info.server_version, lock_timeout_s=lock_timeout_s, gentle=gentle
        )
    )


def session_statement(
    server_version: int, *, lock_timeout_s: float = 60, gentle: bool = False
) -> sql.Composed:
    """Return the statement that :func:`prepare_session` runs.

    :param server_version: 150018 for 15.18.
    """
    settings = dict(_SETTINGS, lock_timeout=f"{int(lock_timeout_s * 1000)}ms")
    settings |= dict.fromkeys(_time_outs(server_version), "0")
    if gentle:
        settings["max_parallel_workers_per_gather"] = "0"
        settings["jit"] = "off"
        settings["default_transaction_read_only"] = "on"
    calls = _calls(settings, for_transaction=False)
    if gentle:
        calls.append(sql.SQL(_NO_VIEWS).format())
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))


def without_time_outs(server_version: int) -> sql.Composed:
    """Return the statement that lifts every time-out until the transaction ends."""
    calls = _calls(dict.fromkeys(_time_outs(server_version), "0"), for_transaction=True)
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))


def _time_outs(server_version: int) -> list[str]:
    later = {"idle_session_timeout": 140000, "transaction_timeout": 170000}
    return [*_TIME_OUTS, *(name for name, since in later.items() if server_version >= since)]


def _calls(settings: Mapping[str, str], *, for_transaction: bool) -> list[sql.Composed]:
    return [
        sql.SQL("pg_catalog.set_config({}, {}, {})").format(
            sql.Literal(key), sql.Literal(value), sql.Literal(for_transaction)
        )
        for key, value in settings.items()
    ]
