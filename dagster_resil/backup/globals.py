r"""``globals.sql``: what belongs to a database but not to its dump.

Roles and memberships come first, because a restore needs them; what could get in a restore's way
(settings of roles and of the database, the database's grants, grants on parameters) comes last.
Tablespaces, whose folders a server has to have, are in a part of their own, which is off.

The file is for psql: ``-v settings=off`` runs the roles only, ``-v roles=off`` the settings only,
``-v tablespaces=on`` the tablespaces too. Roles and settings may run again without harm. There are
no passwords in it. Each statement is one line, in which no name and no value has a control
character or a backslash of its own: so psql finds no command in one, and a part can be cut out
between its comments (``-- begin roles``, ``-- end roles``) and run behind ``\restrict``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.quoting import (
    dollar_quoted,
    escaped,
    quoted_name,
    quoted_value,
)
from dagster_resil.records.text import is_readable

_HEAD = """\
-- Roles, memberships, tablespaces, settings and grants around the database.
-- For psql: -v settings=off for the roles alone, -v roles=off for the settings alone;
-- -v tablespaces=on for the tablespaces too, whose folders have to be there.
\\set ON_ERROR_STOP on
\\encoding {encoding}
\\if :{{?roles}}
\\else
\\set roles on
\\endif
\\if :{{?tablespaces}}
\\else
\\set tablespaces off
\\endif
\\if :{{?settings}}
\\else
\\set settings on
\\endif
SET client_min_messages = warning;
SET standard_conforming_strings = on;
SET search_path = '';
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
_ROLE_WORDS = (
    "SUPERUSER",
    "INHERIT",
    "CREATEROLE",
    "CREATEDB",
    "LOGIN",
    "REPLICATION",
    "BYPASSRLS",
)


@dataclass(frozen=True)
class Globals:
    """What :func:`read_globals` has read.

    :param sql: the text of ``globals.sql``.
    :param left_out: what could not be put into it, a sentence each.
    :param codec: Python's name of the encoding that it was read in.
    """

    sql: str
    left_out: tuple[str, ...] = ()
    codec: str = "utf-8"

    def to_bytes(self) -> bytes:
        """Return the file."""
        return self.sql.encode(self.codec, "surrogateescape")


def read_globals(connection: Connection) -> Globals:
    """Return ``globals.sql`` for the connected database.

    Roles, tablespaces and comments on them are in the encoding of the database that they were made
    from. What is not valid in this one's could not be restored from here, and is left out.

    :param connection: with ISO dates, in UTC.
    """
    reader = _Reader(connection)
    parts = {
        "roles": [*reader.roles(), *reader.memberships()],
        "tablespaces": [*reader.tablespaces()],
        "settings": [
            *reader.settings(of_all=False),
            *reader.database(),
            # They take a superuser, and psql ends at the first error.
            *reader.settings(of_all=True),
            *reader.parameters(),
        ],
    }
    text = _HEAD.format(encoding="SQL_ASCII" if reader.encoding == "SQL_ASCII" else "UTF8")
    for part, lines in parts.items():
        text += f"\\if :{part}\n-- begin {part}\n"
        text += "".join(f"{line}\n" for line in lines)
        text += f"-- end {part}\n\\endif\n"
    return Globals(text, tuple(reader.left_out), connection.info.encoding)


def _unless(condition: str, statement: str) -> str:
    """Return a statement that is run where a query gives nothing."""
    then = dollar_quoted(statement, "run")
    block = f"BEGIN IF NOT EXISTS ({condition}) THEN EXECUTE {then}; END IF; END"
    return f"DO {dollar_quoted(block, 'do')};"


def _to(grantee: str | None) -> str:
    return "PUBLIC" if grantee is None else quoted_name(grantee)


