"""Whether the login may read all that belongs in a backup, asked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from dagster_resil.errors import BackupFailed, PermissionMissing
from dagster_resil.postgres.catalogues import money_settings
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.session import (
    FOR_DUMPS,
    differing,
    without_login_triggers,
    without_time_outs,
)
from dagster_resil.postgres.table_of_contents import codec
from dagster_resil.postgres.tables import Relation, list_tables
from dagster_resil.records.text import is_readable

_SHOWN = 10

_SEQUENCES = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
   AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
            AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)
 ORDER BY 1, 2
"""

# A large object without SELECT for us; a superuser may read them all.
_LARGE_OBJECTS = """
SELECT m.oid
  FROM pg_catalog.pg_largeobject_metadata m
 WHERE NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
   AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
   AND NOT EXISTS (
       SELECT FROM pg_catalog.aclexplode(m.lomacl) a
        WHERE a.privilege_type = 'SELECT'
          AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
 ORDER BY m.oid LIMIT 11
"""


# Whom objects of the database belong to, whom they are granted to, and whom policies name.
_NEEDED_ROLES = """
SELECT DISTINCT r.oid, r.rolname FROM pg_catalog.pg_roles r
 WHERE EXISTS (SELECT FROM pg_catalog.pg_database d
                WHERE d.datname = pg_catalog.current_database()
                  AND (d.datdba = r.oid OR EXISTS (SELECT FROM pg_catalog.pg_shdepend s
                        WHERE s.dbid = d.oid AND s.refobjid = r.oid
                          AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass)
                    OR EXISTS (SELECT FROM pg_catalog.aclexplode(d.datacl) a
                                WHERE r.oid IN (a.grantee, a.grantor))))
 ORDER BY r.oid
"""


@dataclass(frozen=True)
class Reader:
    """How a source is read.

    :param endpoint: its address for all that reads. Sessions to it see what a backup has to hold,
        whatever is set for the database or the login.
    :param server_version: 150018 for 15.18.
    :param monetary_locale: the locale that writes its values of type money; None where it has none.
    """

    endpoint: Endpoint
    server_version: int
    monetary_locale: str | None


def as_reader(endpoint: Endpoint) -> Reader:
    """Return how a source is read.

    :raises SourceUnreachable: no connection.
    """
    # In a transaction what is set is gone at its end, also where a pooler lends the session.
    with endpoint.connect(autocommit=True) as connection, connection.transaction():
        connection.execute(without_time_outs(connection.info.server_version))
        money = money_settings(connection)
        row = connection.execute("SELECT pg_catalog.current_setting('lc_monetary')").fetchone()
        settings = differing(connection, FOR_DUMPS | money) | without_login_triggers(connection)
        acts_as = differing(connection, {"role": "none"})
        if acts_as:
            connection.execute("SELECT pg_catalog.set_config('role', 'none', true)")
            try:
                check_permissions(connection, list_tables(connection))
            except PermissionMissing:
                # The login may read by way of that role alone, or not at all.
                acts_as = {}
        return Reader(
            endpoint.with_settings(connection, settings | acts_as),
            connection.info.server_version,
            str(row[0]) if row and money else None,
        )


def check_roles(connection: Connection) -> None:
    """Raise BackupFailed when a role is needed whose name no archive of the database can hold.

    Databases share their server's roles, so a name may be in another encoding than this one's.
    """
    for oid, name in connection.execute(_NEEDED_ROLES).fetchall():
        if not is_readable(name):
            raise BackupFailed(
                f"role '{name}' owns something in database {connection.info.dbname!r}, or is "
                "granted something there, and its name is not in the database's encoding",
                hint="rename it, in a database of the server: DO $$ BEGIN EXECUTE "
                "pg_catalog.format('ALTER ROLE %I RENAME TO new_name', (SELECT rolname FROM "
                f"pg_catalog.pg_roles WHERE oid = {oid})); END $$",
            )


