"""The registry of checks: one record each, which everything else reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dagster_resil
from dagster_resil.records.receipt import Check
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.vault.layout import folder
from dagster_resil.vault.local import LocalVault
from dagster_resil.verify import checks
from dagster_resil.verify.checks import CheckKind, kind_of
from dagster_resil.verify.restored import Comparison
from tests.conftest import Source
from tests.taking import take_backup, verify_backup

README = Path(dagster_resil.__file__).parent.parent / "README.md"


def has_few_tables(compared: Comparison) -> Check:
    count = len(compared.tables)
    with compared.target.connect() as connection:
        connection.execute("SELECT FROM public.one")  # a check may ask the restored database
    return Check(
        name="has_few_tables",
        verdict=Verdict.FAIL if count > 1 else Verdict.PASS,
        summary=f"{count} tables",
    )


def test_a_new_check_is_one_line(
    one_source: Source, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = CheckKind("has_few_tables", "There is one table at most.", has_few_tables)
    monkeypatch.setattr(checks, "CHECKS", (*checks.CHECKS, kind))
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE one (n int)")
    good = verify_backup(vault, take_backup(endpoint, vault, name="app"))
    assert good.checks[-1].name == "has_few_tables"
    assert good.verdict is Verdict.PASS

    one_source.execute(endpoint, "CREATE TABLE two (n int)")
    manifest = take_backup(endpoint, vault, name="app")
    bad = verify_backup(vault, manifest)
    assert bad.verdict is Verdict.FAIL
    assert [check.name for check in bad.checks if check.verdict is not Verdict.PASS] == [
        "has_few_tables"
    ]

    # One that is not reached is there all the same, and says why.
    assert isinstance(vault, LocalVault)
    (vault.path / f"{folder(manifest.backup_id)}archive/toc.dat").write_bytes(b"")
    damaged = verify_backup(vault, manifest)
    assert damaged.check("has_few_tables").verdict is Verdict.INCONCLUSIVE


def test_names_are_unique_and_found() -> None:
    assert len(set(checks.names())) == len(checks.CHECKS)
    assert [kind_of(name) for name in checks.names()] == list(checks.CHECKS)
    assert kind_of("of_a_later_release") is None


def test_the_readme_names_every_check_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", README.read_text(), re.M)
    assert [row for row in rows if row[0] in checks.names()] == [
        (kind.name, kind.description) for kind in checks.CHECKS
    ]
