r"""Running the ``globals.sql`` of a backup.

It is written for psql, for the day when this program is not there; here it is never given to psql,
to which a name that was not quoted well enough could be a command. It is split into statements, of
which each has to be one of the few that a backup's ``globals.sql`` has, and each is run by itself.

Releases before this one wrote it in another form, with ``\gexec``: that is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.quoting import quoted_name, unquoted_name, unquoted_value

Part = Literal["roles", "tablespaces", "settings"]

ENCODING = ("utf-8", "surrogateescape")
"""How its bytes are text here; those of an SQL_ASCII database may be no UTF-8."""


class NotAsWritten(Exception):
    """It has what no backup's ``globals.sql`` has; the message names the line."""


@dataclass(frozen=True)
class Statement:
    r"""A statement of it.

    :param line: the number of its line; of its first in the older form.
    :param part: the part that it is in; None before the first.
    :param tokens: each with its kind: "name", "value", "body" (in dollar quotes), "db" (what stands
        for the database's name) or "words".
    :param made: of the older form's ``\gexec``: the statement to run where this one gives a row.
    """

    line: int
    part: Part | None
    tokens: tuple[tuple[str, str], ...]
    made: str | None = None

    @property
    def name(self) -> str:
        """Return what to call it in messages."""
        return f"globals.sql, line {self.line}"

    def text(self, database: str, *, in_place: bool = False) -> bytes:
        """Return it for a server.

        :param in_place: have a tablespace made in the server's own data folder.
        """
        in_place = in_place and self._makes_a_tablespace
        return "".join(
            quoted_name(database)
            if kind == "db"
            else "''"
            if in_place and kind == "value"
            else text
            for kind, text in self.tokens
        ).encode(*ENCODING)

    @property
    def _makes_a_tablespace(self) -> bool:
        return self.tokens[0] == ("words", "CREATE TABLESPACE ")

    @property
    def location(self) -> tuple[str, str] | None:
        """Return the name and location of the tablespace that it makes."""
        if not self._makes_a_tablespace:
            return None
        name = next(text for kind, text in self.tokens if kind == "name")
        value = next(text for kind, text in self.tokens if kind == "value")
        return unquoted_name(name), unquoted_value(value)


@dataclass(frozen=True)
class GlobalsFile:
    """A ``globals.sql`` that was read.

    :param encoding: what its names and values are in, in PostgreSQL's words.
    """

    encoding: str
    statements: tuple[Statement, ...]

    @property
    def locations(self) -> dict[str, str]:
        """Return where its tablespaces are, by their names."""
        return dict(each.location for each in self.statements if each.location is not None)

    def run(
        self, connection: Connection, part: Part, *, in_place: bool = False
    ) -> Iterator[Statement]:
        """Run one part, and yield each statement before it is run.

        :param connection: in autocommit mode, with an empty search_path.
        :param in_place: have tablespaces made in the server's own data folder.
        :raises psycopg.Error: a statement failed: the one that was yielded last.
        """
        row = connection.execute("SELECT pg_catalog.current_database()").fetchone()
        name = str(row[0]) if row else ""
        database = name.encode(connection.info.encoding, "surrogateescape").decode(*ENCODING)
        if self.encoding != "UTF8":
            connection.execute(f"SET client_encoding = {self.encoding}")
        for statement in self.statements:
            if statement.part not in (None, part):
                continue
            yield statement
            text = statement.text(database, in_place=in_place)
            # As in a prepared statement a server takes one command and no more.
            done = connection.execute(text, binary=True)
            if statement.made is not None and done.rowcount:
                connection.execute(statement.made.encode(*ENCODING), binary=True)


