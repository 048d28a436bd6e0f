"""Extensions: what of them comes from the server that restores, and what from the backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.postgres import scratch, server
from dagster_resil.records.expected import INVENTORY_OBJECT, Expected
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import restore_to_scratch
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace
from tests.conftest import Source, run_server, stock
from tests.taking import restore_backup, take_backup, verify_backup
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
    scratch.sweep()
    for report in reports:
        open_ = [check for check in report.checks if check.verdict is not Verdict.PASS]
        assert [check.verdict for check in open_] == [Verdict.INCONCLUSIVE], open_
        assert "extension hstore is version 1.8; in the source version 9.9" in open_[0].summary


# --- rows and sequences of an extension's own ---------------------------------------------------

# As pg_cron's script is, and one table with rows that come with it.
CRON = """
CREATE SCHEMA cron;
CREATE SEQUENCE cron.jobid_seq;
CREATE TABLE cron.job (jobid bigint PRIMARY KEY DEFAULT nextval('cron.jobid_seq'), command text);
CREATE TABLE cron.zone (name text PRIMARY KEY, is_ours boolean NOT NULL DEFAULT true);
INSERT INTO cron.zone VALUES ('UTC', false);
SELECT pg_catalog.pg_extension_config_dump('cron.job', '');
SELECT pg_catalog.pg_extension_config_dump('cron.jobid_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cron.zone', 'WHERE is_ours');
"""
NOT_PRELOADED = """
DO $$ BEGIN
  IF current_database() <> current_setting('cron.database_name') THEN
    RAISE EXCEPTION 'can only create extension in database postgres';
  END IF;
END $$;
"""


@pytest.fixture
def cron_script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The script of an extension that this test's servers have."""
    with Workspace() as space:
        folder = space.path / "share" / "extension"
        folder.mkdir(parents=True)
        (folder / "pg_cron.control").write_text("default_version = '1.6'\nschema = pg_catalog\n")
        script = folder / "pg_cron--1.6.sql"
        script.write_text(CRON)
        for place in (space.path, folder.parent, folder):
            place.chmod(0o755)
        monkeypatch.setitem(scratch._SETTINGS, "extension_control_path", f"{folder.parent}:$system")
        monkeypatch.setattr(server, "_READS", (*server._READS, str(folder.parent)))
        yield script


@pytest.fixture
def with_cron(cron_script: Path) -> Iterator[Source]:
    """A server that finds its extensions where it is told to, which 18 is the first to do."""
    path = scratch._SETTINGS["extension_control_path"]
    with run_server(stock(18), extension_control_path=path) as source:
        yield source


FILLED = (
    "CREATE EXTENSION pg_cron",
    "INSERT INTO cron.job (command) SELECT 'VACUUM' FROM generate_series(1, 5)",
    "INSERT INTO cron.zone VALUES ('ours')",
)


def test_what_a_dump_holds_of_an_extension_comes_back(with_cron: Source, vault: Vault) -> None:
    endpoint = with_cron.create()
    with_cron.execute(endpoint, *FILLED)
    manifest = take_backup(endpoint, vault, name="app")
    receipt = verify_backup(vault, manifest)
    assert_passes(receipt)
    assert {table.title: table.rows for table in manifest.tables} == {"cron.job": 5, "cron.zone": 2}
    report = restore_backup(vault, manifest, with_cron.create())
    assert report.verdict is Verdict.PASS, report.checks


def test_an_extension_that_can_not_be_created_here_leaves_it_open(
    with_cron: Source, cron_script: Path, vault: Vault
) -> None:
    """Not every server is set up for every extension that it has."""
    endpoint = with_cron.create()
    with_cron.execute(endpoint, *FILLED)
    manifest = take_backup(endpoint, vault, name="app")
    cron_script.write_text(NOT_PRELOADED + CRON)
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE, receipt.checks
    assert receipt.check("archive_intact").verdict is Verdict.PASS
    found = receipt.check("restores_cleanly")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "pg_cron" in found.summary
    assert "cron.database_name" in found.summary


def test_a_sequence_of_an_extension_is_backed_up(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE EXTENSION hstore",
        "CREATE SEQUENCE s START 7",
        "SELECT nextval('s')",
        "ALTER EXTENSION hstore ADD SEQUENCE s",
        "UPDATE pg_extension SET extconfig = ARRAY['s'::regclass::oid], extcondition = ARRAY[''] "
        "WHERE extname = 'hstore'",
    )
    manifest = take_backup(endpoint, vault, name="app")
    text = vault.read(f"app/backups/{manifest.backup_id}/{INVENTORY_OBJECT}")
    [state] = Expected.model_validate_json(text).sequences
    assert (state.name, state.last_value, state.is_called) == ("s", 7, True)
    # No script of hstore's makes that sequence: it is the backup that can't be restored.
    assert verify_backup(vault, manifest).check("restores_cleanly").verdict is Verdict.FAIL
