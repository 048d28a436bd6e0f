"""Vaults that earlier releases have written are listed, proved and restored by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dagster_resil.backup.take import take_backup
from dagster_resil.errors import SourceChanged
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import restore_backup
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify.prove import verify_backup
from tests.command import resil
from tests.conftest import Source, run_server, stock
from tests.restore.test_restore import sh

VAULTS = Path(__file__).with_name("vaults")
ROWS = (273, 263)
"""Of the newer backup, which its release has not proved, and of the older one, which it has."""


@pytest.fixture(params=sorted(VAULTS.iterdir()), ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "vault"))


@pytest.fixture
def old(folder: Path) -> Vault:
    return open_vault(folder.as_uri())


def test_it_is_listed_and_shown(folder: Path) -> None:
    listed = resil("list", "--json", RESIL_VAULT=folder.as_uri())
    assert listed.returncode == 0, listed
    backups = json.loads(listed.stdout)["backups"]
    assert [(each["rows"], each["verdict"]) for each in backups] == [(273, None), (263, "PASS")]
    shown = resil("show", backups[1]["backup_id"], RESIL_VAULT=folder.as_uri())
    assert shown.returncode == 0, shown
    assert "263 rows" in shown.stdout
    assert "PASS" in shown.stdout


def test_it_is_proved(old: Vault) -> None:
    found = Backups(old).entries("shop").backups
    assert tuple(entry.manifest.rows for entry in found) == ROWS
    for entry in found:
        receipt = verify_backup(old, entry.manifest)
        assert receipt.verdict is Verdict.PASS, receipt.checks
    assert [entry.verdict for entry in Backups(old).entries("shop").backups] == [Verdict.PASS] * 2
    # The receipts of both releases are there.
    assert [entry.receipts for entry in Backups(old).entries("shop").backups] == [1, 2]


def test_a_damage_is_found(old: Vault, folder: Path) -> None:
    manifest = Backups(old).latest("shop")
    [part] = (folder / "shop" / "backups" / manifest.backup_id / "archive").glob("blob_77.*")
    part.write_bytes(part.read_bytes()[:-1])
    receipt = verify_backup(old, manifest)
    assert receipt.verdict is Verdict.FAIL
    assert "blob_77" in receipt.checks[0].summary


def test_it_is_restored(old: Vault) -> None:
    with run_server(stock(15)) as server:
        report = restore_backup(old, Backups(old).latest_proved("shop"), server.create())
    assert report.verdict is Verdict.PASS, report.checks


def test_it_is_restored_by_its_own_script(old: Vault, folder: Path) -> None:
    manifest = Backups(old).latest("shop")
    with run_server(stock(15)) as server:
        target = server.create()
        done = sh(folder / "shop" / "backups" / manifest.backup_id, server, target)
        assert done.returncode == 0, done.stderr
        with server.admin() as connection, target.connect() as restored:
            assert connection.execute("SELECT to_regrole('old_owner')").fetchone() != (None,)
            assert restored.execute("SELECT count(*) FROM public.item").fetchone() == (210,)


def test_another_backup_goes_beside_them(old: Vault, one_source: Source) -> None:
    """A known name is another database's: it is refused, and taken under another name."""
    database = one_source.create()
    with pytest.raises(SourceChanged):
        take_backup(database, old, name="shop")
    taken = take_backup(database, old, name="other")
    assert sorted(old.folders()) == ["other", "shop"]
    assert verify_backup(old, taken).verdict is Verdict.PASS