def unreadable_text(endpoint: Endpoint, error: psycopg.Error) -> BackupFailed:
    """Return the error for text that the server can't convert for us, with the roles named so.

    Names in the database itself are always in its encoding, but for SQL_ASCII's, which nothing
    converts. Those of roles are shared with databases of other encodings.
    """
    with endpoint.connect(autocommit=True) as connection:
        encoding = codec(str(connection.info.parameter_status("server_encoding")))
        # Nothing is converted then.
        connection.execute("SELECT pg_catalog.set_config('client_encoding', 'SQL_ASCII', false)")
        names = [
            name.encode("ascii", "surrogateescape")
            for (name,) in connection.execute("SELECT rolname FROM pg_catalog.pg_roles")
        ]
    roles = []
    for name in names:
        try:
            name.decode(encoding)
        except UnicodeDecodeError:
            roles.append(f"'{name.decode('ascii', 'backslashreplace')}'")
    return BackupFailed(
        f"the server can't convert some text of {endpoint.describe()}: {str(error).strip()}"
        + (f"; not in the database's encoding: role {', '.join(roles)}" if roles else ""),
        hint="rename the role, in a database of the encoding that its name is in" if roles else "",
    )


def check_permissions(connection: Connection, relations: list[Relation]) -> None:
    """Raise PermissionMissing when a dump would fail, or would leave something out.

    :param relations: all tables of the database.
    """
    row = connection.execute("SELECT session_user, current_user").fetchone()
    if row is None:  # pragma: no cover - a SELECT without FROM gives a row
        raise AssertionError("nobody")
    itself, user = row
    login = sql.Identifier(user)
    lacking: list[str] = []
    remedies: list[str] = []
    read_all_helps = False

    def lack(what: str, remedy: sql.Composable) -> None:
        lacking.append(what)
        remedies.append(remedy.as_string(connection) + ";")

    for relation in relations:
        if relation.extension is not None and not relation.readable:
            continue  # left out of the dump too, and named in the receipt
        if not relation.readable:
            read_all_helps = True
            lack(
                f"table {relation.schema}.{relation.name}",
                sql.SQL("GRANT USAGE ON SCHEMA {} TO {}; GRANT SELECT ON {} TO {}").format(
                    sql.Identifier(relation.schema), login, relation.identifier, login
                ),
            )
        if relation.row_security:
            lack(
                f"all rows of table {relation.schema}.{relation.name} "
                "(row-level security would filter them)",
                sql.SQL("ALTER ROLE {} BYPASSRLS").format(login),
            )
    for schema, name in connection.execute(_SEQUENCES).fetchall():
        read_all_helps = True
        lack(
            f"sequence {schema}.{name}",
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}; GRANT SELECT ON SEQUENCE {} TO {}").format(
                sql.Identifier(schema), login, sql.Identifier(schema, name), login
            ),
        )
    for (oid,) in connection.execute(_LARGE_OBJECTS).fetchall():
        lack(
            f"large object {oid}",
            sql.SQL("GRANT SELECT ON LARGE OBJECT {} TO {}").format(sql.Literal(oid), login),
        )
    if lacking:
        more = len(lacking) - _SHOWN
        named = ", ".join(lacking[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        statements = [one for remedy in remedies[:_SHOWN] for one in remedy.split("; ")]
        wanted = " ".join(f"{one.rstrip(';')};" for one in dict.fromkeys(statements))
        raise PermissionMissing(
            f"user {itself!r}{_acting(itself, user)} may not read {named}",
            hint=f"as the owner or a superuser: {wanted}"
            + (
                " (for tables and sequences of a whole server: GRANT pg_read_all_data, from "
                "version 14 on)"
                if read_all_helps
                else ""
            ),
        )


def _acting(itself: str, role: str) -> str:
    if itself == role:
        return ""
    return f", who acts as {role!r} by a setting of the database or of the login (SET role),"
