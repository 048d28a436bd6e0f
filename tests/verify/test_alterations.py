"""A change of one value, at random, of every type there is: what COPY shows, a fingerprint sees.

The judge is the text that COPY writes of a table, which is what a dump holds and an application
reads. If the rows' texts are others than before, the fingerprint has to be another; if they are
the same, it has to be the same. RESIL_TEST_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dagster_resil.backup.settings import Comparison
from dagster_resil.demo.damage import LocalBackup
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.fingerprints import FingerprintForm, default_form, read_contents
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import list_tables
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from tests.conftest import Source, owner_session
from tests.graft import graft
from tests.taking import in_parts, take_backup, verify_backup
from tests.values import MADE, NO_INPUT, OF_EXTENSIONS, values_of

SEED = int(os.environ.get("RESIL_TEST_SEED") or random.SystemRandom().getrandbits(32))
ROWS = 5
ALTERATIONS = 700  # of each version, in each form


def made_types(connection: Connection) -> dict[str, list[str]]:
    """Make what types this server can have, in a schema s; return their values."""
    connection.execute("CREATE SCHEMA s")
    values = dict(values_of(connection.info.server_version // 10_000))
    for extension, types in OF_EXTENSIONS.items():
        try:
            connection.execute(f"CREATE EXTENSION {extension} SCHEMA s")
        except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported):
            continue
        values |= {f"s.{name}": some for name, some in types.items()}
    for name, (statements, some) in MADE.items():
        try:
            for statement in statements:
                connection.execute(statement)
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedObject):
            continue  # a server without ICU
        values[name] = some
    return {name: some for name, some in values.items() if _is_read(connection, name, some[0])}


def _is_read(connection: Connection, name: str, value: str) -> bool:
    try:
        connection.execute(f"SELECT {literal(value)}::{name}")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedObject):
        return False  # without libxml; without what could not be made above
    return True


def literal(value: str | None) -> str:
    return "NULL" if value is None else sql.Literal(value).as_string(None)


@dataclass
class Table:
    """A table of some types' columns, of which most types have two."""

    name: str
    types: list[str]  # of the columns c0, c1, …

    def rows(self, connection: Connection) -> Counter[bytes]:
        with connection.cursor().copy(f"COPY s.{self.name} TO STDOUT") as copy:
            return Counter(bytes(row) for row in copy)


Alter = Callable[[random.Random, Table, dict[str, list[str]]], str]


def _set(row: int, **columns: str) -> str:
    """Return the statement that changes a row; rows are found by where they lie."""
    changes = ", ".join(f"{name} = {value}" for name, value in columns.items())
    return f"UPDATE {{table}} SET {changes} WHERE ctid = '(0,{row + 1})'"


def one_value(chance: random.Random, table: Table, values: dict[str, list[str]]) -> str:
    column = chance.randrange(len(table.types))
    name = table.types[column]
    value = chance.choice([*values[name], None])
    return _set(chance.randrange(ROWS), **{f"c{column}": f"{literal(value)}::{name}"})


def exchange_between_rows(chance: random.Random, table: Table, _: object) -> str:
    one, other = chance.sample(range(ROWS), 2)
    column = f"c{chance.randrange(len(table.types))}"
    return (
        f"UPDATE {{table}} AS t SET {column} = o.{column} FROM {{table}} AS o WHERE (t.ctid, o.ctid) "
        f"IN (('(0,{one + 1})', '(0,{other + 1})'), ('(0,{other + 1})', '(0,{one + 1})'))"
    )


def every_value_to_the_next_row(chance: random.Random, table: Table, _: object) -> str:
    column = f"c{chance.randrange(len(table.types))}"
    pairs = ", ".join(f"('(0,{n + 1})', '(0,{(n + 1) % ROWS + 1})')" for n in range(ROWS))
    return (
        f"UPDATE {{table}} AS t SET {column} = o.{column} FROM {{table}} AS o "
        f"WHERE (t.ctid, o.ctid) IN ({pairs})"
    )


def _two_of_a_type(chance: random.Random, table: Table) -> tuple[str, str]:
    while True:
        one, other = chance.sample(range(len(table.types)), 2)
        if table.types[one] == table.types[other]:
            return f"c{one}", f"c{other}"


def exchange_between_columns(chance: random.Random, table: Table, _: object) -> str:
    one, other = _two_of_a_type(chance, table)
    return _set(chance.randrange(ROWS), **{one: other, other: one})


