"""What was read has to agree with what the source says: the rules, without a server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dagster_resil.backup.agreement import (
    check_same_source,
    comparable_lines,
    large_objects_table,
    placed,
    tables_of,
)
from dagster_resil.backup.snapshot import SnapshotRaced
from dagster_resil.errors import BackupFailed, SourceChanged
from dagster_resil.postgres.fingerprints import Content
from dagster_resil.postgres.tables import Relation
from dagster_resil.records.inventory import LargeObjects
from dagster_resil.records.manifest import CAPABILITIES, Collation, Engine, Partition, Source, Table

ONE = Relation(
    oid=1,
    schema="public",
    name="one",
    file_node=1,
    bytes=8192,
    extension=None,
    readable=True,
    row_security=False,
    columns=(),
)
KEY = ("public", "one")
SOURCE = Source(
    host="db",
    port=5432,
    database="shop",
    server_version="15.18",
    system_identifier="7",
    encoding="UTF8",
    collation=Collation(provider="libc", collate="C", ctype="C"),
    bootstrap_role="postgres",
)


def tables(
    relation: Relation = ONE,
    *,
    read: dict[tuple[str, str], int],
    counted: int = 3,
    unsettled: frozenset[int] = frozenset(),
    engine: Engine = "pg_dump",
) -> list[Table]:
    return tables_of(
        [relation],
        rows=read,
        parts={KEY: ("archive/1.dat.gz",)},
        contents={1: Content(rows=counted, fingerprint="17")},
        unsettled=unsettled,
        by=CAPABILITIES[engine],
    )


def test_as_many_rows_as_counted_are_a_table_of_the_manifest() -> None:
    (table,) = tables(read={KEY: 3})
    assert (table.rows, table.fingerprint, table.parts) == (3, "17", ("archive/1.dat.gz",))
    assert table.settled


@pytest.mark.parametrize("read", [2, 4])
def test_another_number_of_rows_is_no_backup(read: int) -> None:
    with pytest.raises(BackupFailed, match=rf"public.one has {read} rows, the snapshot 3"):
        tables(read={KEY: read})


def test_a_table_that_was_not_read_is_no_backup() -> None:
    with pytest.raises(BackupFailed, match=r"dump left out the data of table public\.one"):
        tables(read={})
    with pytest.raises(BackupFailed, match=r"export left out the data of table public\.one"):
        tables(read={}, unsettled=frozenset({1}), engine="cloudsql_export")


def test_a_table_that_is_not_of_the_snapshot_needs_a_new_one() -> None:
    with pytest.raises(SnapshotRaced, match=r"public\.two was created"):
        tables(read={KEY: 3, ("public", "two"): 1})


def test_of_a_table_that_was_written_to_nothing_is_known_but_what_was_read() -> None:
    (table,) = tables(read={KEY: 5}, unsettled=frozenset({1}))
    assert (table.rows, table.settled) == (5, False)


def test_rows_of_an_extension_need_not_be_read() -> None:
    (table,) = tables(replace(ONE, extension="postgis"), read={})
    assert table.rows == 3
    assert tables(replace(ONE, extension="postgis", readable=False), read={}) == []


def test_large_objects_are_one_table() -> None:
    assert large_objects_table(LargeObjects(count=0, bytes=0, fingerprint="0")) == []
    (table,) = large_objects_table(LargeObjects(count=2, bytes=10, fingerprint="5"))
    assert (table.kind, table.rows, table.bytes) == ("large_objects", 2, 10)


def test_another_server_under_a_known_name_is_refused() -> None:
    check_same_source("shop", None, SOURCE)
    check_same_source("shop", SOURCE, SOURCE)
    # Where one of the two does not say, the database's name has to do.
    check_same_source("shop", SOURCE.model_copy(update={"system_identifier": None}), SOURCE)
    for change in ({"system_identifier": "8"}, {"database": "other"}):
        with pytest.raises(SourceChanged, match="shop was database 'shop'"):
            check_same_source("shop", SOURCE, SOURCE.model_copy(update=change))


def test_a_snapshot_lies_in_its_window_or_in_the_grace_after_it() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    day = Partition(key="2026-11-01", start=start, end=start + timedelta(days=1))
    assert placed(None, start, 0) is None
    for taken_at, late in ((start, False), (day.end, True)):
        found = placed(day, taken_at, 60)
        assert found is not None
        assert found.late is late
    for taken_at in (start - timedelta(seconds=1), day.end + timedelta(seconds=60)):
        with pytest.raises(BackupFailed, match="is not in partition 2026-11-01"):
            placed(day, taken_at, 60)


def test_two_dumps_of_one_schema_differ_in_a_token_alone(tmp_path: Path) -> None:
    texts = []
    for token in ("a1", "b2"):
        file = tmp_path / token
        file.write_text(f"\\restrict {token}\nCREATE TABLE t (\n);\n\\unrestrict {token}\n")
        texts.append(comparable_lines(file))
    assert texts[0] == texts[1]
    (tmp_path / "c").write_text("\\restrict c\nCREATE TABLE u (\n);\n\\unrestrict c\n")
    assert comparable_lines(tmp_path / "c") != texts[0]
