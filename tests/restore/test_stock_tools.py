"""Our archives and PostgreSQL's own programs: parts joined by name are what pg_dump would write."""

from __future__ import annotations

import re
from collections.abc import Callable
from gzip import compress
from pathlib import Path
from typing import Literal

import pytest

from dagster_resil.demo.damage import LocalBackup
from dagster_resil.demo.databases import load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import BIN_DIR_VARIABLE, Programs
from dagster_resil.process import Completed, run
from dagster_resil.progress import silent
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.vault.local import LocalVault
from dagster_resil.verify.contents import read_tables
from tests.conftest import Source, run_server, stock
from tests.restore.test_restore import sh
from tests.taking import in_parts, take_backup, verify_backup

MAJORS = (15, 16, 17, 18)
PART_BYTES = 1 << 14

# Beside the demo's tables: what joins and end markers could go wrong with.
ODD = """
CREATE TABLE public.end_marks (a text);
INSERT INTO public.end_marks SELECT (ARRAY['\\.', '', NULL, E'\\\\.\\n\\\\.', 'x'])[1 + n % 5]
  FROM generate_series(1, 5000) n;
CREATE TABLE public.all_deleted (a int, b text) WITH (autovacuum_enabled = off);
INSERT INTO public.all_deleted SELECT n, repeat('x', 50) FROM generate_series(1, 5000) n;
DELETE FROM public.all_deleted;
CREATE TABLE public."ta""ble\n%s .0001" (a int, "c'd\\" text);
INSERT INTO public."ta""ble\n%s .0001" SELECT n, repeat('y', 20) FROM generate_series(1, 5000) n;
"""


def joined(backup: LocalBackup, folder: Path) -> Path:
    """Join the parts by their names, as restore.sh does."""
    folder.mkdir()
    for file in sorted(backup.file("archive").iterdir()):
        with (folder / re.sub(r"\.gz\.[0-9]+$", ".gz", file.name)).open("ab") as out:
            out.write(file.read_bytes())
    return folder


def pg_restore(programs: Programs, target: Endpoint, archive: Path, *options: str) -> Completed:
    return run(
        [
            programs.path("pg_restore"),
            "--jobs=2",
            *options,
            *target.child_arguments(),
            archive,
        ],
        env=target.child_environment(),
    )


def holds(endpoint: Endpoint, manifest: Manifest) -> dict[tuple[str, str], tuple[int, str | None]]:
    found = read_tables(endpoint, form=manifest.expectations.fingerprint, jobs=2, progress=silent)
    return {(t.schema_, t.name): (t.rows, t.fingerprint) for t in found.tables}


def expected(manifest: Manifest) -> dict[tuple[str, str], tuple[int, str | None]]:
    return {(t.schema_, t.name): (t.rows, t.fingerprint) for t in manifest.tables}


def taken(endpoint: Endpoint, vault: Vault) -> LocalBackup:
    assert isinstance(vault, LocalVault)
    manifest = take_backup(endpoint, vault, name="app", settings=in_parts(part_bytes=PART_BYTES))
    return LocalBackup(vault.path, manifest)


@pytest.mark.parametrize("which", ["shop", "hostile"])
@pytest.mark.parametrize("major", MAJORS)
def test_stock_pg_restore_restores_it(
    servers: Callable[[int], Source],
    major: int,
    which: Literal["shop", "hostile"],
    vault: Vault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = stock(major)
    source = servers(major)
    endpoint = source.create()
    load(endpoint, programs, which, scale=0.02)
    source.execute(endpoint, ODD)
    # The product does not look for version 16 where the tests have it from.
    monkeypatch.setenv(BIN_DIR_VARIABLE, str(programs.bin_dir))

    backup = taken(endpoint, vault)

    assert backup.manifest.tools["pg_dump"] == programs.version
    in_parts = [table for table in backup.manifest.tables if len(table.parts) > 1]
    assert {"end_marks", "all_deleted"} <= {table.name for table in in_parts}
    assert max(len(table.parts) for table in in_parts) > 10
    archive = joined(backup, tmp_path / "joined")
    there = run([programs.path("pg_restore"), "--list", archive])
    assert (there.returncode, there.stderr) == (0, "")
    tables = [t for t in backup.manifest.tables if t.kind == "table"]
    assert there.stdout.count(" TABLE DATA ") == len(tables)
    target = source.create()
    done = pg_restore(programs, target, archive, "--exit-on-error")
    assert (done.returncode, done.stderr) == (0, "")
    assert holds(target, backup.manifest) == expected(backup.manifest)
    assert sum(table.rows for table in tables) > 5000
    # A single table, as somebody does who has lost one.
    one = source.create()
    done = pg_restore(programs, one, archive, "--exit-on-error", "--table=end_marks")
    assert (done.returncode, done.stderr) == (0, "")
    alone = ("public", "end_marks")
    assert holds(one, backup.manifest) == {alone: expected(backup.manifest)[alone]}
    source.drop_all()


def test_a_newer_pg_dump_of_an_older_server(
    servers: Callable[[int], Source],
    vault: Vault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where only the bundled programs are, they take an older server's backups."""
    old, new = stock(15), stock(17)
    source = servers(15)
    endpoint = source.create()
    load(endpoint, old, "hostile")
    source.execute(endpoint, ODD)
    with monkeypatch.context() as only_new:
        only_new.setenv(BIN_DIR_VARIABLE, str(new.bin_dir))
        backup = taken(endpoint, vault)
    assert backup.manifest.tools["pg_dump"] == new.version
    assert backup.manifest.source.major == 15

    receipt = verify_backup(vault, backup.manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks

    target = source.create()
    done = pg_restore(new, target, joined(backup, tmp_path / "joined"))
    # The one thing that a server before 17 does not know, which pg_restore goes on after.
    assert set(re.findall(r"error: (.*)", done.stderr)) == {
        'could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"'
    }
    assert holds(target, backup.manifest) == expected(backup.manifest)

    with run_server(old) as other:
        into = other.create()
        scripted = sh(backup.file(""), Source(other.server, new), into)
        assert scripted.returncode == 0, scripted.stderr
        assert holds(into, backup.manifest) == expected(backup.manifest)
        # What is let by is that and nothing else.
        for wrong in (lambda data: data[: len(data) // 2], lambda data: compress(b"no row\n\\.\n")):
            backup.rewrite(backup.table("public", 'ta"ble\n%s .0001').parts[0], wrong)
            scripted = sh(backup.file(""), Source(other.server, new), other.create())
            assert scripted.returncode == 1, scripted.stderr
            assert "restored into" not in scripted.stdout
    source.drop_all()