def move_to_another_column(chance: random.Random, table: Table, _: object) -> str:
    one, other = _two_of_a_type(chance, table)
    return _set(chance.randrange(ROWS), **{one: other, other: "NULL"})


def one_row_twice_and_another_gone(chance: random.Random, table: Table, _: object) -> str:
    one, other = chance.sample(range(ROWS), 2)
    return (
        f"INSERT INTO {{table}} SELECT * FROM {{table}} WHERE ctid = '(0,{one + 1})'; "
        f"DELETE FROM {{table}} WHERE ctid = '(0,{other + 1})'"
    )


ALTER: list[Alter] = [
    *[one_value] * 5,
    exchange_between_rows,
    every_value_to_the_next_row,
    exchange_between_columns,
    move_to_another_column,
    one_row_twice_and_another_gone,
]


def fill(
    connection: Connection, chance: random.Random, values: dict[str, list[str]], prefix: str = "t"
) -> Iterator[Table]:
    """Make tables of a few types each, until every type is in one."""
    names = sorted(values)
    chance.shuffle(names)
    for number, first in enumerate(range(0, len(names), 3)):
        types = [name for name in names[first : first + 3] for _ in range(2)]
        table = Table(f"{prefix}{number}", types)
        columns = ", ".join(f"c{n} {name}" for n, name in enumerate(types))
        connection.execute(f"CREATE TABLE s.{table.name} ({columns})")
        for _ in range(ROWS):
            row = ", ".join(
                f"{literal(chance.choice([*values[name], None]))}::{name}" for name in types
            )
            connection.execute(f"INSERT INTO s.{table.name} VALUES ({row})")
        yield table


@pytest.fixture
def connection(source: Source) -> Iterator[Connection]:
    with owner_session(source.create()) as session:
        prepare_session(session)
        yield session