class _Reader:
    """Yields the statements, part by part.

    :ivar left_out: what was left out so far.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        row = connection.execute("SELECT pg_catalog.current_setting('server_encoding')").fetchone()
        self.encoding = str(row[0]) if row else ""
        self.left_out: list[str] = []

    def _is_valid(self, text: str | None) -> bool:
        return text is None or is_readable(text)

    def _fits(self, what: str, whose: str, *texts: str | None) -> bool:
        """Return whether texts are valid in the database's encoding; note what is not."""
        if all(map(self._is_valid, texts)):
            return True
        self.left_out.append(
            f"{what}, {whose} is not valid in the database's encoding {self.encoding}"
        )
        return False

    def _comment(self, what: str, title: str, comment: str | None) -> Iterator[str]:
        if comment is not None and self._fits(f"the comment on {title}", "which", comment):
            yield f"COMMENT ON {what} IS {quoted_value(comment)};"

    def roles(self) -> Iterator[str]:
        rows = self._connection.execute(
            "SELECT rolname, rolname ~ '^pg_', rolsuper, rolinherit, rolcreaterole, rolcreatedb, "
            "rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, "
            "rolvaliduntil::pg_catalog.text, pg_catalog.shobj_description(oid, 'pg_authid') "
            'FROM pg_catalog.pg_roles ORDER BY rolname COLLATE "C"'
        ).fetchall()
        for name, predefined, *flags, limit, until, comment in rows:
            if not self._fits(f"role {escaped(name)}", "whose name", name):
                continue
            if not predefined:
                create = f"CREATE ROLE {quoted_name(name)} WITH " + " ".join(
                    word if flag else f"NO{word}"
                    for word, flag in zip(_ROLE_WORDS, flags, strict=True)
                )
                if limit != -1:
                    create += f" CONNECTION LIMIT {limit}"
                if until is not None:
                    create += f" VALID UNTIL {quoted_value(until)}"
                # An existing role is left as it is: it may be in use for something else.
                yield _unless(
                    f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {quoted_value(name)}", create
                )
            yield from self._comment(f"ROLE {quoted_name(name)}", f"role {escaped(name)}", comment)

    def memberships(self) -> Iterator[str]:
        # From 16 on a role may be granted by several grantors. Here there is one, whose later
        # grant would undo an option of the one before it.
        options = (
            "pg_catalog.bool_or(admin_option), pg_catalog.bool_or(inherit_option), "
            "pg_catalog.bool_or(set_option)"
            if self._connection.info.server_version >= 160000
            else "pg_catalog.bool_or(admin_option), NULL, NULL"
        )
        rows = self._connection.execute(
            f"SELECT r.rolname, m.rolname, {options} FROM pg_catalog.pg_auth_members a "
            "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
            "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
            "WHERE NOT (r.rolname ~ '^pg_' AND m.rolname ~ '^pg_') "
            'GROUP BY 1, 2 ORDER BY r.rolname COLLATE "C", m.rolname COLLATE "C"'
        ).fetchall()
        for role, member, admin, inherit, may_set in rows:
            if not (self._is_valid(role) and self._is_valid(member)):
                continue  # which is named already
            grant = f"GRANT {quoted_name(role)} TO {quoted_name(member)}"
            options = "" if inherit is None else f" WITH INHERIT {inherit}, SET {may_set}".upper()
            yield f"{grant}{options};"
            if admin:
                # Who has created the role has ADMIN by that, and may not grant it to itself.
                yield _unless(
                    "SELECT FROM pg_catalog.pg_auth_members a "
                    "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
                    "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
                    f"WHERE r.rolname = {quoted_value(role)} "
                    f"AND m.rolname = {quoted_value(member)} AND a.admin_option",
                    f"{grant} WITH ADMIN OPTION",
                )

    def tablespaces(self) -> Iterator[str]:
        rows = self._connection.execute(
            "SELECT t.spcname, t.spcname ~ '^pg_', o.rolname, o.oid = 10, "
            "pg_catalog.pg_tablespace_location(t.oid), t.spcoptions, t.spcacl IS NOT NULL, "
            "pg_catalog.shobj_description(t.oid, 'pg_tablespace') "
            "FROM pg_catalog.pg_tablespace t "
            "JOIN pg_catalog.pg_roles o ON o.oid = t.spcowner "
            'ORDER BY t.spcname COLLATE "C"'
        ).fetchall()
        for name, built_in, owner, by_default, location, options, granted, comment in rows:
            if not self._fits(
                f"tablespace {escaped(name)}", "whose name, owner or place", name, owner, location
            ):
                continue
            quoted = quoted_name(name)
            if not built_in:
                # One in the server's own data folder has no place of its own.
                place = "" if location.startswith("pg_tblspc/") else location
                yield (
                    f"CREATE TABLESPACE {quoted} OWNER {quoted_name(owner)} "
                    f"LOCATION {quoted_value(place)};"
                )
            elif not by_default:
                yield f"ALTER TABLESPACE {quoted} OWNER TO {quoted_name(owner)};"
            if options:
                settings = (option.partition("=") for option in options)
                yield (
                    f"ALTER TABLESPACE {quoted} SET ("
                    + ", ".join(
                        f"{quoted_name(key)} = {quoted_value(value)}" for key, _, value in settings
                    )
                    + ");"
                )
            yield from self._comment(f"TABLESPACE {quoted}", f"tablespace {escaped(name)}", comment)
            if granted:
                yield from self._grants(
                    f"TABLESPACE {quoted}",
                    owner,
                    "pg_catalog.pg_tablespace o, pg_catalog.aclexplode(o.spcacl) a",
                    "o.spcname",
                    name,
                )

    def _grants(self, what: str, owner: str, rows: str, column: str, name: str) -> Iterator[str]:
        """Yield the statements that make an object's privileges what they are."""
        yield f"REVOKE ALL ON {what} FROM PUBLIC;"
        yield f"REVOKE ALL ON {what} FROM {quoted_name(owner)};"
        for grantee, privilege, grantable in self._connection.execute(
            f"SELECT DISTINCT r.rolname, a.privilege_type, a.is_grantable FROM {rows} "
            "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee "
            f"WHERE {column} = %s AND (a.grantee = 0 OR r.oid IS NOT NULL) "
            "ORDER BY 1 NULLS FIRST, 2, 3",
            [name],
        ).fetchall():
            if self._is_valid(grantee):
                # A privilege's name comes from PostgreSQL's own list.
                yield f"GRANT {privilege} ON {what} TO {_to(grantee)}" + (
                    " WITH GRANT OPTION;" if grantable else ";"
                )

    def settings(self, *, of_all: bool) -> Iterator[str]:
        """Yield settings: those of every role in every database, or all the others."""
        rows = self._connection.execute(
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
            if not self._is_valid(role):
                continue
            name, _, value = setting.partition("=")
            if of_all:
                head = "ALTER ROLE ALL"
            elif role is None:
                head = 'ALTER DATABASE :"db"'
            else:
                head = f"ALTER ROLE {quoted_name(role)}"
                if of_database:
                    head += ' IN DATABASE :"db"'
            of_whom = "" if role is None else f" of role {escaped(role)}"
            if self._fits(f"a setting{of_whom}", "whose value", setting):
                yield f"{head} SET {quoted_name(name)} TO {_values(name, value)};"

    def parameters(self) -> Iterator[str]:
        """Yield grants on parameters but to the bootstrap role, which has them all."""
        if self._connection.info.server_version < 150000:
            return
        rows = self._connection.execute(
            "SELECT p.parname, r.rolname, a.privilege_type, pg_catalog.bool_or(a.is_grantable) "
            "FROM pg_catalog.pg_parameter_acl p, pg_catalog.aclexplode(p.paracl) a "
            "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee "
            "WHERE a.grantee <> 10 AND (a.grantee = 0 OR r.oid IS NOT NULL) "
            "GROUP BY 1, 2, 3 ORDER BY 1, 2 NULLS FIRST, 3"
        ).fetchall()
        for name, grantee, privilege, grantable in rows:
            if not self._is_valid(grantee):
                continue
            # It takes a superuser, but one who has no need of it may be none.
            public = quoted_value("")
            yield _unless(
                "SELECT FROM pg_catalog.pg_parameter_acl p "
                "JOIN LATERAL pg_catalog.aclexplode(p.paracl) a ON true "
                "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee "
                f"WHERE p.parname = {quoted_value(name)} "
                f"AND COALESCE(r.rolname, {public}) = {quoted_value(grantee or '')} "
                f"AND a.privilege_type = {quoted_value(privilege)}"
                + (" AND a.is_grantable" if grantable else ""),
                f"GRANT {privilege} ON PARAMETER {quoted_name(name)} TO {_to(grantee)}"
                + (" WITH GRANT OPTION" if grantable else ""),
            )

    def database(self) -> Iterator[str]:
        row = self._connection.execute(
            "SELECT d.datname, o.rolname, d.datacl IS NOT NULL, d.datconnlimit, d.datistemplate, "
            "pg_catalog.shobj_description(d.oid, 'pg_database') FROM pg_catalog.pg_database d "
            "LEFT JOIN pg_catalog.pg_roles o ON o.oid = d.datdba "
            "WHERE d.datname = pg_catalog.current_database()"
        ).fetchone()
        if row is None:  # pragma: no cover - the database that we are in is there
            raise AssertionError("no database")
        name, owner, has_grants, limit, template, comment = row
        own = self._fits("the database's owner and grants", "whose name", owner)
        if own:
            yield f'ALTER DATABASE :"db" OWNER TO {quoted_name(owner)};'
        if limit != -1:
            yield f'ALTER DATABASE :"db" CONNECTION LIMIT {limit};'
        if template:
            yield 'ALTER DATABASE :"db" IS_TEMPLATE true;'
        yield from self._comment('DATABASE :"db"', "the database", comment)
        if has_grants and own:
            yield from self._grants(
                'DATABASE :"db"',
                owner,
                "pg_catalog.pg_database o, pg_catalog.aclexplode(o.datacl) a",
                "o.datname",
                name,
            )


def _values(name: str, value: str) -> str:
    if name.lower() not in _QUOTED_LISTS:
        return quoted_value(value)
    return ", ".join(quoted_value(item) for item in _split_list(value) or [""])


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
