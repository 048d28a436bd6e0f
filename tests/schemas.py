"""Healthy databases made at random, of everything that a schema may have.

A database is made by trying statements: what PostgreSQL refuses (a second primary key, a check that a
row breaks) is left out, so that what a seed gives depends on the version alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from dagster_resil.postgres.connection import Connection
from tests.values import VALUES

_NAMES = (
    "plain",
    "Mixed Case",
    'quo"te',
    "select",
    "ünïcödé",
    "日本",
    "back\\slash",
    "dollar$1",
    "semi;colon --",
    "apos'trophe",
    "dot.ted",
    "new\nline",
    "tab\t",
    "percent %s {0}",
    "long" + "g" * 50,
)
# Types of the columns: those of ordinary tables more often.
_COMMON = ("int4", "int8", "text", "numeric", "timestamptz", "bool", "uuid", "jsonb", "date")
_NOT_IN_TABLES = {"aclitem"}  # names a role that another server need not have
_HASHED = ("int4", "int8", "text", "uuid", "numeric", "date")


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def literal(value: str) -> str:
    return sql.Literal(value).as_string(None)


@dataclass
class Table:
    name: str  # with its schema, quoted
    columns: dict[str, str]  # quoted names and types
    kind: str = "TABLE"
    settable: set[str] = field(default_factory=set)  # columns that an INSERT may name


@dataclass
class Maker:
    """Makes one database's objects.

    :param roles: roles that the server has, for owners and grants.
    :ivar made: how many objects of each kind there are.
    """

    connection: Connection
    seed: int
    roles: list[str]
    made: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.version = self.connection.info.server_version
        self.schemas = ["public"]
        self.types: list[str] = []
        self.tables: list[Table] = []
        self.functions: list[str] = []
        self.objects: list[str] = []  # for COMMENT ON
        self.number = 0

    def do(self, kind: str, statement: str) -> bool:
        """Run a statement; return whether PostgreSQL took it."""
        try:
            with self.connection.transaction():
                self.connection.execute(statement)
        except psycopg.Error as error:
            self.refused[f"{kind}: {error.diag.message_primary or error}"] += 1
            return False
        self.made[kind] += 1
        return True

    def name(self) -> str:
        self.number += 1
        word = self.chance.choice(_NAMES) if self.chance.random() < 0.5 else "n"
        return quoted(f"{word}{self.number}")

    def qualified(self) -> str:
        return f"{self.chance.choice(self.schemas)}.{self.name()}"

    def maybe(self, likely: float, text: str) -> str:
        return text if self.chance.random() < likely else ""

    def type(self) -> str:
        if self.types and self.chance.random() < 0.2:
            return self.chance.choice(self.types)
        if self.chance.random() < 0.5:
            return self.chance.choice(_COMMON)
        return self.chance.choice(sorted(VALUES.keys() - _NOT_IN_TABLES))

    def value(self, type_name: str) -> str:
        if self.chance.random() < 0.1 or type_name not in VALUES:
            return "NULL" if type_name in VALUES else f"NULL::{type_name}"
        return f"{literal(self.chance.choice(VALUES[type_name]))}::{type_name}"

    # What there is.

    def schema(self) -> None:
        name = self.name()
        owner = self.maybe(0.4, f" AUTHORIZATION {self.chance.choice(self.roles)}")
        if self.do("schema", f"CREATE SCHEMA {name}{owner}"):
            self.schemas.append(name)
            self.objects.append(f"SCHEMA {name}")

    def extension(self) -> None:
        name = self.chance.choice(
            ["hstore", "citext", "pg_trgm", "btree_gist", "ltree", "intarray"]
        )
        schema = self.chance.choice(self.schemas)
        if self.do("extension", f"CREATE EXTENSION {name} SCHEMA {schema}") and name in (
            "hstore",
            "citext",
            "ltree",
        ):
            self.types.append(f"{schema}.{name}")

    def made_type(self) -> None:
        name, kind = self.qualified(), self.chance.choice(["enum", "composite", "domain", "range"])
        base = self.chance.choice(["numeric", "text", "int4", "float8", "timestamp"])
        if kind == "enum":
            labels = ", ".join(literal(f"{word}{n}") for n, word in enumerate(_NAMES[:5]))
            statement = f"CREATE TYPE {name} AS ENUM ({labels})"
        elif kind == "composite":
            columns = ", ".join(f"{self.name()} {self.type()}" for _ in range(3))
            statement = f"CREATE TYPE {name} AS ({columns})"
        elif kind == "domain":
            statement = (
                f"CREATE DOMAIN {name} AS {base}"
                + self.maybe(0.3, f" DEFAULT {self.value(base)}")
                + self.maybe(
                    0.5, f" CONSTRAINT {self.name()} CHECK (VALUE IS NULL OR VALUE = VALUE)"
                )
            )
        else:
            statement = f"CREATE TYPE {name} AS RANGE (SUBTYPE = {base})"
        if self.do(kind, statement):
            self.types.append(name)
            self.objects.append(f"TYPE {name}")
            if kind == "enum":
                self.do("enum value", f"ALTER TYPE {name} ADD VALUE 'late' BEFORE 'plain0'")
            self.maybe_owned("TYPE", name)

    def maybe_owned(self, kind: str, name: str) -> None:
        if self.chance.random() < 0.3:
            role = self.chance.choice(self.roles)
            self.do("owner", f"ALTER {kind} {name} OWNER TO {role}")

    def collation(self) -> None:
        name = self.qualified()
        if self.do("collation", f'CREATE COLLATION {name} FROM "POSIX"'):
            self.objects.append(f"COLLATION {name}")

    def sequence(self) -> None:
        name = self.qualified()
        options = (
            self.maybe(0.3, " AS smallint")
            + self.maybe(0.3, " INCREMENT 3")
            + self.maybe(0.3, " MINVALUE -5 START 7")
            + self.maybe(0.3, " CACHE 10")
            + self.maybe(0.3, " CYCLE")
        )
        temporary = self.maybe(0.1, "UNLOGGED ") if self.version >= 150000 else ""
        if self.do("sequence", f"CREATE {temporary}SEQUENCE {name}{options}"):
            self.objects.append(f"SEQUENCE {name}")
            if self.chance.random() < 0.6:
                self.do("sequence value", f"SELECT nextval({literal(name)})")

    def _column(self) -> tuple[str, str, str, bool]:
        """Return a column's name, type, further words, and whether an INSERT may name it."""
        name, type_name = self.name(), self.type()
        roll = self.chance.random()
        if roll < 0.06:
            return name, "int8", "int8 GENERATED ALWAYS AS IDENTITY", False
        if roll < 0.1:
            return name, "int4", "serial", True
        words = type_name
        if type_name == "text":
            words += self.maybe(0.2, ' COLLATE "C"') + (
                self.maybe(0.1, " COMPRESSION pglz") if self.version >= 140000 else ""
            )
        if type_name in VALUES:
            words += self.maybe(0.2, f" DEFAULT {literal(self.chance.choice(VALUES[type_name]))}")
        if type_name == "timestamptz":
            words = "timestamptz" + self.maybe(0.3, " DEFAULT now()")
        if type_name == "int4" and self.functions and self.chance.random() < 0.3:
            words = f"int4 DEFAULT {self.chance.choice(self.functions)}(1)"
        return name, type_name, words, True

    def table(self) -> None:
        name = self.qualified()
        columns = [self._column() for _ in range(self.chance.randrange(1, 8))]
        parts = [f"{column} {words}" for column, _, words, _ in columns]
        plain = [c[0] for c in columns if c[1] in _HASHED]
        if plain and self.chance.random() < 0.3:
            parts.append(
                f"CONSTRAINT {self.name()} CHECK ({plain[0]} IS NULL OR {plain[0]} = {plain[0]})"
                + self.maybe(0.2, " NO INHERIT")
            )
        numbers = [c[0] for c in columns if c[1] in ("int4", "int8", "numeric")]
        if numbers and self.chance.random() < 0.3:
            parts.append(
                f"{self.name()} numeric GENERATED ALWAYS AS ({numbers[0]}::numeric % 7 + 1) STORED"
            )
        parents = [t for t in self.tables if t.kind == "TABLE"]
        inherits = ""
        if parents and self.chance.random() < 0.15:
            parent = self.chance.choice(parents)
            inherits = f" INHERITS ({parent.name})"
        options = self.maybe(0.2, " WITH (fillfactor = 70, autovacuum_enabled = off)")
        unlogged = self.maybe(0.08, "UNLOGGED ")
        if not self.do(
            "table", f"CREATE {unlogged}TABLE {name} ({', '.join(parts)}){inherits}{options}"
        ):
            return
        table = Table(name, {c[0]: c[1] for c in columns}, "TABLE", {c[0] for c in columns if c[3]})
        self.objects += [f"TABLE {name}", f"COLUMN {name}.{columns[0][0]}"]
        self.tables.append(table)
        if inherits:
            self.made["inheritance"] += 1
        self.maybe_owned("TABLE", name)

    def partitioned(self) -> None:
        name, key = self.qualified(), self.name()
        how = self.chance.choice(["RANGE", "LIST", "HASH"])
        other = self.name()
        if not self.do(
            "partitioned table",
            f"CREATE TABLE {name} ({key} int4, {other} text DEFAULT 'd') PARTITION BY {how} ({key})",
        ):
            return
        table = Table(name, {key: "int4", other: "text"}, "PARTITIONED", {key, other})
        for number in range(3):
            bounds = {
                "RANGE": f"FROM ({number * 10}) TO ({number * 10 + 10})",
                "LIST": f"IN ({number * 3}, {number * 3 + 1})",
                "HASH": f"WITH (MODULUS 3, REMAINDER {number})",
            }[how]
            part = self.qualified()
            if number == 0:
                self.do(
                    "partition of a partition",
                    f"CREATE TABLE {part} PARTITION OF {name} FOR VALUES {bounds} "
                    f"PARTITION BY HASH ({other})",
                ) and self.do(
                    "partition",
                    f"CREATE TABLE {self.qualified()} PARTITION OF {part} "
                    "FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
                )
            elif number == 1 and self.chance.random() < 0.6:
                gone = self.name()
                self.do("table", f"CREATE TABLE {part} ({other} text, {gone} int, {key} int4)")
                self.do("dropped column", f"ALTER TABLE {part} DROP COLUMN {gone}")
                self.do(
                    "attached partition",
                    f"ALTER TABLE {name} ATTACH PARTITION {part} FOR VALUES {bounds}",
                )
            else:
                self.do("partition", f"CREATE TABLE {part} PARTITION OF {name} FOR VALUES {bounds}")
        if how != "HASH":
            self.do(
                "default partition", f"CREATE TABLE {self.qualified()} PARTITION OF {name} DEFAULT"
            )
        self.tables.append(table)
        self.objects.append(f"TABLE {name}")

    def _some_table(self, *kinds: str) -> Table | None:
        tables = [table for table in self.tables if not kinds or table.kind in kinds]
        return self.chance.choice(tables) if tables else None

    def _hashed(self, table: Table) -> list[str]:
        return [name for name, type_name in table.columns.items() if type_name in _HASHED]

    def key(self) -> None:
        table = self._some_table()
        if table is None or not (columns := self._hashed(table)):
            return
        kind = self.chance.choice(["PRIMARY KEY", "UNIQUE"])
        words = self.maybe(0.2, " DEFERRABLE INITIALLY DEFERRED")
        if kind == "UNIQUE" and self.version >= 150000:
            kind += self.maybe(0.2, " NULLS NOT DISTINCT")
        name = self.name()
        some = ", ".join(
            self.chance.sample(columns, min(len(columns), self.chance.randrange(1, 3)))
        )
        if self.do("key", f"ALTER TABLE {table.name} ADD CONSTRAINT {name} {kind} ({some}){words}"):
            self.objects.append(f"CONSTRAINT {name} ON {table.name}")
            if self.chance.random() < 0.3:
                index = f"{table.name.split('.')[0]}.{name}"
                self.do("clustered", f"ALTER TABLE {table.name} CLUSTER ON {name}")
                self.do(
                    "replica identity",
                    f"ALTER TABLE {table.name} REPLICA IDENTITY USING INDEX "
                    + index.rpartition(".")[2],
                )

    def foreign_key(self) -> None:
        table = self._some_table()
        if table is None:
            return
        referenced = self.name()
        other = self.qualified()
        self.do("table", f"CREATE TABLE {other} ({referenced} int8 PRIMARY KEY)")
        column = self.name()
        words = (
            self.maybe(0.3, " ON DELETE CASCADE")
            + self.maybe(0.2, " ON UPDATE SET NULL")
            + self.maybe(0.3, " DEFERRABLE INITIALLY DEFERRED")
            + self.maybe(0.2, " NOT VALID")
        )
        self.do("column added", f"ALTER TABLE {table.name} ADD COLUMN {column} int8")
        self.do(
            "foreign key",
            f"ALTER TABLE {table.name} ADD CONSTRAINT {self.name()} FOREIGN KEY ({column}) "
            f"REFERENCES {other}{words}",
        )

    def check(self) -> None:
        table = self._some_table()
        if table is None or not (columns := self._hashed(table)):
            return
        column = self.chance.choice(columns)
        self.do(
            "check",
            f"ALTER TABLE {table.name} ADD CONSTRAINT {self.name()} CHECK ({column}::text <> 'x' OR "
            f"{column}::text IN ('y', 'z'))" + self.maybe(0.3, " NOT VALID"),
        )

    def exclusion(self) -> None:
        name, column = self.qualified(), self.name()
        self.do(
            "exclusion constraint",
            f"CREATE TABLE {name} ({column} int4range, EXCLUDE USING gist ({column} WITH &&))",
        )

    def index(self) -> None:
        table = self._some_table()
        if table is None or not (columns := self._hashed(table)):
            return
        column = self.chance.choice(columns)
        what = self.chance.choice(
            [
                f"({column})",
                f"({column} DESC NULLS LAST)",
                f"((md5({column}::text)))",
                f"({column}) WHERE {column} IS NOT NULL",
                f"USING hash ({column})",
                f"USING brin ({column})",
                f"({column}) INCLUDE ({self.chance.choice(columns)})",
                f"USING gin (to_tsvector('simple', {column}::text))",
                f'(({column}::text) COLLATE "C" text_pattern_ops)',
            ]
        )
        name = self.name()
        if self.do(
            "index", f"CREATE {self.maybe(0.1, 'UNIQUE ')}INDEX {name} ON {table.name} {what}"
        ):
            schema = table.name.split(".")[0] if '"' not in table.name.split(".")[0] else ""
            if schema:
                self.objects.append(f"INDEX {schema}.{name}")

    def statistics(self) -> None:
        table = self._some_table()
        if table is None or len(columns := self._hashed(table)) < 2:
            return
        name = self.qualified()
        kinds = self.maybe(0.5, " (dependencies, mcv)")
        if self.do(
            "statistics",
            f"CREATE STATISTICS {name}{kinds} ON {columns[0]}, {columns[1]} FROM {table.name}",
        ):
            self.objects.append(f"STATISTICS {name}")

    def dropped_column(self) -> None:
        table = self._some_table("TABLE")
        if table and len(table.columns) > 2:
            column = self.chance.choice(list(table.columns))
            if self.do("dropped column", f"ALTER TABLE {table.name} DROP COLUMN {column}"):
                del table.columns[column]
                table.settable.discard(column)
                self.objects = [o for o in self.objects if o != f"COLUMN {table.name}.{column}"]

    def view(self) -> None:
        table = self._some_table()
        if table is None:
            return
        name = self.qualified()
        column = self.chance.choice(list(table.columns))
        options = self.chance.choice(["", "", " WITH (security_barrier)"])
        if self.version >= 150000:
            options = self.maybe(0.2, " WITH (security_invoker = true)") or options
        query = self.chance.choice(
            [
                f"SELECT t.*, {column}::text || 'x' AS {self.name()} FROM {table.name} AS t",
                f"SELECT {column} AS {self.name()} FROM {table.name} WHERE {column} IS NOT NULL",
                f"SELECT count(*) AS n, max({column}::text) FROM {table.name} GROUP BY {column}::text "
                "HAVING count(*) > 0",
                f"SELECT {column}::text, row_number() OVER (ORDER BY {column}::text) FROM {table.name}",
                f"WITH q AS (SELECT {column}::text AS c FROM {table.name}) SELECT c FROM q "
                "WHERE c IN ('a', 'b') UNION ALL SELECT 'c' ORDER BY 1",
                f"SELECT t.{column}::text, l.n FROM {table.name} t LEFT JOIN LATERAL (SELECT 1 AS n) l "
                "ON true",
            ]
        )
        if self.do("view", f"CREATE VIEW {name}{options} AS {query}"):
            self.objects.append(f"VIEW {name}")
            self.maybe_owned("VIEW", name)
            if self.chance.random() < 0.3:
                self.do("view of a view", f"CREATE VIEW {self.qualified()} AS SELECT * FROM {name}")
        if self.chance.random() < 0.2:
            name = self.name()
            self.do(
                "recursive view",
                f"CREATE RECURSIVE VIEW public.{name} (n) AS VALUES (1) UNION ALL "
                f"SELECT n + 1 FROM {name} WHERE n < 5",
            )

    def materialized_view(self) -> None:
        table = self._some_table()
        if table is None:
            return
        name, column = self.qualified(), self.chance.choice(list(table.columns))
        data = self.maybe(0.3, " WITH NO DATA")
        if self.do(
            "materialized view",
            f"CREATE MATERIALIZED VIEW {name} AS SELECT {column}::text AS c, count(*) AS n "
            f"FROM {table.name} GROUP BY 1{data}",
        ):
            self.objects.append(f"MATERIALIZED VIEW {name}")
            self.do("index of a view", f"CREATE INDEX {self.name()} ON {name} (n)")
            if self.chance.random() < 0.3:
                self.do(
                    "materialized view of one",
                    f"CREATE MATERIALIZED VIEW {self.qualified()} AS SELECT sum(n) FROM {name}{data}",
                )

    def function(self) -> None:
        name = self.qualified()
        words = (
            self.maybe(0.3, " IMMUTABLE")
            + self.maybe(0.2, " SECURITY DEFINER")
            + self.maybe(0.2, " SET search_path = pg_catalog, pg_temp")
            + self.maybe(0.2, " PARALLEL SAFE COST 7")
        )
        head = f"CREATE FUNCTION {name}(i int4) RETURNS int4"
        statement = self.chance.choice(
            [
                f"{head} LANGUAGE sql{words} AS 'SELECT i + 1'",
                f"{head} LANGUAGE plpgsql{words} AS $f$ BEGIN RETURN i * 2; END $f$",
                f"{head} LANGUAGE sql{words} AS E'SELECT i --\\\\ back\\'\\'slash\\n'",
                f"{head} LANGUAGE sql{words} RETURN i + 3"
                if self.version >= 140000
                else f"{head} LANGUAGE sql AS 'SELECT 3'",
            ]
        )
        if self.do("function", statement):
            self.functions.append(name)
            self.objects.append(f"FUNCTION {name}(int4)")
            self.maybe_owned("FUNCTION", f"{name}(int4)")
            if self.chance.random() < 0.4:
                self.do(
                    "overloaded function",
                    f"CREATE FUNCTION {name}(VARIADIC a text[] DEFAULT ARRAY['x''y']) "
                    "RETURNS TABLE (b text, c int) LANGUAGE sql STABLE AS 'SELECT a[1], 1'",
                )
            if self.chance.random() < 0.3:
                self.do(
                    "procedure",
                    f"CREATE PROCEDURE {self.qualified()}(INOUT x int DEFAULT 5) LANGUAGE plpgsql "
                    "AS 'BEGIN x := x + 1; END'",
                )
            if self.chance.random() < 0.2:
                self.do(
                    "aggregate",
                    f"CREATE AGGREGATE {self.qualified()} (int4) (SFUNC = int4pl, STYPE = int4, "
                    "INITCOND = '0', PARALLEL = SAFE)",
                )

    def operator(self) -> None:
        schema, type_name = self.chance.choice(self.schemas), self.qualified()
        if not self.do("composite", f"CREATE TYPE {type_name} AS (a int4)"):
            return
        function = f"{schema}.{self.name()}"
        self.do(
            "function",
            f"CREATE FUNCTION {function}({type_name}, {type_name}) RETURNS bool LANGUAGE sql "
            "IMMUTABLE AS 'SELECT ($1).a < ($2).a'",
        )
        self.do(
            "operator",
            f"CREATE OPERATOR {schema}.<<< (LEFTARG = {type_name}, RIGHTARG = {type_name}, "
            f"FUNCTION = {function}, RESTRICT = scalarltsel)",
        )
        function = f"{schema}.{self.name()}"
        self.do(
            "function",
            f"CREATE FUNCTION {function}({type_name}) RETURNS text LANGUAGE sql IMMUTABLE "
            "AS 'SELECT ($1).a::text'",
        )
        self.do(
            "cast",
            f"CREATE CAST ({type_name} AS text) WITH FUNCTION {function}({type_name})"
            + self.maybe(0.5, " AS ASSIGNMENT"),
        )

    def trigger(self) -> None:
        table = self._some_table()
        if table is None:
            return
        function, name = self.qualified(), self.name()
        self.do(
            "trigger function",
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RETURN NEW; END'",
        )
        when = self.chance.choice(
            [
                f"BEFORE INSERT OR UPDATE ON {table.name} FOR EACH ROW",
                f"AFTER DELETE ON {table.name} REFERENCING OLD TABLE AS o FOR EACH STATEMENT",
                f"AFTER UPDATE OF {self.chance.choice(list(table.columns))} ON {table.name} "
                "FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)",
                f"BEFORE TRUNCATE ON {table.name}",
            ]
        )
        if self.do("trigger", f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {function}('a''b')"):
            self.objects.append(f"TRIGGER {name} ON {table.name}")
            state = self.chance.choice(["", "DISABLE", "ENABLE REPLICA", "ENABLE ALWAYS"])
            if state:
                self.do("trigger state", f"ALTER TABLE {table.name} {state} TRIGGER {name}")
        if self.chance.random() < 0.3:
            self.do(
                "constraint trigger",
                f"CREATE CONSTRAINT TRIGGER {self.name()} AFTER INSERT ON {table.name} DEFERRABLE "
                f"INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {function}()",
            )

    def event_trigger(self) -> None:
        function, name = self.qualified(), self.name()
        self.do(
            "event trigger function",
            f"CREATE FUNCTION {function}() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        )
        event = self.chance.choice(["ddl_command_start", "ddl_command_end", "sql_drop"])
        if self.do(
            "event trigger", f"CREATE EVENT TRIGGER {name} ON {event} EXECUTE FUNCTION {function}()"
        ):
            self.objects.append(f"EVENT TRIGGER {name}")
            if self.chance.random() < 0.3:
                self.do("event trigger state", f"ALTER EVENT TRIGGER {name} DISABLE")

    def rule(self) -> None:
        table = self._some_table("TABLE")
        if table is None:
            return
        name = self.name()
        what = self.chance.choice(
            ["ON DELETE TO {0} WHERE 1 = 2 DO INSTEAD NOTHING", "ON UPDATE TO {0} DO ALSO NOTHING"]
        ).replace("{0}", table.name)
        if self.do("rule", f"CREATE RULE {name} AS {what}"):
            self.objects.append(f"RULE {name} ON {table.name}")

    def policy(self) -> None:
        table = self._some_table()
        if table is None:
            return
        name, role = self.name(), self.chance.choice([*self.roles, "PUBLIC"])
        column = self.chance.choice(list(table.columns))
        if self.do(
            "policy",
            f"CREATE POLICY {name} ON {table.name} {self.maybe(0.3, 'AS RESTRICTIVE ')}FOR "
            f"{self.chance.choice(['ALL', 'SELECT', 'UPDATE'])} TO {role} "
            f"USING ({column}::text <> current_user)",
        ):
            self.objects.append(f"POLICY {name} ON {table.name}")
            self.do("row security", f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY")
            if self.chance.random() < 0.4:
                self.do("row security", f"ALTER TABLE {table.name} FORCE ROW LEVEL SECURITY")

    def publication(self) -> None:
        table = self._some_table()
        name = self.name()
        what = "FOR ALL TABLES"
        if table and self.chance.random() < 0.7:
            what = f"FOR TABLE {table.name}"
            if self.version >= 150000 and self.chance.random() < 0.4:
                what = f"FOR TABLES IN SCHEMA {self.chance.choice(self.schemas)}"
        options = self.maybe(0.4, " WITH (publish = 'insert, truncate')")
        if self.do("publication", f"CREATE PUBLICATION {name} {what}{options}"):
            self.objects.append(f"PUBLICATION {name}")

    def text_search(self) -> None:
        dictionary, configuration = self.qualified(), self.qualified()
        self.do(
            "text search dictionary",
            f"CREATE TEXT SEARCH DICTIONARY {dictionary} (TEMPLATE = simple, STOPWORDS = english)",
        )
        if self.do(
            "text search configuration",
            f"CREATE TEXT SEARCH CONFIGURATION {configuration} (COPY = "
            f"{self.chance.choice(['simple', 'english'])})",
        ):
            self.do(
                "text search mapping",
                f"ALTER TEXT SEARCH CONFIGURATION {configuration} ALTER MAPPING FOR word, asciiword "
                f"WITH {dictionary}, simple",
            )
            self.objects.append(f"TEXT SEARCH CONFIGURATION {configuration}")

    def foreign_data(self) -> None:
        self.do(
            "extension",
            f"CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA {self.chance.choice(self.schemas)}",
        )
        server, role = self.name(), self.chance.choice(self.roles)
        if self.do(
            "foreign server",
            f"CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere', "
            "dbname 'it''s')",
        ):
            self.objects.append(f"SERVER {server}")
            self.do(
                "user mapping", f"CREATE USER MAPPING FOR {role} SERVER {server} OPTIONS (user 'u')"
            )
            self.do(
                "foreign table",
                f"CREATE FOREIGN TABLE {self.qualified()} (a int OPTIONS (column_name 'b'), c text) "
                f"SERVER {server} OPTIONS (table_name 't')",
            )

    def large_object(self) -> None:
        number = self.chance.randrange(100000, 999999)
        if self.do("large object", f"SELECT lo_from_bytea({number}, '\\x00ff{number}')"):
            self.objects.append(f"LARGE OBJECT {number}")
            self.maybe_owned("LARGE OBJECT", str(number))

    def comment(self) -> None:
        if self.objects:
            said = literal(self.chance.choice(["it's", "two\nlines", "back\\slash", "ünï", ";--"]))
            self.do("comment", f"COMMENT ON {self.chance.choice(self.objects)} IS {said}")

    def grant(self) -> None:
        role = self.chance.choice([*self.roles, "PUBLIC"])
        option = self.maybe(0.2, " WITH GRANT OPTION") if role != "PUBLIC" else ""
        table = self._some_table()
        kind = self.chance.choice(
            ["table", "column", "schema", "function", "default", "revoke", "type"]
        )
        if kind == "table" and table:
            self.do("grant", f"GRANT SELECT, UPDATE ON {table.name} TO {role}{option}")
        elif kind == "column" and table:
            column = self.chance.choice(list(table.columns))
            self.do("column grant", f"GRANT UPDATE ({column}) ON {table.name} TO {role}")
        elif kind == "schema":
            self.do(
                "grant",
                f"GRANT USAGE ON SCHEMA {self.chance.choice(self.schemas)} TO {role}{option}",
            )
        elif kind == "function" and self.functions:
            self.do(
                "grant",
                f"REVOKE EXECUTE ON FUNCTION {self.chance.choice(self.functions)}(int4) "
                "FROM PUBLIC",
            )
        elif kind == "type" and self.types:
            self.do("grant", f"REVOKE USAGE ON TYPE {self.chance.choice(self.types)} FROM PUBLIC")
        elif kind == "default":
            where = self.maybe(0.5, f" IN SCHEMA {self.chance.choice(self.schemas)}")
            self.do(
                "default privileges",
                f"ALTER DEFAULT PRIVILEGES{where} GRANT SELECT ON TABLES TO {role}",
            )
        elif kind == "revoke" and table:
            self.do("revoke", f"REVOKE DELETE ON {table.name} FROM CURRENT_USER")

    def setting(self) -> None:
        name = self.connection.info.dbname
        value = self.chance.choice(
            [
                "work_mem = '5MB'",
                "DateStyle = 'SQL, DMY'",
                "search_path = 'a b', public",
                "x.y = 'z'",
            ]
        )
        self.do("database setting", f"ALTER DATABASE {quoted(name)} SET {value}")

    def rows(self) -> None:
        table = self._some_table()
        if table is None or not table.settable:
            return
        columns = [name for name in table.columns if name in table.settable]
        if not columns:
            return
        for _ in range(self.chance.randrange(1, 6)):
            values = ", ".join(
                str(self.chance.randrange(30))
                if table.kind == "PARTITIONED" and table.columns[name] == "int4"
                else self.value(table.columns[name])
                for name in columns
            )
            self.do("row", f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({values})")

    def make(self, objects: int = 90) -> None:
        """Make that many objects, of which the first are needed by others."""
        for _ in range(2):
            self.schema()
        for first in (self.made_type, self.function, self.table, self.table, self.table):
            first()
        kinds: list[Callable[[], None]] = [
            *[self.table] * 4,
            *[self.rows] * 8,
            *[self.comment] * 5,
            *[self.grant] * 4,
            *[self.index] * 3,
            *[self.view] * 3,
            *[self.function] * 2,
            *[self.made_type] * 2,
            *[self.key] * 2,
            self.check,
            self.collation,
            self.dropped_column,
            self.event_trigger,
            self.exclusion,
            self.extension,
            self.foreign_data,
            self.foreign_key,
            self.large_object,
            self.materialized_view,
            self.operator,
            self.partitioned,
            self.policy,
            self.publication,
            self.rule,
            self.schema,
            self.sequence,
            self.setting,
            self.statistics,
            self.text_search,
            self.trigger,
        ]
        for _ in range(objects):
            self.chance.choice(kinds)()
