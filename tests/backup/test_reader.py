"""Reading in parts: what a failing vault costs, and that a wrong reader can't lie."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from isal import isal_zlib

from dagster_resil.backup import copying
from dagster_resil.backup.copying import CopySession
from dagster_resil.backup.parts import Part
from dagster_resil.backup.reader import END_OF_DATA, TableReader, compressed
from dagster_resil.errors import BackupFailed, VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.verdict import Verdict
from tests.backup.test_exactness import assert_nothing_is_left, listed
from tests.conftest import Source
from tests.taking import in_parts, take_backup, verify_backup
from tests.vault.failing import FailingVault

PART = re.compile(r"/archive/table_[0-9]+\.dat\.gz\.[0-9]{4}$")
PART_BYTES = 1 << 18

# A megabyte that does not compress by much.
ROWS = """
CREATE TABLE noise (id int PRIMARY KEY, a text);
INSERT INTO noise SELECT n, (SELECT string_agg(md5((n * k)::text), '') FROM generate_series(1, 8) k)
  FROM generate_series(1, 4000) n;
"""


@pytest.fixture
def database(one_source: Source) -> Endpoint:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)
    return endpoint


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every COPY that the source was asked for; failures of the vault are tried again at once."""
    seen: list[str] = []
    real = CopySession.rows

    def rows(self: CopySession, lock: str, copy: str) -> Iterator[bytes]:
        seen.append(copy)
        return real(self, lock, copy)

    monkeypatch.setattr(CopySession, "rows", rows)
    monkeypatch.setattr("dagster_resil.backup.reader.PAUSES_S", (0.01, 0.02, 0.03))
    return seen


class Failures:
    """Says that the part with a number fails some times, and counts."""

    def __init__(self, number: int, times: int, *, transient: bool = True) -> None:
        self.number, self.times, self.transient = number, times, transient
        self.tried = 0

    def __call__(self, name: str) -> VaultError | None:
        if not PART.search(name) or not name.endswith(f".{self.number:04d}"):
            return None
        self.tried += 1
        if self.tried > self.times:
            return None
        return VaultError(f"can't write {name}, as told", transient=self.transient)


def take(endpoint: Endpoint, vault: FailingVault, **settings: Any) -> Any:
    return take_backup(
        endpoint, vault, name="noise", settings=in_parts(part_bytes=PART_BYTES, **settings)
    )


def assert_passes(vault: FailingVault, manifest: Any) -> None:
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks


def test_a_part_is_written_again_from_memory(
    database: Endpoint, copies: list[str], tmp_path: Path
) -> None:
    failures = Failures(1, times=3)
    vault = FailingVault(tmp_path / "vault", writing=failures)

    manifest = take(database, vault)

    (table,) = manifest.tables
    assert failures.tried == 4
    assert len(table.parts) > 2
    assert len(copies) == len(table.parts), "the source was read again"
    assert_passes(vault, manifest)


def test_a_part_that_is_too_large_is_read_again(
    database: Endpoint, copies: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dagster_resil.backup.data.TableReader",
        lambda *words, **options: TableReader(*words, **{**options, "kept_bytes": 10}),
    )
    failures = Failures(1, times=2)
    vault = FailingVault(tmp_path / "vault", writing=failures)

    manifest = take(database, vault)

    (table,) = manifest.tables
    assert len(copies) == len(table.parts) + 2
    assert len(set(copies)) == len(table.parts)
    assert_passes(vault, manifest)


@pytest.mark.parametrize(
    ("failures", "tries"),
    [(Failures(1, times=99), 4), (Failures(1, times=99, transient=False), 1)],
    ids=["again and again", "for good"],
)
def test_a_part_that_can_not_be_written_fails_the_backup(
    one_source: Source,
    database: Endpoint,
    copies: list[str],
    tmp_path: Path,
    failures: Failures,
    tries: int,
) -> None:
    vault = FailingVault(tmp_path / "vault", writing=failures)

    with pytest.raises(VaultError, match="as told") as error:
        take(database, vault)

    assert error.value.exit_code == 4
    assert failures.tried == tries
    assert not listed(vault)
    assert not list(vault.names("noise/backups/"))
    assert_nothing_is_left(one_source)
    assert not [each for each in threading.enumerate() if each.name.startswith("tables-")]


