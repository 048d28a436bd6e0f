"""A backup's parts damaged, with every checksum fitting: each is a FAIL of the right check."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_resil.backup.reader import compressed
from dagster_resil.demo.damage import LocalBackup
from dagster_resil.errors import VaultError
from dagster_resil.postgres.table_of_contents import read_contents
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from dagster_resil.verify.prove import VerifySettings, verify_backup
from tests.conftest import Source, majors
from tests.graft import copy_of
from tests.taking import in_parts, take_backup
from tests.vault.failing import FailingVault

SCHEMA = """
CREATE TABLE one (id int, note text);
INSERT INTO one SELECT n, md5(n::text) FROM generate_series(1, 6000) n;
CREATE TABLE two (id int, note text);
INSERT INTO two SELECT n, md5((n * 7)::text) FROM generate_series(1, 6000) n;
"""


@pytest.fixture(scope="module")
def good(servers: Callable[[int], Source], tmp_path_factory: pytest.TempPathFactory) -> LocalBackup:
    source = servers(majors()[0])
    endpoint = source.create()
    source.execute(endpoint, SCHEMA)
    folder = tmp_path_factory.mktemp("good") / "vault"
    manifest = take_backup(
        endpoint,
        open_vault(folder.as_uri()),
        name="parts",
        settings=in_parts(part_bytes=1 << 17),
    )
    source.drop_all()
    backup = LocalBackup(folder, manifest)
    assert len(backup.table("public", "one").parts) > 2
    return backup


def parts_of(backup: LocalBackup, table: str) -> list[str]:
    return list(backup.table("public", table).parts)


def edited(backup: LocalBackup, table: str, change: Callable[[list[str]], list[str]]) -> None:
    document = json.loads(backup.manifest_file.read_text())
    entry = next(each for each in document["tables"] if each["name"] == table)
    entry["parts"] = change(entry["parts"])
    backup.manifest_file.chmod(0o600)
    backup.manifest_file.write_text(json.dumps(document))


def _exchange(backup: LocalBackup, first: str, second: str) -> None:
    data = backup.file(first).read_bytes()
    backup.rewrite(first, lambda _: backup.file(second).read_bytes())
    backup.rewrite(second, lambda _: data)
    backup.make_checksums_fit()


def _truncated(backup: LocalBackup) -> None:
    backup.rewrite(parts_of(backup, "one")[1], lambda data: data[:-20])
    backup.make_checksums_fit()


def _garbage_behind(backup: LocalBackup) -> None:
    backup.rewrite(parts_of(backup, "one")[1], lambda data: data + b"garbage")
    backup.make_checksums_fit()


def _two_members(backup: LocalBackup) -> None:
    backup.rewrite(parts_of(backup, "one")[1], lambda data: data + data)
    backup.make_checksums_fit()


def _emptied(backup: LocalBackup) -> None:
    backup.rewrite(parts_of(backup, "one")[1], lambda data: gzip.compress(b""))
    backup.make_checksums_fit()


def _one_byte(backup: LocalBackup) -> None:
    def change(data: bytes) -> bytes:
        text = bytearray(gzip.decompress(data))
        text[text.index(b"\t", len(text) // 2) + 3] ^= 1
        return gzip.compress(bytes(text))

    backup.rewrite(parts_of(backup, "one")[1], change)
    backup.make_checksums_fit()


def _end_in_the_middle(backup: LocalBackup) -> None:
    def change(data: bytes) -> bytes:
        lines = gzip.decompress(data).splitlines(keepends=True)
        return gzip.compress(b"".join([*lines[:5], b"\\.\n", *lines[5:]]))

    backup.rewrite(parts_of(backup, "one")[1], change)
    backup.make_checksums_fit()


def _of_another_table(backup: LocalBackup) -> None:
    _exchange(backup, parts_of(backup, "one")[1], parts_of(backup, "two")[1])


def _last_one_first(backup: LocalBackup) -> None:
    """Loaded one by one the rows are all there; stock pg_restore would stop after the first."""
    parts = parts_of(backup, "one")
    _exchange(backup, parts[0], parts[-1])


def _listed_twice(backup: LocalBackup) -> None:
    edited(backup, "one", lambda parts: [*parts[:2], parts[1], *parts[2:]])


def _not_listed(backup: LocalBackup) -> None:
    edited(backup, "one", lambda parts: [parts[0], *parts[2:]])


def _none_listed(backup: LocalBackup) -> None:
    edited(backup, "one", lambda parts: [])


def _listed_in_another_order(backup: LocalBackup) -> None:
    edited(backup, "one", lambda parts: parts[::-1])


def _listed_under_the_other_table(backup: LocalBackup) -> None:
    moved = parts_of(backup, "one")[1]
    edited(backup, "one", lambda parts: [part for part in parts if part != moved])
    edited(backup, "two", lambda parts: sorted([*parts, moved]))


def _without_the_copy_statement(backup: LocalBackup) -> None:
    def change(data: bytes) -> bytes:
        toc = read_contents(data)
        entries = tuple(
            replace(entry, copy_statement=None, raw=None) if entry.kind == "TABLE DATA" else entry
            for entry in toc.entries
        )
        return replace(toc, entries=entries).to_bytes()

    backup.rewrite("archive/toc.dat", change)
    backup.make_checksums_fit()


def _a_bomb(backup: LocalBackup) -> None:
    zeros = (b"0" * (1 << 20) for _ in range(256))
    data = b"".join(compressed(zeros, b"", 1))
    backup.rewrite(parts_of(backup, "one")[1], lambda _: data)
    backup.make_checksums_fit()


DAMAGES: dict[Callable[[LocalBackup], None], str] = {
    _truncated: "restores_cleanly",
    _garbage_behind: "restores_cleanly",
    _two_members: "row_counts_match",
    _emptied: "row_counts_match",
    _one_byte: "contents_match",
    _end_in_the_middle: "row_counts_match",
    _of_another_table: "contents_match",
    _last_one_first: "restores_cleanly",
    _listed_twice: "archive_intact",
    _not_listed: "row_counts_match",
    _none_listed: "restores_cleanly",
    _listed_in_another_order: "archive_intact",
    _listed_under_the_other_table: "restores_cleanly",
    _without_the_copy_statement: "archive_intact",
    _a_bomb: "restores_cleanly",
}


def verified(backup: LocalBackup, *, streamed_bytes: int = 0) -> Receipt:
    return verify_backup(
        open_vault(backup.vault.as_uri()),
        backup.reload(),
        settings=VerifySettings(streamed_bytes=streamed_bytes),
    )


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_part_fails_the_check_that_is_there_for_it(
    good: LocalBackup, damage: Callable[[LocalBackup], None], tmp_path: Path
) -> None:
    backup = copy_of(good, tmp_path / "copy")
    damage(backup)

    receipt = verified(backup)

    assert receipt.verdict is Verdict.FAIL, receipt.checks
    failed = [check.name for check in receipt.checks if check.verdict is Verdict.FAIL]
    assert DAMAGES[damage] in failed, receipt.checks
    if DAMAGES[damage] != "archive_intact":
        assert receipt.check("archive_intact").verdict is Verdict.PASS


def test_an_undamaged_copy_passes(good: LocalBackup, tmp_path: Path) -> None:
    receipt = verified(copy_of(good, tmp_path / "copy"))
    assert receipt.verdict is Verdict.PASS, receipt.checks


def test_small_tables_in_several_parts_pass(good: LocalBackup, tmp_path: Path) -> None:
    """What compresses well may be less than what is streamed, and still lie in parts."""
    receipt = verified(copy_of(good, tmp_path / "copy"), streamed_bytes=1 << 30)
    assert receipt.verdict is Verdict.PASS, receipt.checks


@pytest.mark.parametrize("which", ["toc.dat", "gz.0001"])
def test_a_vault_that_is_out_of_reach_is_no_damage(
    good: LocalBackup, tmp_path: Path, which: str
) -> None:
    backup = copy_of(good, tmp_path / "copy")

    def away(name: str) -> VaultError | None:
        return VaultError("the network is down", transient=True) if name.endswith(which) else None

    receipt = verify_backup(FailingVault(backup.vault, reading=away), backup.manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE, receipt.checks
    assert "the network is down" in receipt.check("archive_intact").summary
    assert all(check.verdict is not Verdict.PASS for check in receipt.checks)


def test_a_vault_that_is_gone_is_no_damage(good: LocalBackup, tmp_path: Path) -> None:
    backup = copy_of(good, tmp_path / "copy")
    backup.vault.rename(tmp_path / "elsewhere")
    receipt = verify_backup(open_vault(backup.vault.as_uri()), backup.manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE, receipt.checks
