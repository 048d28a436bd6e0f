from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import psycopg
import pytest
from psycopg import sql

from dagster_resil.demo.databases import DemoFailed, create_database, load
from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.process import run
from tests.conftest import Source, owner_session

Which = Literal["shop", "hostile"]
SCALE = 0.01
TABLES = """
SELECT nspname, relname,
       array(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
"""
LARGE_OBJECTS = """
SELECT oid::text, lomowner::regrole::text, lomacl::text, md5(lo_get(oid))
FROM pg_largeobject_metadata
"""
# Each database says something else about how values are written; the comparison must not hear it.
SESSION = """
SET search_path = ''; SET timezone = 'UTC'; SET DateStyle = ISO; SET IntervalStyle = postgres;
SET extra_float_digits = 3; SET bytea_output = hex; SET statement_timeout = 0
"""


def _contents(endpoint: Endpoint) -> dict[tuple[str, ...], tuple[object, ...]]:
    """Return what is in a database, in a form of this test's own: rows as text, sorted."""
    found: dict[tuple[str, ...], tuple[object, ...]] = {}
    with owner_session(endpoint) as connection:
        connection.execute(SESSION)
        for schema, name, columns in connection.execute(TABLES).fetchall():
            row = sql.SQL(", ").join(sql.Identifier("the row", column) for column in columns)
            query = sql.SQL(
                "SELECT count(*), md5(string_agg(v, '' ORDER BY v)) FROM ("
                'SELECT md5(ROW({})::text) AS v FROM ONLY {} AS "the row") AS "rows"'
            ).format(row, sql.Identifier(schema, name))
            found["table", schema, name] = _one(connection, query)
        for kind, text in (
            ("sequence", "SELECT schemaname, sequencename, last_value FROM pg_sequences"),
            ("matview", "SELECT schemaname, matviewname, ispopulated FROM pg_matviews"),
            ("large object", LARGE_OBJECTS),
        ):
            for first, second, *rest in connection.execute(text).fetchall():
                found[kind, first, second] = tuple(rest)
    return found


def _one(connection: Connection, query: str | sql.Composed) -> tuple[object, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def _loaded(source: Source, which: Which) -> Endpoint:
    endpoint = source.create()
    load(endpoint, source.programs, which, scale=SCALE)
    return endpoint


@pytest.mark.parametrize("which", ["shop", "hostile"])
def test_two_loads_are_equal(source: Source, which: Which) -> None:
    first, second = (_contents(_loaded(source, which)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("which", ["shop", "hostile"])
def test_it_survives_the_stock_tools(own_clients: Source, which: Which, tmp_path: Path) -> None:
    source = own_clients
    endpoint = _loaded(source, which)
    restored = source.create()
    archive = tmp_path / "archive"

    dump = run(
        [
            source.programs.path("pg_dump"),
            "--format=directory",
            "--jobs=2",
            f"--file={archive}",
            *endpoint.child_arguments(),
        ],
        env=endpoint.child_environment(),
    )
    restore = run(
        [
            source.programs.path("pg_restore"),
            "--exit-on-error",
            "--jobs=2",
            *restored.child_arguments(),
            archive,
        ],
        env=restored.child_environment(),
    )

    assert (dump.returncode, dump.stderr) == (0, "")
    assert (restore.returncode, restore.stderr) == (0, "")
    assert _contents(restored) == _contents(endpoint)


def test_the_whole_shop_is_about_100_mb(one_source: Source) -> None:
    endpoint = one_source.create()

    load(endpoint, one_source.programs, "shop")

    with owner_session(endpoint, autocommit=False) as connection:
        (size_bytes,) = _one(connection, "SELECT pg_database_size(current_database())")
    assert isinstance(size_bytes, int)
    assert 90e6 < size_bytes < 130e6


def test_every_kind_of_thing_is_in_the_shop(one_source: Source) -> None:
    endpoint = _loaded(one_source, "shop")

    with owner_session(endpoint, autocommit=False) as connection:
        (kinds,) = _one(
            connection,
            "SELECT array_agg(DISTINCT relkind::text) FROM pg_class "
            "WHERE relowner = 'shop_app'::regrole",
        )
        (default_part,) = _one(connection, "SELECT count(*) FROM events_other")
        owner = _one(
            connection,
            "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()",
        )
    assert isinstance(kinds, list)
    assert set(kinds) - {"t"} == {"r", "p", "i", "I", "v", "m", "S", "c"}
    assert default_part
    assert owner == ("shop_app",)


def test_the_shop_works(one_source: Source) -> None:
    endpoint = _loaded(one_source, "shop")

    with owner_session(endpoint, autocommit=False) as connection:
        connection.execute("SET ROLE shop_app")
        connection.execute("DELETE FROM order_items WHERE order_id = 7")
        connection.execute(
            "INSERT INTO order_items (order_id, product_id, quantity, unit_price)"
            " VALUES (7, 1000, 2, 350), (7, 1001, 1, 50)"
        )
        total = _one(connection, "SELECT total, order_total(id) FROM orders WHERE id = 7")
        connection.execute("INSERT INTO orders (customer_id) VALUES (1)")
    assert total == (750, 750)


def test_the_reader_may_only_read(one_source: Source) -> None:
    endpoint = _loaded(one_source, "shop")

    with owner_session(endpoint, autocommit=False) as connection:
        connection.execute("SET ROLE shop_reader")
        connection.execute("SELECT count(*) FROM reporting.open_orders")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT email FROM customers")


@pytest.mark.parametrize("which", ["shop", "hostile"])
def test_the_name_of_the_database_may_be_odd(source: Source, which: Which) -> None:
    name = f"odd \"{which}\" %s \\ 'name' 🐘"
    source.databases.append(name)
    create_database(source.server.endpoint(), name)
    endpoint = source.server.endpoint(name)

    load(endpoint, source.programs, which, scale=SCALE)

    with owner_session(endpoint, autocommit=False) as connection:
        assert _one(connection, "SHOW timezone") == (
            ("UTC",) if which == "shop" else ("Asia/Kathmandu",)
        )


def test_a_database_that_is_there_is_not_made_again(one_source: Source) -> None:
    endpoint = one_source.create("there")

    with pytest.raises(psycopg.errors.DuplicateDatabase):
        create_database(endpoint, "there")


def test_psqls_words_reach_the_caller(one_source: Source) -> None:
    endpoint = _loaded(one_source, "shop")

    with pytest.raises(DemoFailed, match="already exists") as raised:
        load(endpoint, one_source.programs, "shop", scale=SCALE)

    assert one_source.server.password not in str(raised.value)
    assert "hint: it has to be empty" in str(raised.value)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_without_sense_is_refused(one_source: Source, scale: float) -> None:
    with pytest.raises(ConfigurationError, match="makes no database"):
        load(one_source.server.endpoint(), one_source.programs, "shop", scale=scale)


def test_no_password_is_packaged() -> None:
    folder = Path(__file__).parents[2] / "dagster_resil" / "demo"
    for name in ("shop.sql", "hostile.sql"):
        assert not re.search("(?i)password", _code((folder / name).read_text()))


def _code(script: str) -> str:
    return re.sub("(?m)^--.*$", "", script)