# How a reader could be wrong: a part's statement → another one.
WRONG: dict[str, Callable[[str], str]] = {
    "the first row of a page missing": lambda text: re.sub(
        r">=\) '\((\d+),0\)'", r">=) '(\1,2)'", text
    ),
    "a page missing": lambda text: re.sub(
        r"<\) '\((\d+),0\)'", lambda found: f"<) '({int(found[1]) - 1},0)'", text
    ),
    "a page twice": lambda text: re.sub(
        r"<\) '\((\d+),0\)'", lambda found: f"<) '({int(found[1]) + 1},0)'", text
    ),
    "closed above": lambda text: (
        text if "<)" in text else re.sub(r"'\((\d+),0\)'", r"'(\1,0)' AND ctid < '(\1,2)'", text)
    ),
    "the last row missing": lambda text: text.replace(") TO", " AND id <> 4000) TO"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reader_that_misses_rows_or_has_some_twice_is_caught(
    one_source: Source,
    database: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    real = Part.copy_statement
    monkeypatch.setattr(
        Part,
        "copy_statement",
        lambda part, connection: WRONG[wrong](real(part, connection)),
    )
    vault = FailingVault(tmp_path / "vault")

    with pytest.raises(BackupFailed, match=r"dump of table public\.noise has [0-9,]+ rows, the"):
        take(database, vault)

    assert not listed(vault)
    assert_nothing_is_left(one_source)


# --- the text of COPY, as a session gives it -----------------------------------------------------


class _Pipe:
    """What a session's output gives: the pieces, one a read."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def read(self, descriptor: int, most: int) -> bytes:
        del descriptor
        assert self.pieces, "it was read on behind the end: psql would never answer"
        piece = self.pieces.pop(0)
        assert len(piece) <= most
        return piece


def rows_of(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> bytes:
    session = CopySession.__new__(CopySession)
    session.__dict__.update(_first="", _begin="", _codec="utf-8", _to=-1, _from=-1)
    pipe = _Pipe(pieces)
    with monkeypatch.context() as patch:
        patch.setattr(copying, "_write_all", lambda descriptor, data: None)
        patch.setattr(os, "read", pipe.read)
        text = b"".join(session.rows("LOCK …", "COPY …"))
    assert not pipe.pieces
    return text


TEXTS = {
    "no row": b"",
    "an empty value": b"\n",
    "empty values": b"\n\n\n",
    "NULL": b"\\N\n",
    "a backslash and a point": b"\\\\.\n",
    "the same, last": b"a\n\\\\.\n",
    "the same, first": b"\\\\.\na\n",
    "points and lines": b".\n\n.\n\\\\\n.\n",
    "several of them": b"\\\\.\n\\\\.\n\\\\.\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_end_is_seen_however_the_text_is_cut(
    text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = text + b"\\.\n"
    for first in range(1, len(said) + 1):
        for second in range(first, len(said) + 1):
            pieces = [said[:first], said[first:second], said[second:]]
            assert rows_of([p for p in pieces if p], monkeypatch) == text
    assert rows_of([said[n : n + 1] for n in range(len(said))], monkeypatch) == text


def test_the_end_is_seen_in_texts_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_LEAST_BYTES", 8)
    chance = random.Random(3)
    for _ in range(2000):
        values = [b"", b"\\N", b"\\\\.", b".", b"\\\\", b"abcdefgh", b"\\\\.\\\\."]
        text = b"".join(chance.choice(values) + b"\n" for _ in range(chance.randrange(9)))
        said, pieces = text + b"\\.\n", []
        while said:
            length = chance.randrange(1, 12)
            pieces.append(said[:length])
            said = said[length:]
        assert rows_of(pieces, monkeypatch) == text


def test_joined_parts_are_one_text_with_one_end() -> None:
    parts = [[b"1\n", b"2\n"], [], [b"3\n"]]
    joined = b"".join(
        data
        for number, chunks in enumerate(parts)
        for data in compressed(iter(chunks), END_OF_DATA if number == 2 else b"", 1)
    )
    text = b""
    while joined:
        inflate = isal_zlib.decompressobj(31)
        text += inflate.decompress(joined)
        joined = inflate.unused_data
    assert text == b"1\n2\n3\n\\.\n\n\n"
