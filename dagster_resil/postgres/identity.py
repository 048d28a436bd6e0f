"""Which server and database a connection has reached."""

from __future__ import annotations

from contextlib import suppress

import psycopg

from dagster_resil.postgres.connection import Connection
from dagster_resil.records.manifest import Collation, Source
from dagster_resil.records.text import shown


def read_identity(connection: Connection) -> Source:
    """Return what a manifest says of its source.

    The caller's transaction is not harmed where the login may not see the system identifier.
    """
    info = connection.info
    version = info.server_version
    if version >= 170000:
        locale = "datlocprovider, datlocale, datcollversion"
    elif version >= 150000:
        locale = "datlocprovider, daticulocale, datcollversion"
    else:
        locale = "'c', NULL, NULL"
    row = connection.execute(
        "SELECT datname, pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, "
        f"{locale}, pg_catalog.current_setting('server_version'), "
        "(SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10) "
        "FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    if row is None:  # pragma: no cover - the database that we are in is there
        raise AssertionError("no database")
    name, encoding, collate, ctype, provider, locale_name, collation_version, server, role = row
    return Source(
        host=info.host,
        port=info.port,
        database=_as_addressed(name, connection),
        server_version=server.split()[0],
        system_identifier=_system_identifier(connection),
        encoding=encoding,
        client_encoding="LATIN1" if _reads_bytes(connection) else "UTF8",
        collation=Collation(
            provider={"c": "libc", "i": "icu", "b": "builtin"}.get(provider, str(provider)),
            collate=collate,
            ctype=ctype,
            locale=locale_name,
            version=collation_version,
        ),
        bootstrap_role=_as_addressed(role, connection),
    )


def _reads_bytes(connection: Connection) -> bool:
    return connection.info.parameter_status("client_encoding") == "LATIN1"


def _as_addressed(name: str, connection: Connection) -> str:
    """Return a name as an address has it, which libpq sends in UTF-8, whatever is behind it."""
    if _reads_bytes(connection):
        with suppress(UnicodeDecodeError):
            return name.encode("latin-1").decode()
    return shown(name)


def _system_identifier(connection: Connection) -> str | None:
    try:
        with connection.transaction():  # a savepoint inside a transaction
            row = connection.execute(
                "SELECT system_identifier FROM pg_catalog.pg_control_system()"
            ).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return str(row[0]) if row else None


def database_bytes(connection: Connection) -> int:
    """Return the size of the connected database on the server's disk."""
    row = connection.execute(
        "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
    ).fetchone()
    return int(row[0]) if row else 0
