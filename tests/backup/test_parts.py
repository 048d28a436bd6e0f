"""Which rows go into which part: every row into one, whatever the table is like."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from psycopg import sql

from dagster_resil.backup import parts, snapshot
from dagster_resil.backup.parts import Part, cut, to_read_in_parts
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.tables import Relation, list_tables
from dagster_resil.records.manifest import Manifest, Table
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from tests.conftest import Source, owner_session
from tests.taking import in_parts, take_backup, verify_backup

PART_BYTES = 1 << 15


def a_table(*, pages: int, bytes: int | None = None, **more: object) -> Relation:
    fields: dict[str, object] = {
        "oid": 16384,
        "schema": "public",
        "name": "t",
        "file_node": 1,
        "bytes": pages * 8192 if bytes is None else bytes,
        "extension": None,
        "readable": True,
        "row_security": False,
        "columns": (),
        "pages": pages,
        "stored": ("a",),
    }
    return Relation(**(fields | more))  # type: ignore[arg-type]


def assert_every_page_is_in_one(found: list[Part], pages: int) -> None:
    assert [part.number for part in found] == list(range(len(found)))
    assert {part.count for part in found} == {len(found)}
    assert [part.is_last for part in found] == [False] * (len(found) - 1) + [True]
    # Open below and above; each begins where the one before ends, and none is empty.
    assert found[0].pages[0] is None
    assert found[-1].pages[1] is None
    edges = [0, *(part.pages[1] for part in found[:-1]), pages]
    assert [part.pages[0] for part in found[1:]] == edges[1:-1]
    assert all(low < high for low, high in pairwise(edges)) or pages == 0  # type: ignore[operator]
    names = [part.object_name for part in found]
    assert names == sorted(set(names))


def test_ranges_follow_on_one_another_for_any_size() -> None:
    chance = random.Random(3)
    sizes = [(0, 0, 1), (1, 8192, 1), (1, 10**12, 1), (2, 8192 * 2, 8192), (10_000, 10**9, 1)]
    for _ in range(300):
        pages = chance.choice((0, 1, 2, 3, chance.randrange(1, 200), chance.randrange(1, 10**5)))
        toast = chance.choice((0, 0, 10, 10**9))
        sizes.append(
            (pages, pages * 8192 + toast, chance.choice((1, 8191, 8193, 1 << 16, 1 << 26)))
        )
    for pages, size, part_bytes in sizes:
        found = cut(a_table(pages=pages, bytes=size), part_bytes=part_bytes, server_version=150000)
        assert 1 <= len(found) <= max(1, pages)
        assert len(found) <= 9_999
        assert_every_page_is_in_one(found, pages)


def test_no_more_parts_than_names_for_them() -> None:
    found = cut(a_table(pages=10**7), part_bytes=1, server_version=150000)
    assert len(found) == 9_999
    assert found[-1].object_name.endswith(".dat.gz.9998")


def test_a_size_is_kept_roughly() -> None:
    found = cut(a_table(pages=1000), part_bytes=100 * 8192, server_version=150000)
    assert len(found) == 10
    assert {part.bytes for part in found} == {100 * 8192}


@pytest.mark.parametrize(
    ("table", "server_version"),
    [
        (a_table(pages=1000), 130000),
        # An access method other than heap says 0 pages.
        (a_table(pages=0, bytes=10**9), 150000),
    ],
)
def test_what_has_no_ranges_is_read_whole(table: Relation, server_version: int) -> None:
    (part,) = cut(table, part_bytes=1 << 20, server_version=server_version)
    assert part.pages == (None, None)
    assert part.is_last
    assert part.object_name == "archive/table_16384.dat.gz"


def test_what_is_left_to_pg_dump_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LEFT_BYTES", 5000)
    tables = [a_table(pages=0, bytes=n * 100, oid=n) for n in range(1, 20)]
    chosen = to_read_in_parts(tables, small_bytes=1000)
    left = [table for table in tables if table not in chosen]
    assert sum(table.bytes for table in left) <= 5000
    assert all(table.bytes <= 1000 for table in left)
    assert [table.bytes for table in chosen] == sorted((t.bytes for t in chosen), reverse=True)


@pytest.mark.parametrize(
    "only_pg_dump_can",
    [{"readable": False}, {"extension": "e"}, {"stored": ()}, {"moves_within": ("public", "p")}],
)
def test_what_only_pg_dump_can_read_is_left_to_it(only_pg_dump_can: dict[str, object]) -> None:
    table = replace(a_table(pages=10**6), **only_pg_dump_can)  # type: ignore[arg-type]
    assert to_read_in_parts([table], small_bytes=0) == []


# --- real tables -------------------------------------------------------------------------------


def taken(endpoint: Endpoint, vault: Vault) -> Manifest:
    return take_backup(endpoint, vault, name="odd", settings=in_parts(part_bytes=PART_BYTES))


def assert_passes(vault: Vault, manifest: Manifest) -> None:
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks


def table_of(manifest: Manifest, name: str) -> Table:
    return next(table for table in manifest.tables if table.name == name)


def parts_of(manifest: Manifest, name: str) -> int:
    return sum(".dat.gz." in part for part in table_of(manifest, name).parts)


@pytest.mark.parametrize("seen", ["half", "one page", "more than there are"])
def test_rows_beyond_the_pages_that_were_seen_are_read(
    one_source: Source, vault: Vault, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """A table may have grown, or shrunk, since its size was looked at."""
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE t (a text)",
        "INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 4000)",
    )

    def pages(now: int) -> int:
        return {"half": now // 2, "one page": 1, "more than there are": now * 3}[seen]

    def look(connection: Connection) -> list[Relation]:
        return [replace(table, pages=pages(table.pages)) for table in list_tables(connection)]

    monkeypatch.setattr(snapshot, "list_tables", look)
    manifest = taken(endpoint, vault)

    assert manifest.rows == 4000
    assert parts_of(manifest, "t") == (0 if seen == "one page" else pytest.approx(63, abs=5))
    assert_passes(vault, manifest)


FILLED = "SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 3000) n"
TABLES = {
    "t": ["CREATE TABLE t (a int, b text)", f"INSERT INTO t {FILLED}"],
    "all rows deleted": [
        'CREATE TABLE "all rows deleted" (a int, b text)',
        f'INSERT INTO "all rows deleted" {FILLED}',
        'DELETE FROM "all rows deleted"',
    ],
    "holes": [
        "CREATE TABLE holes (a int, b text)",
        f"INSERT INTO holes {FILLED}",
        "DELETE FROM holes WHERE a % 7 > 0",
        "UPDATE holes SET a = -a WHERE a % 3 = 0",
    ],
    "toasted": [
        "CREATE TABLE toasted (a int, b text)",
        "ALTER TABLE toasted ALTER b SET STORAGE EXTERNAL",
        "INSERT INTO toasted SELECT n, repeat('t' || n, 2000) FROM generate_series(1, 200) n",
    ],
    "generated": [
        "CREATE TABLE generated (a int, b text, c int GENERATED ALWAYS AS (a * 2) STORED)",
        f"INSERT INTO generated (a, b) {FILLED}",
    ],
    "dropped": [
        "CREATE TABLE dropped (x int, a int, y text, b text)",
        f"INSERT INTO dropped (a, b) {FILLED}",
        "ALTER TABLE dropped DROP x, DROP y, ADD z int DEFAULT 7",
    ],
    "parent": [
        "CREATE TABLE parent (a int, b text)",
        "CREATE TABLE child (c int) INHERITS (parent)",
        "ALTER TABLE parent ADD d int DEFAULT 4",  # behind c in the child
        f"INSERT INTO parent {FILLED}",
        f"INSERT INTO child {FILLED}",
    ],
    "unlogged": [
        "CREATE UNLOGGED TABLE unlogged (a int, b text)",
        f"INSERT INTO unlogged {FILLED}",
    ],
    "leaf_1": [
        "CREATE TABLE p (a int, b text) PARTITION BY RANGE (a)",
        "CREATE TABLE leaf_1 PARTITION OF p FOR VALUES FROM (0) TO (2000)",
        # Its columns are in another order than its parent's.
        "CREATE TABLE leaf_2 (b text, a int)",
        "ALTER TABLE p ATTACH PARTITION leaf_2 FOR VALUES FROM (2000) TO (9999)",
        f"INSERT INTO p {FILLED}",
    ],
    "CTID": [
        'CREATE TABLE "CTID" ("CTID" int, "ctid " text, "Ctid""" int DEFAULT 3)',
        f'INSERT INTO "CTID" {FILLED}',
    ],
    "ctid": ["CREATE TABLE ctid (a int, b text)", f"INSERT INTO ctid {FILLED}"],
    "q\"uo'te\n\\n%s %(a)s {} :x \t.0001": [
        'CREATE TABLE "q""uo\'te\n\\n%s %(a)s {{}} :x \t.0001" ("c""\n\\.%s{{}}" int, ":b" text)'.format(),
        'INSERT INTO "q""uo\'te\n\\n%s %(a)s {{}} :x \t.0001" '.format() + FILLED,
    ],
    "marks": [
        "CREATE TABLE marks (a text)",
        "INSERT INTO marks SELECT (ARRAY['\\.', '', NULL, E'\\\\.\\n', E'\\n', '\\', '\\N'])[1 + n % 7] "
        "FROM generate_series(1, 9000) n",
    ],
    "nulls": [
        "CREATE TABLE nulls (a text)",
        "INSERT INTO nulls SELECT NULL FROM generate_series(1, 9000) n",
    ],
    "other": [
        "CREATE ACCESS METHOD other_heap TYPE TABLE HANDLER heap_tableam_handler",
        "CREATE TABLE other (a int, b text) USING other_heap",
        f"INSERT INTO other {FILLED}",
    ],
    "wide": [
        "CREATE TABLE wide ({})".format(", ".join(f"c{n} int DEFAULT {n}" for n in range(300))),
        "INSERT INTO wide (c0) SELECT n FROM generate_series(1, 300) n",
    ],
}


