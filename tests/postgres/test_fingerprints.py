"""Fingerprints see every change that a value's text shows, and nothing that a restore may change."""

from __future__ import annotations

import itertools
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dagster_resil.backup import reading
from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.fingerprints import DIRECT, PACKED, UNSEEN, default_form, read_contents
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import list_tables
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from tests.conftest import Source, owner_session
from tests.taking import take_backup, verify_backup
from tests.values import VALUES, values_of


def fingerprints(connection: Connection, form: str = "identity") -> dict[str, str | None]:
    tables = list_tables(connection)
    found = read_contents(connection, tables, form)  # type: ignore[arg-type]
    return {table.name: found[table.oid].fingerprint for table in tables}


def test_the_list_of_values_is_complete() -> None:
    assert {name.strip('"') for name in VALUES} >= DIRECT.keys() | PACKED.keys()


@pytest.mark.parametrize("form", ["identity", "text"])
@pytest.mark.parametrize("wrapped", ["plain", "domain", "array", "composite"])
def test_every_other_value_shows(source: Source, form: str, wrapped: str) -> None:
    if form == "identity":
        form = default_form(source.major * 10_000)
    endpoint = source.create()
    with owner_session(endpoint) as connection:
        prepare_session(connection)
        connection.execute("CREATE SCHEMA s")
        names: dict[str, list[str]] = {}
        for number, (type_name, values) in enumerate(values_of(source.major).items()):
            column, made = type_name, "{}"
            if wrapped == "domain":
                connection.execute(f"CREATE DOMAIN s.d{number} AS {type_name}")
                column = f"s.d{number}"
            elif wrapped == "array":
                column, made = f"{type_name}[]", "ARRAY[{}]"
            elif wrapped == "composite":
                connection.execute(f"CREATE TYPE s.c{number} AS (a int, v {type_name})")
                column, made = f"s.c{number}", f"ROW(1, {{}})::s.c{number}"
            for row, value in enumerate([*values, None]):
                name = f"t{number}_{row}"
                names.setdefault(type_name, []).append(name)
                literal = sql.Literal(value).as_string(connection) + f"::{type_name}"
                try:
                    connection.execute(f"SELECT {literal}")
                except psycopg.errors.FeatureNotSupported:
                    names[type_name].pop()  # a server without libxml
                    continue
                connection.execute(f"CREATE TABLE s.{name} (v {column})")
                connection.execute(f"INSERT INTO s.{name} VALUES ({made.format(literal)})")
        found = fingerprints(connection, form)
        for type_name, tables in names.items():
            by_table = {name: found[name] for name in tables}
            if wrapped == "array" and type_name.endswith("[]"):
                by_table.pop(tables[-1])  # an empty array and one of no array are one
                by_table.pop(tables[0])
            same = [(a, b) for a, b in itertools.combinations(by_table, 2) if found[a] == found[b]]
            assert not same, (type_name, same)


EXCHANGES = {
    "two rows exchange a value": "UPDATE t SET b = 30 - b WHERE id IN (1, 2)",
    "two rows exchange two values": "UPDATE t SET b = 30 - b, c = 3 - c WHERE id IN (1, 2)",
    "every value moves to the next row": "UPDATE t SET b = 10 + b % 40",
    "two columns exchange their values": "UPDATE t SET b = c, c = b",
    "a value moves to another column": "UPDATE t SET b = NULL, d = b WHERE id = 3",
    "a row twice, another not at all": "DELETE FROM t WHERE id = 4; INSERT INTO t SELECT * FROM t WHERE id = 3",
    "NULL for 0": "UPDATE t SET d = 0 WHERE id = 1",
}


@pytest.mark.parametrize("kind", EXCHANGES)
@pytest.mark.parametrize("form", ["identity", "text"])
def test_an_exchange_shows(one_source: Source, kind: str, form: str) -> None:
    endpoint = one_source.create()
    with owner_session(endpoint) as connection:
        connection.execute("CREATE TABLE t (id int, b int, c int, d int)")
        connection.execute("INSERT INTO t SELECT n, n * 10, n, NULL FROM generate_series(1, 4) n")
        before = fingerprints(connection, form)
        connection.execute(EXCHANGES[kind])
        assert fingerprints(connection, form) != before


def test_order_of_rows_and_columns_does_not_show(one_source: Source) -> None:
    endpoint = one_source.create()
    with owner_session(endpoint) as connection:
        connection.execute("CREATE TABLE t (a int, b text, c date, d bytea)")
        connection.execute("CREATE TABLE u (d bytea, c date, gone int, b text, a int)")
        connection.execute("ALTER TABLE u DROP COLUMN gone")
        connection.execute(
            "INSERT INTO t SELECT n, 'b' || n, date '2020-01-01' + n, n::text::bytea "
            "FROM generate_series(1, 100) n"
        )
        connection.execute("INSERT INTO u SELECT d, c, b, a FROM t ORDER BY a DESC")
        found = fingerprints(connection)
        assert found["t"] == found["u"]


def test_a_nan_is_a_nan(one_source: Source) -> None:
    """Arithmetic makes some with another sign bit, which no text shows and no restore keeps."""
    endpoint = one_source.create()
    with owner_session(endpoint) as connection:
        connection.execute("CREATE TABLE t (a float8, b float4)")
        connection.execute("CREATE TABLE u (LIKE t)")
        connection.execute("INSERT INTO t VALUES ('NaN', 'NaN')")
        connection.execute(
            "INSERT INTO u SELECT v - v, (v - v)::float4 FROM (VALUES (float8 'inf')) AS x (v)"
        )
        found = fingerprints(connection)
        assert found["t"] == found["u"]


@pytest.mark.parametrize("form", ["hash", "identity"])
def test_an_earlier_form_is_verified_and_told(
    one_source: Source, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "default_form", lambda version: form)
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE t (a int, b numeric, c mood, d text)",
        "INSERT INTO t SELECT n, n, 'ok', 'd' FROM generate_series(1, 100) n",
    )
    vault = open_vault((tmp_path / "vault").as_uri())
    manifest = take_backup(endpoint, vault, name="app")
    assert manifest.expectations.fingerprint == form
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks
    assert (UNSEEN["hash"] in receipt.not_checked) == (form == "hash")