_TOKEN = re.compile(
    r"""
      (?P<name> (?:[uU]&)? "[^"]*(?:""[^"]*)*" )
    | (?P<value> [eE]'[^'\\]*(?:(?:''|\\.)[^'\\]*)*' | '[^']*(?:''[^']*)*' )
    | (?P<body> (?<![A-Za-z0-9_]) (?P<tag>\$(?:[A-Za-z_][A-Za-z0-9_]*)?\$) .*? (?P=tag) )
    | (?P<db> :"db" )
    | (?P<words> (?: (?>[A-Za-z_][A-Za-z0-9_.]*)(?!['"&$]) | (?>[0-9]+)(?![A-Za-z_'"&$])
                   | [ ,()=-] )+ | ; )
    """,
    re.VERBOSE | re.DOTALL,
)
_END = re.compile(r";\n|\\(gexec|gset)\n")
_META = re.compile(r"\\[^\n]*\n")
_COMMENT = re.compile(r"--[^\n]*\n|\n")
_ROLE_WORDS = "(?:NO)?(?:SUPERUSER|INHERIT|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS)"
_CREATE_ROLE = (
    rf"CREATE ROLE <name> WITH {_ROLE_WORDS}(?: {_ROLE_WORDS})*"
    r"(?: CONNECTION LIMIT -?[0-9]+)?(?: VALID UNTIL <value>)?"
)
_TRUTH = "(?:True|False|TRUE|FALSE)"
_GRANT_ROLE = (
    r"GRANT <name> TO <name>(?: WITH ADMIN OPTION"
    rf"| WITH (?:ADMIN {_TRUTH}, )?INHERIT {_TRUTH}, SET {_TRUTH})?"
)
_GRANTEE = "(?:<name>|PUBLIC)"
_GRANT_PARAMETER = (
    rf"GRANT (?:SET|ALTER SYSTEM) ON PARAMETER <name> TO {_GRANTEE}(?: WITH GRANT OPTION)?"
)
_GRANTED = "(?:DATABASE <db>|TABLESPACE <name>)"
_SET_FOR = "(?:ROLE ALL|ROLE <name>|ROLE <name> IN DATABASE <db>|DATABASE <db>)"
# A backup of another release may have fewer of them, but none that is not here.
_STATEMENTS = re.compile(
    "|".join(
        (
            "SET client_min_messages = warning",
            "SET standard_conforming_strings = on",
            "SET search_path = <value>",
            _CREATE_ROLE,
            _GRANT_ROLE,
            r"COMMENT ON (?:ROLE <name>|TABLESPACE <name>|DATABASE <db>) IS <value>",
            r"CREATE TABLESPACE <name> OWNER <name> LOCATION <value>",
            r"ALTER TABLESPACE <name> OWNER TO <name>",
            r"ALTER TABLESPACE <name> SET \(<name> = <value>(?:, <name> = <value>)*\)",
            rf"REVOKE ALL ON {_GRANTED} FROM {_GRANTEE}",
            rf"GRANT [A-Z]+ ON {_GRANTED} TO {_GRANTEE}(?: WITH GRANT OPTION)?",
            r"ALTER DATABASE <db> (?:OWNER TO <name>|CONNECTION LIMIT -?[0-9]+|IS_TEMPLATE true)",
            rf"ALTER {_SET_FOR} SET <name> TO <value>(?:, <value>)*",
        )
    )
)
_NO_ROLE = r"NOT EXISTS \(SELECT FROM pg_catalog\.pg_roles WHERE rolname = <value>\)"
_NO_ADMIN = (
    r"NOT EXISTS \(SELECT FROM pg_catalog\.pg_auth_members a "
    r"JOIN pg_catalog\.pg_roles r ON r\.oid = a\.roleid "
    r"JOIN pg_catalog\.pg_roles m ON m\.oid = a\.member "
    r"WHERE r\.rolname = <value> AND m\.rolname = <value> AND a\.admin_option\)"
)
_NO_PARAMETER_GRANT = (
    r"NOT EXISTS \(SELECT FROM pg_catalog\.pg_parameter_acl p "
    r"JOIN LATERAL pg_catalog\.aclexplode\(p\.paracl\) a ON true "
    r"LEFT JOIN pg_catalog\.pg_roles r ON r\.oid = a\.grantee "
    r"WHERE p\.parname = <value> AND COALESCE\(r\.rolname, <value>\) = <value> "
    r"AND a\.privilege_type = <value>(?: AND a\.is_grantable)?\)"
)
# A condition, and the statement that is run where it holds.
_CONDITIONAL = tuple(
    (condition, re.compile(statement))
    for condition, statement in (
        (_NO_ROLE, _CREATE_ROLE),
        (_NO_ADMIN, _GRANT_ROLE),
        (_NO_PARAMETER_GRANT, _GRANT_PARAMETER),
    )
)
_OLD_DATABASE = "SELECT pg_catalog.current_database() AS db"
_SWITCH = re.compile(r"\\if :(roles|settings|tablespaces)")
_DEFAULT = re.compile(r"\\if :\{\?(?:roles|settings|tablespaces)\}")
_IN_DEFAULT = re.compile(r"\\else|\\set (?:roles|settings) on|\\set tablespaces off")
_ENCODING_NAME = re.compile(r"\\encoding (UTF8|SQL_ASCII)")