def test_every_row_of_odd_tables_is_in_one_part(source: Source, vault: Vault) -> None:
    endpoint = source.create()
    source.execute(endpoint, *(statement for some in TABLES.values() for statement in some))

    manifest = taken(endpoint, vault)

    with endpoint.connect() as connection:
        for table in list_tables(connection):
            query = sql.SQL("SELECT count(*) FROM ONLY {}").format(table.identifier)
            row = connection.execute(query).fetchone()
            assert row is not None
            found = table_of(manifest, table.name)
            assert found.rows == row[0]
            assert bool(found.rows) == (table.name != "all rows deleted")
            if table.name == "other" or source.major < 14:
                # It is not a heap, by its name; or a range of pages would cost a scan of them all.
                assert found.parts == (f"archive/table_{table.oid}.dat.gz",)
            else:
                assert parts_of(manifest, table.name) > 1, table.name
    assert TABLES.keys() < {table.name for table in manifest.tables}
    assert_passes(vault, manifest)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
def test_bytes_that_are_no_utf8_come_back(one_source: Source, vault: Vault, encoding: str) -> None:
    endpoint = one_source.create(options=f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    with owner_session(endpoint) as connection:
        connection.execute("CREATE TABLE t (a int, b text)")
        connection.execute(
            "CREATE FUNCTION raw(bytea) RETURNS text LANGUAGE sql AS "
            f"$$ SELECT pg_catalog.convert_from($1, '{encoding}') $$"
        )
        connection.execute(
            "INSERT INTO t SELECT n, repeat(raw('\\xa4a2'), 1 + n % 50) FROM generate_series(1, 3000) n"
        )
    manifest = taken(endpoint, vault)
    assert parts_of(manifest, "t") > 2
    assert_passes(vault, manifest)


def test_partitions_by_the_hash_of_an_enum_are_left_to_pg_dump(
    one_source: Source, vault: Vault
) -> None:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TYPE colour AS ENUM ('red', 'green', 'blue', 'grey', 'white')",
        "CREATE TABLE hp (c colour, n int, b text) PARTITION BY HASH (c)",
        *(
            f"CREATE TABLE hp_{n} PARTITION OF hp FOR VALUES WITH (MODULUS 3, REMAINDER {n})"
            for n in range(3)
        ),
        "INSERT INTO hp SELECT (enum_range(NULL::colour))[1 + n % 5], n, repeat('x', 200) "
        "FROM generate_series(1, 3000) n",
    )
    manifest = taken(endpoint, vault)
    assert manifest.rows == 3000
    assert not any("table_" in part for table in manifest.tables for part in table.parts)
    assert_passes(vault, manifest)