def test_every_type_is_there(connection: Connection) -> None:
    """A new version's new type has to be thought about."""
    types = {
        row[0]
        for row in connection.execute(
            "SELECT typname FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typcategory <> 'A' "
            "AND typnamespace = 'pg_catalog'::regnamespace OR typname IN ('int2vector', "
            "'oidvector')"
        )
    }
    names = {
        row[0]
        for name in values_of(connection.info.server_version // 10_000)
        if not name.endswith("[]")
        for row in connection.execute(f"SELECT typname FROM pg_type WHERE oid = '{name}'::regtype")
    }
    assert types - names <= NO_INPUT
    for name in types - names:
        with pytest.raises(psycopg.Error, match=r"cannot accept a value of|not implemented"):
            connection.execute(f"SELECT 'a'::{name}")


def test_every_value_is_another_by_its_text(connection: Connection) -> None:
    for name, some in made_types(connection).items():
        connection.execute(f"CREATE TABLE s.one (c {name})")
        for value in some:
            connection.execute(f"INSERT INTO s.one VALUES ({literal(value)})")
        assert max(Table("one", [name]).rows(connection).values()) == 1, name
        connection.execute("DROP TABLE s.one")


@pytest.mark.parametrize("form", ["identity", "text"])
def test_no_change_escapes_and_nothing_else_shows(
    connection: Connection, form: FingerprintForm
) -> None:
    if form == "identity":
        form = default_form(connection.info.server_version)
    chance = random.Random(SEED)
    values = made_types(connection)
    tables = list(fill(connection, chance, values))
    relations = {relation.name: relation for relation in list_tables(connection)}
    changed = 0
    with connection.transaction(force_rollback=True):
        for number in range(ALTERATIONS):
            table = tables[number % len(tables)]
            relation = relations[table.name]
            alter = chance.choice(ALTER)
            statement = alter(chance, table, values).replace("{table}", f"s.{table.name}")
            before = table.rows(connection)
            content = read_contents(connection, [relation], form)[relation.oid]
            with connection.transaction(force_rollback=True):
                connection.execute(statement)
                after = table.rows(connection)
                altered = read_contents(connection, [relation], form)[relation.oid]
            assert altered.rows == content.rows == ROWS
            assert (before != after) == (content.fingerprint != altered.fingerprint), (
                f"seed {SEED}, alteration {number}, form {form}, types {table.types}: {statement}\n"
                f"{before - after}\n{after - before}"
            )
            changed += before != after
    assert changed > ALTERATIONS / 2


# 665 tables a version are about 2,000 alterations for each way of comparing.
@pytest.mark.parametrize("rounds", [1, pytest.param(19, marks=pytest.mark.long)])
@pytest.mark.parametrize("compare", ["contents", "text"])
def test_the_tables_of_an_archive_that_were_changed_are_named(
    source: Source, tmp_path: Path, compare: Comparison, rounds: int
) -> None:
    chance = random.Random(SEED)
    endpoint = source.create()
    with owner_session(endpoint) as session:
        prepare_session(session)
        values = made_types(session)
        tables = [
            table
            for number in range(rounds)
            for table in fill(session, chance, values, f"t{number}_")
        ]
        good = taken(endpoint, tmp_path / "good", compare)
        changed = set()
        for table in tables:
            before = table.rows(session)
            statement = chance.choice(ALTER)(chance, table, values)
            session.execute(statement.replace("{table}", f"s.{table.name}"))
            if table.rows(session) != before:
                changed.add(table.name)
    lie = graft(good, taken(endpoint, tmp_path / "other", compare), tmp_path / "lie")

    assert verify_backup(open_vault(good.vault.as_uri()), good.reload()).verdict is Verdict.PASS
    receipt = verify_backup(open_vault(lie.vault.as_uri()), lie.reload())

    assert receipt.verdict is Verdict.FAIL
    assert receipt.check("row_counts_match").verdict is Verdict.PASS
    named = {table.name for table in receipt.tables if table.verdict is Verdict.FAIL}
    assert named == changed, f"seed {SEED}: {named ^ changed}"


def taken(endpoint: Endpoint, vault: Path, compare: Comparison) -> LocalBackup:
    settings = in_parts(compare=compare, accept_new_source=True)
    manifest = take_backup(endpoint, open_vault(vault.as_uri()), name="app", settings=settings)
    return LocalBackup(vault, manifest)


# Each is a kind that a type, a collation or a sum takes for no change.
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "two rows exchange a value": (
        ("(id int, a text, b numeric)", "SELECT n, 'a' || n, n FROM generate_series(1, 40) n"),
        "SET a = CASE id WHEN 3 THEN 'a7' ELSE 'a3' END WHERE id IN (3, 7)",
    ),
    "three rows exchange a value": (
        ("(id int, at timestamptz)", "SELECT n, to_timestamp(n) FROM generate_series(1, 40) n"),
        "SET at = to_timestamp(1 + id % 3) WHERE id <= 3",
    ),
    "pairs exchange two values": (
        ("(id int, a int8, b int8)", "SELECT n, n % 2, n % 3 FROM generate_series(1, 40) n"),
        "SET a = 1 - a WHERE id <= 20",
    ),
    "two columns exchange values": (
        (
            "(id int, a uuid, b uuid)",
            "SELECT n, md5(n::text)::uuid, md5((n + 1)::text)::uuid FROM generate_series(1, 40) n",
        ),
        "SET a = b, b = a WHERE id = 5",
    ),
    "case in citext": (("(id int, a s.citext)", "VALUES (1, 'Otto')"), "SET a = 'otto'"),
    "case in an array of citext": (("(a s.citext[])", "VALUES ('{Otto}')"), "SET a = '{otto}'"),
    "case in a domain over citext": (("(a s.ci_domain)", "VALUES ('Otto')"), "SET a = 'OTTO'"),
    "case in a range of citext": (("(a s.ci_range)", "VALUES ('[a,b)')"), "SET a = '[A,b)'"),
    "an array's lower bound": (("(a int[])", "VALUES ('{1,2}')"), "SET a = '[0:1]={1,2}'"),
    "a lower bound of text": (("(a text[])", "VALUES ('{a}')"), "SET a = '[7:7]={a}'"),
    "an array's dimensions": (("(a int[])", "VALUES ('{1,2}')"), "SET a = '{{1,2}}'"),
    "a lower bound in a composite": (
        ("(a s.boxed)", "VALUES ('(\"{1,2}\")')"),
        "SET a = '(\"[0:1]={1,2}\")'",
    ),
    "a key moves to the object beside it": (
        ("(j jsonb)", """VALUES ('{"a": {"x": 1}, "b": {}}')"""),
        """SET j = '{"a": {}, "b": {"x": 1}}'""",
    ),
    "an element moves to the array beside it": (
        ("(j jsonb)", "VALUES ('[[1,2],[3]]')"),
        "SET j = '[[1],[2,3]]'",
    ),
    "a number's scale in jsonb": (("(j jsonb)", "VALUES ('[1.0]')"), "SET j = '[1]'"),
    "a key moves out of its object": (
        ("(j jsonb)", """VALUES ('{"a": {"b": 1, "c": 2}}')"""),
        """SET j = '{"a": {"b": 1}, "c": 2}'""",
    ),
    "a jsonb in an array": (
        ("(j jsonb[])", """VALUES (ARRAY['{"a": {"x": 1}, "b": {}}'::jsonb])"""),
        """SET j = ARRAY['{"a": {}, "b": {"x": 1}}'::jsonb]""",
    ),
    "case under a collation": (("(a text COLLATE s.ci)", "VALUES ('Otto')"), "SET a = 'otto'"),
    "case in a composite's field": (("(a s.named)", "VALUES ('(1,Otto)')"), "SET a = '(1,otto)'"),
    "case in an array of composites": (
        ("(a s.named[])", "VALUES (ARRAY[ROW(1, 'Otto')::s.named])"),
        "SET a = ARRAY[ROW(1, 'otto')::s.named]",
    ),
    "case in a composite's composite": (
        ("(a s.naming)", "VALUES (ROW(ROW(1, 'Otto'), 2)::s.naming)"),
        "SET a = ROW(ROW(1, 'OTTO'), 2)::s.naming",
    ),
    "a number's scale": (("(n numeric)", "VALUES (1.0)"), "SET n = 1.00"),
    "a number's sign": (("(n numeric)", "VALUES (1.5)"), "SET n = -1.5"),
    "minus zero": (("(n float8)", "VALUES ('0')"), "SET n = '-0'"),
    "an interval's form": (("(i interval)", "VALUES ('1 month')"), "SET i = '30 days'"),
    "a range's bound": (("(r numrange)", "VALUES ('[1,2)')"), "SET r = '[1.0,2)'"),
    "a padded text": (("(c bpchar)", "VALUES ('a')"), "SET c = 'a '"),
    "a moment's zone": (("(t timetz)", "VALUES ('00:00+00')"), "SET t = '01:00+01'"),
    "a box of the same area": (("(b box)", "VALUES ('(1,1),(0,0)')"), "SET b = '(3,1),(2,0)'"),
}
PREPARED = (
    "CREATE SCHEMA s",
    "CREATE EXTENSION citext SCHEMA s",
    "CREATE DOMAIN s.ci_domain AS s.citext",
    "CREATE TYPE s.ci_range AS RANGE (SUBTYPE = s.citext)",
    "CREATE TYPE s.boxed AS (a int[])",
)
PREPARED_BY_ICU = (
    "CREATE COLLATION s.ci (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false)",
    "CREATE TYPE s.named AS (id int, name text COLLATE s.ci)",
    "CREATE TYPE s.naming AS (n s.named, i int)",
)


