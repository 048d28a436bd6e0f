"""Loading parts: what is damaged is refused or found, and nothing takes memory that it should not."""

from __future__ import annotations

import gzip
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from isal import igzip_lib

from dagster_resil.backup.reader import compressed
from dagster_resil.errors import ObjectDamaged
from dagster_resil.postgres import load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.load import END_OF_DATA, RowLoader, Rows, inflated, without_values
from dagster_resil.process import Completed
from tests.conftest import Source, owner_session

# --- gzip -----------------------------------------------------------------------------------------

TEXT = b"1\tone\n2\ttwo\n" * 50
FILE = b"".join(compressed([TEXT], END_OF_DATA, 1))
FIRST_MEMBER = len(b"".join(compressed([TEXT], b"", 1)))


def text_of(data: bytes, step: int = 1 << 20) -> bytes:
    return b"".join(inflated(data[n : n + step] for n in range(0, len(data), step)))


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_members_are_read_one_after_another(step: int) -> None:
    assert text_of(FILE, step) == TEXT + END_OF_DATA
    assert text_of(FILE * 3, step) == (TEXT + END_OF_DATA) * 3
    assert text_of(gzip.compress(b""), step) == b""


def test_a_file_that_ends_too_early_is_refused() -> None:
    whole = [length for length in range(1, len(FILE)) if _reads(FILE[:length])]
    assert whole == [FIRST_MEMBER]  # between two members it is whole


def _reads(data: bytes) -> bool:
    try:
        text_of(data)
    except (EOFError, igzip_lib.IsalError):  # type: ignore[misc]
        return False
    return True


@pytest.mark.parametrize(
    "behind",
    [b"x", b"\0\0", b"garbage behind the end", FILE[:9]],
    ids=["x", "zeros", "text", "head"],
)
def test_what_follows_the_last_member_is_refused(behind: bytes) -> None:
    assert not _reads(FILE + behind)


def test_no_flipped_bit_gives_another_text() -> None:
    for position in range(len(FILE)):
        for bit in range(8):
            damaged = bytearray(FILE)
            damaged[position] ^= 1 << bit
            if _reads(bytes(damaged)):
                assert text_of(bytes(damaged)) == TEXT + END_OF_DATA