def read_globals_file(data: bytes) -> GlobalsFile:
    """Split a ``globals.sql`` into its statements.

    :raises NotAsWritten: it has something that no backup's ``globals.sql`` has.
    """
    text = data.decode(*ENCODING)
    statements: list[Statement] = []
    encoding = "UTF8"
    part: Part | None = None
    inside = False  # of an \\if
    at, line = 0, 1
    while at < len(text):
        begin = at
        if found := _COMMENT.match(text, at):
            at = found.end()
        elif found := _META.match(text, at):
            at = found.end()
            meta = found[0][:-1]
            if (switch := _SWITCH.fullmatch(meta)) and not inside:
                part, inside = cast(Part, switch[1]), True
            elif _DEFAULT.fullmatch(meta) and not inside:
                inside = True
            elif meta == "\\endif" and inside:
                part, inside = None, False
            elif name := _ENCODING_NAME.fullmatch(meta):
                encoding = name[1]
            elif meta != "\\set ON_ERROR_STOP on" and not (
                inside and part is None and _IN_DEFAULT.fullmatch(meta)
            ):
                raise _not_as_written(line)
        elif inside and part is None:
            raise _not_as_written(line)
        else:
            statement, at = _read_statement(text, at, line, part)
            if statement is not None:
                statements.append(statement)
        line += text.count("\n", begin, at)
    if inside:
        raise NotAsWritten("globals.sql ends within a part")
    return GlobalsFile(encoding, tuple(statements))


def _read_statement(
    text: str, at: int, line: int, part: Part | None
) -> tuple[Statement | None, int]:
    tokens: list[tuple[str, str]] = []
    while not (end := _END.match(text, at)):
        at = _add(tokens, text, at)
        if not at:
            raise _not_as_written(line)
    skeleton = _skeleton(tokens)
    statement: Statement | None = Statement(line, part, tuple(tokens))
    if end[1] == "gset":
        # psql's way to learn the database's name.
        known, statement = skeleton == _OLD_DATABASE, None
    elif end[1] == "gexec":
        made = unquoted_value(tokens[1][1]) if tokens[1:] and tokens[1][0] == "value" else ""
        known = _is_conditional("SELECT <value> WHERE {}", skeleton, _skeleton_of(made))
        statement = Statement(line, part, tuple(tokens), made)
    elif skeleton == "DO <body>":
        block = _tokens_of(_inside(tokens[1][1]))
        bodies = [text for kind, text in block if kind == "body"]
        known = len(bodies) == 1 and _is_conditional(
            "BEGIN IF {} THEN EXECUTE <body>; END IF; END",
            _skeleton(block),
            _skeleton_of(_inside(bodies[0])),
        )
    else:
        known = _is_statement(skeleton)
    if not known:
        raise _not_as_written(line)
    return statement, end.end()


@lru_cache(maxsize=1000)
def _is_statement(skeleton: str) -> bool:
    return _STATEMENTS.fullmatch(skeleton) is not None


@lru_cache(maxsize=1000)
def _is_conditional(around: str, skeleton: str, made: str) -> bool:
    return any(
        re.fullmatch(re.escape(around).replace(r"\{\}", condition), skeleton) is not None
        and inner.fullmatch(made) is not None
        for condition, inner in _CONDITIONAL
    )


def _add(tokens: list[tuple[str, str]], text: str, at: int) -> int:
    """Add the token that is there, and return where it ends; 0 where there is none."""
    found = _TOKEN.match(text, at)
    if not found:
        return 0
    kind = str(found.lastgroup)
    if kind == "words" and tokens and tokens[-1][0] == "words":
        tokens[-1] = ("words", tokens[-1][1] + found[0])
    else:
        tokens.append((kind, found[0]))
    return found.end()


def _skeleton(tokens: list[tuple[str, str]]) -> str:
    whole = "".join(text if kind == "words" else f"<{kind}>" for kind, text in tokens)
    return re.sub(" +", " ", whole).rstrip(" ")  # psycopg puts one before E'…'


def _tokens_of(text: str) -> list[tuple[str, str]]:
    """Return the tokens of a statement in a statement; none where it is no statement."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        at = _add(tokens, text, at)
        if not at:
            return []
    return tokens


def _skeleton_of(text: str) -> str:
    return _skeleton(_tokens_of(text))


def _inside(body: str) -> str:
    length = body.index("$", 1) + 1
    return body[length:-length]


def _not_as_written(line: int) -> NotAsWritten:
    return NotAsWritten(f"globals.sql, line {line}: no backup's globals.sql has such a line")