@pytest.mark.parametrize("compare", ["contents", "text", "counts"])
def test_a_restored_database_with_other_values_fails(
    source: Source, tmp_path: Path, compare: Comparison
) -> None:
    """The manifest is of one state, the archive of another; every checksum fits.

    Half of the tables are as they were, and none of them is named.
    """
    endpoint = source.create()
    source.execute(endpoint, *PREPARED)
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # a server without ICU
        source.execute(endpoint, *PREPARED_BY_ICU)
    altered: dict[str, str] = {}
    for number, ((columns, rows), change) in enumerate(KINDS.values()):
        with contextlib.suppress(psycopg.errors.UndefinedObject):
            for table in (f"same{number}", f"t{number}"):
                source.execute(
                    endpoint, f"CREATE TABLE s.{table} {columns}", f"INSERT INTO s.{table} {rows}"
                )
            altered[f"t{number}"] = change
    assert len(altered) in (len(KINDS), len(KINDS) - 4)
    good = taken(endpoint, tmp_path / "good", compare)
    for table, change in altered.items():
        source.execute(endpoint, f"UPDATE s.{table} {change}")
    lie = graft(good, taken(endpoint, tmp_path / "other", compare), tmp_path / "lie")

    receipt = verify_backup(open_vault(lie.vault.as_uri()), lie.reload())

    found = receipt.check("contents_match")
    assert receipt.check("archive_intact").verdict is Verdict.PASS
    assert receipt.check("row_counts_match").verdict is Verdict.PASS
    if compare == "counts":
        assert found.verdict is not Verdict.PASS
        return
    assert receipt.verdict is Verdict.FAIL
    named = {table.name for table in receipt.tables if table.verdict is Verdict.FAIL}
    assert named == set(altered), {
        list(KINDS)[int(table[1:])] for table in set(altered) ^ named if table[0] == "t"
    }