def test_a_gigabyte_of_zeros_takes_little_memory() -> None:
    bomb = b"".join(compressed((bytes(1 << 20) for _ in range(1 << 10)), b"", 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pieces = [len(piece) for piece in inflated([bomb])]
    assert sum(pieces) == 1 << 30
    assert max(pieces) <= 1 << 17
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # kilobytes


# --- the loader -----------------------------------------------------------------------------------


def rows(data: bytes, *, number: int = 0, is_last: bool = True) -> Rows:
    @contextmanager
    def open_it() -> Iterator[Iterator[bytes]]:
        yield iter([data])

    return Rows(
        table=("public", "t"),
        statement=b"COPY public.t (a, b) FROM stdin;\n",
        part=f"archive/t.gz.{number:04d}",
        size=len(data),
        is_last=is_last,
        open=open_it,
    )


def loaded(endpoint: Endpoint, *parts: Rows) -> RowLoader:
    with RowLoader(endpoint, parts, jobs=2, encoding="UTF8") as loader:
        loader.wait(lambda: None)
    return loader


@pytest.fixture
def target(one_source: Source) -> Endpoint:
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE t (a int, b text)")
    return endpoint


def count(endpoint: Endpoint) -> int:
    with owner_session(endpoint, autocommit=False) as connection:
        row = connection.execute("SELECT count(*) FROM t").fetchone()
    assert row is not None
    return int(row[0])


def test_parts_are_loaded(target: Endpoint) -> None:
    first = b"".join(compressed([TEXT], b"", 1))
    loader = loaded(target, rows(first, is_last=False), rows(FILE, number=1))
    assert (loader.errors, loader.damaged, loader.done_rows) == ([], False, 200)
    assert loader.done_bytes == len(first) + len(FILE)
    assert count(target) == 200


@pytest.mark.parametrize(
    ("data", "is_last", "words"),
    [
        (FILE[: FIRST_MEMBER - 9], True, "ends too early"),
        (FILE + b"garbage", True, "ends too early"),
        (FILE, False, "end with its last part"),
        (FILE[:FIRST_MEMBER], True, "end with its last part"),
        (gzip.compress(b"1\n" + END_OF_DATA), True, 'missing data for column "b"'),
        (gzip.compress(b"one\tone\n" + END_OF_DATA), True, "invalid input syntax"),
        (b"no gzip file", True, "Invalid gzip"),
        (b"", True, "end with its last part"),
    ],
    ids=[
        *("truncated", "garbage behind", "an end too early", "no end", "a column missing"),
        *("no number", "no gzip", "nothing"),
    ],
)
def test_a_wrong_part_is_an_error_that_names_it(
    target: Endpoint, data: bytes, is_last: bool, words: str
) -> None:
    loader = loaded(target, rows(data, is_last=is_last))
    (error,) = loader.errors
    assert error.startswith("public.t (archive/t.gz.0000): ")
    assert words in error
    assert count(target) == 0


def test_a_killed_pg_restore_says_nothing_of_the_backup() -> None:
    killed = load._judge(Completed("pg_restore", -9, "", ""))
    assert (killed.clean, killed.environment) == (False, True)
    failed = load._judge(Completed("pg_restore", 1, "", ""))
    assert (failed.clean, failed.environment) == (False, False)
    refused = load._judge(
        Completed("pg_restore", 1, "", "pg_restore: error: could not execute query: ERROR:  no\n")
    )
    assert (refused.clean, refused.environment) == (False, False)


def test_no_row_gets_into_a_log_by_way_of_psycopg(
    one_source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE t (a int)")

    def copy_until_something_else_fails() -> None:
        with (
            owner_session(endpoint, autocommit=False) as connection,
            connection.cursor() as cursor,
            cursor.copy("COPY t FROM STDIN") as copy,
        ):
            copy.write(b"a row of somebody's\n")
            raise ObjectDamaged("what is raised")

    with pytest.raises(ObjectDamaged):
        copy_until_something_else_fails()
    assert "somebody" not in caplog.text


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (
            'ERROR:  invalid input\nCONTEXT:  COPY t, line 3, column c: "s3cr3t\nCommand was: x"',
            "ERROR:  invalid input\nCONTEXT:  COPY t, line 3, column c",
        ),
        (
            "ERROR:  duplicate key\nDETAIL:  Key (a, b)=(s3cr3t, (s3)) already exists.\n"
            "CONTEXT:  COPY t, line 2",
            "ERROR:  duplicate key\nDETAIL:  Key (a, b)=(…) already exists.\nCONTEXT:  COPY t, line 2",
        ),
        (
            "ERROR:  null value\nDETAIL:  Failing row contains (1, s3\ncr3t).",
            "ERROR:  null value\nDETAIL:  Failing row contains (…).",
        ),
        (
            "pg_restore: error: ERROR:  no server\nCommand was: CREATE USER MAPPING FOR x SERVER y "
            "OPTIONS (\n    password 's3cr3t'\n);",
            "pg_restore: error: ERROR:  no server\nCommand was: CREATE USER MAPPING …",
        ),
        (
            "error: ERROR:  no\nCommand was: CREATE SUBSCRIPTION s CONNECTION 'password=s3cr3t'",
            "error: ERROR:  no\nCommand was: CREATE SUBSCRIPTION s …",
        ),
        (
            "error: ERROR:  no\nCommand was: CREATE TABLE x (\n  y int DEFAULT 's3cr3t'\n);",
            "error: ERROR:  no\nCommand was: CREATE TABLE x (",
        ),
        ("ERROR:  no table\nDETAIL:  It is gone.", "ERROR:  no table\nDETAIL:  It is gone."),
    ],
)
def test_no_row_and_no_password_is_told(message: str, left: str) -> None:
    assert without_values(message) == left
