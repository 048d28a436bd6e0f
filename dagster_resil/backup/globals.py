"""``globals.sql``: what belongs to a database but not to its dump.

Roles and memberships come first, because a restore needs them; what could get in a restore's way
(settings of roles and of the database, the database's grants) comes last. The file is for psql:
``-v settings=off`` runs the first half only, ``-v roles=off`` the second only. Both may run again
without harm. There are no passwords in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from dagster_resil.postgres.connection import Connection
from dagster_resil.text import is_readable

_HEAD = """\
-- Roles, memberships, tablespaces, settings and grants around the database.
-- For psql: -v settings=off for the roles alone, -v roles=off for the settings alone.
\\set ON_ERROR_STOP on
\\encoding {encoding}
SET search_path = '';
\\if :{?roles}
\\else
\\set roles on
\\endif
\\if :{?settings}
\\else
\\set settings on
\\endif
SET client_min_messages = warning;
SELECT pg_catalog.current_database() AS db \\gset
"""

# Lists of names, which PostgreSQL keeps quoted already (GUC_LIST_QUOTE in guc_tables.c).
_QUOTED_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}


def read_globals(connection: Connection) -> str:
    """Return ``globals.sql`` for the connected database."""
    # In LATIN1 those of a database of encoding SQL_ASCII are read, a character a byte.
    encoding = str(connection.info.parameter_status("client_encoding"))
    lines = [_HEAD.replace("{encoding}", encoding), "\\if :roles"]
    lines += _roles(connection)
    lines += _memberships(connection)
    lines += ["\\endif", *_tablespaces(connection), "\\if :settings"]
    lines += _settings(connection, of_all=False)
    lines += _database(connection)
    # They take a superuser, and psql ends at the first error.
    lines += _settings(connection, of_all=True)
    lines.append("\\endif")
    return "\n".join(lines) + "\n"


def _render(connection: Connection, template: str, *parts: sql.Composable) -> str:
    return sql.SQL(template).format(*parts).as_string(connection)


def _roles(connection: Connection) -> Iterator[str]:
    rows = connection.execute(
        "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, "
        "rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil::pg_catalog.text, "
        "pg_catalog.shobj_description(oid, 'pg_authid') "
        "FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname COLLATE pg_catalog.\"C\""
    ).fetchall()
    words = ["SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS"]
    for name, *flags, limit, until, comment in rows:
        if not is_readable(name):
            continue  # of another database, whose encoding it is in
        options = " ".join(
            word if flag else f"NO{word}" for word, flag in zip(words, flags, strict=True)
        )
        create = _render(connection, "CREATE ROLE {} WITH " + options, sql.Identifier(name))
        if limit != -1:
            create += f" CONNECTION LIMIT {limit}"
        if until is not None:
            create += _render(connection, " VALID UNTIL {}", sql.Literal(until))
        # An existing role is left as it is: it may be in use for something else.
        yield _render(
            connection,
            "SELECT {} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles "
            "WHERE rolname = {}) \\gexec",
            sql.Literal(create),
            sql.Literal(name),
        )
        if comment is not None:
            yield _render(
                connection,
                "COMMENT ON ROLE {} IS {};",
                sql.Identifier(name),
                sql.Literal(comment),
            )


def _memberships(connection: Connection) -> Iterator[str]:
    # From 16 on a role may be granted by several grantors. Here there is one, whose later grant
    # would undo an option of the one before it.
    options = (
        "pg_catalog.bool_or(admin_option), pg_catalog.bool_or(inherit_option), "
        "pg_catalog.bool_or(set_option)"
        if connection.info.server_version >= 160000
        else "pg_catalog.bool_or(admin_option), NULL, NULL"
    )
    rows = connection.execute(
        f"SELECT r.rolname, m.rolname, {options} FROM pg_catalog.pg_auth_members a "
        "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
        "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
        "WHERE m.rolname !~ '^pg_' GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    for role, member, admin, inherit, may_set in rows:
        if not (is_readable(role) and is_readable(member)):
            continue
        grant = _render(connection, "GRANT {} TO {}", sql.Identifier(role), sql.Identifier(member))
        yield grant + (f" WITH INHERIT {inherit}, SET {may_set};" if inherit is not None else ";")
        if admin:
            # Who has created the role has ADMIN by that, and may not grant it to itself.
            yield _render(
                connection,
                "SELECT {} WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members a "
                "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
                "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
                "WHERE r.rolname = {} AND m.rolname = {} AND a.admin_option) \\gexec",
                sql.Literal(grant + " WITH ADMIN OPTION"),
                sql.Literal(role),
                sql.Literal(member),
            )


def _tablespaces(connection: Connection) -> Iterator[str]:
    rows = connection.execute(
        "SELECT spcname, pg_catalog.pg_get_userbyid(spcowner), "
        "pg_catalog.pg_tablespace_location(oid) "
        "FROM pg_catalog.pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1"
    ).fetchall()
    if rows:
        yield "-- Tablespaces need their folders first; else restore with --no-tablespaces."
    for name, owner, location in rows:
        text = _render(
            connection,
            "CREATE TABLESPACE {} OWNER {} LOCATION {};",
            sql.Identifier(name),
            sql.Identifier(owner),
            sql.Literal(location),
        )
        yield "-- " + text.replace("\n", "\n-- ")


def _settings(connection: Connection, *, of_all: bool) -> Iterator[str]:
    """Yield settings: those of every role in every database, or all the others."""
    rows = connection.execute(
        "SELECT r.rolname, s.setdatabase <> 0, pg_catalog.unnest(s.setconfig) "
        "FROM pg_catalog.pg_db_role_setting s "
        "LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole "
        "WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database())) "
        "AND (s.setrole = 0 OR r.rolname !~ '^pg_') "
        "AND (s.setrole = 0 AND s.setdatabase = 0) = %s ORDER BY 1 NULLS FIRST, 2, 3",
        [of_all],
    ).fetchall()
    for role, of_database, setting in rows:
        if role is not None and not is_readable(role):
            continue
        name, _, value = setting.partition("=")
        if of_all:
            head = "ALTER ROLE ALL"
        elif role is None:
            head = 'ALTER DATABASE :"db"'
        else:
            head = _render(connection, "ALTER ROLE {}", sql.Identifier(role))
            if of_database:
                head += ' IN DATABASE :"db"'
        setting = _render(connection, "{} TO {}", sql.Identifier(name), _value(name, value))
        yield f"{head} SET {setting};"


def _value(name: str, value: str) -> sql.Composable:
    if name.lower() not in _QUOTED_LISTS:
        return sql.Literal(value)
    return sql.SQL(", ").join(sql.Literal(item) for item in _split_list(value) or [""])


def _split_list(value: str) -> list[str]:
    """Split a list of names as PostgreSQL keeps it: commas, double quotes, doubled inside."""
    items: list[str] = []
    at = 0
    while at < len(value):
        if value[at] in ", \t":
            at += 1
        elif value[at] == '"':
            item = ""
            at += 1
            while at < len(value):
                if value[at] == '"':
                    if value[at + 1 : at + 2] != '"':
                        break
                    at += 1
                item += value[at]
                at += 1
            at += 1
            items.append(item)
        else:
            end = value.find(",", at)
            end = len(value) if end < 0 else end
            items.append(value[at:end].strip())
            at = end
    return items


def _database(connection: Connection) -> Iterator[str]:
    row = connection.execute(
        "SELECT pg_catalog.pg_get_userbyid(datdba), datacl IS NOT NULL, datconnlimit, "
        "pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    if row is None:  # pragma: no cover - the database that we are in is there
        raise AssertionError("no database")
    owner, has_grants, limit, comment = row
    yield _render(connection, 'ALTER DATABASE :"db" OWNER TO {};', sql.Identifier(owner))
    if limit != -1:
        yield f'ALTER DATABASE :"db" CONNECTION LIMIT {limit};'
    if comment is not None:
        yield _render(connection, 'COMMENT ON DATABASE :"db" IS {};', sql.Literal(comment))
    if not has_grants:
        return
    yield 'REVOKE ALL ON DATABASE :"db" FROM PUBLIC;'
    yield _render(connection, 'REVOKE ALL ON DATABASE :"db" FROM {};', sql.Identifier(owner))
    grants = connection.execute(
        "SELECT CASE a.grantee WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END, "
        "a.privilege_type, a.is_grantable "
        "FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a "
        "WHERE d.datname = pg_catalog.current_database() ORDER BY 1 NULLS FIRST, 2"
    ).fetchall()
    for grantee, privilege, grantable in grants:
        to = sql.SQL("PUBLIC") if grantee is None else sql.Identifier(grantee)
        # A privilege's name comes from PostgreSQL's own list.
        yield _render(connection, f'GRANT {privilege} ON DATABASE :"db" TO {{}}', to) + (
            " WITH GRANT OPTION;" if grantable else ";"
        )
