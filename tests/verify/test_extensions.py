"""Extensions: what of them comes from the server that restores, and what from the backup."""

from __future__ import annotations

from pathlib import Path

from dagster_resil.backup.take import take_backup
from dagster_resil.postgres.scratch import sweep
from dagster_resil.restore import restore_backup, restore_to_scratch
from dagster_resil.vault.base import Vault
from dagster_resil.verify.verdict import Verdict
from tests.conftest import Source
from tests.verify.test_oddities import assert_passes, proved

OLD = (
    "CREATE SCHEMA ext",
    "CREATE EXTENSION cube WITH SCHEMA ext VERSION '1.4'",
    "CREATE EXTENSION earthdistance WITH SCHEMA ext",
    "CREATE EXTENSION hstore VERSION '1.7'",
    "CREATE TABLE places (name text, at ext.cube, more hstore)",
    "INSERT INTO places VALUES ('here', '(1, 2, 3)', 'a=>1')",
)
# A server of a later release than those here.
NEWER = ("CREATE EXTENSION hstore", "UPDATE pg_extension SET extversion = '9.9'")


def test_older_versions_come_back(source: Source, tmp_path: Path) -> None:
    endpoint = source.create()
    source.execute(endpoint, *OLD)
    assert_passes(proved(endpoint, tmp_path))


def test_older_versions_come_back_in_a_target(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, *OLD)
    manifest = take_backup(endpoint, vault, name="app")
    report = restore_backup(vault, manifest, one_source.create())
    assert report.verdict is Verdict.PASS, report.checks


def test_a_version_that_is_not_here_leaves_it_open(one_source: Source, tmp_path: Path) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, *NEWER)
    receipt = proved(endpoint, tmp_path)
    assert receipt.verdict is Verdict.INCONCLUSIVE, receipt.checks
    assert receipt.check("archive_intact").verdict is Verdict.PASS
    assert "hstore 9.9 (it has 1.8)" in receipt.check("schema_matches").summary


def test_a_restore_without_the_version_says_so(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, *NEWER)
    manifest = take_backup(endpoint, vault, name="app")
    reports = [restore_backup(vault, manifest, one_source.create())]
    reports.append(restore_to_scratch(vault, manifest, keep_s=0).report)
    sweep()
    for report in reports:
        open_ = [check for check in report.checks if check.verdict is not Verdict.PASS]
        assert [check.verdict for check in open_] == [Verdict.INCONCLUSIVE], open_
        assert "extension hstore is version 1.8; in the source version 9.9" in open_[0].summary
