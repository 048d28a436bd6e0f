"""Who may do what, and what nobody is told."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

from dagster_resil.components.cloud_sql import Accounts
from dagster_resil.components.protected_database import CloudStorage, VaultPlace
from dagster_resil.localcloud.identities import LANDING_BUCKET, SCRATCH_PROJECT
from tests.components.cloud_project import CloudProject
from tests.components.cloud_sql.faults import (
    SOURCE,
    cloned,
    drilled,
    live,
    meanwhile,
    proved,
    refused,
    sweep,
)
from tests.components.conftest import failure
from tests.localcloud.cloudsql import PROJECT


def test_each_account_does_its_own_part(project: CloudProject) -> None:
    """The permissions of the documentation's table are enough; another's are not."""
    sql = project.sql
    bucket = sql.cloud.bucket()
    backup = sql.allow(
        "only-backup",
        places={
            **_instances(PROJECT, "get", "export"),
            **_instances(SCRATCH_PROJECT, "get", "export"),
            bucket.name: [f"storage.objects.{verb}" for verb in ("create", "get", "list")],
            LANDING_BUCKET: ["storage.objects.get", "storage.objects.list"],
        },
    )
    clone = sql.allow(
        "only-clone",
        places={
            **_instances(PROJECT, "get", "clone"),
            **_instances(SCRATCH_PROJECT, "create", "get", "list", "update", "delete"),
            LANDING_BUCKET: ["storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy"],
        },
    )
    acting = [f"iam.serviceAccounts.getAccessToken:only-{each}" for each in ("backup", "clone")]
    sql.allow("operator", places={"*": acting})
    try:
        vault = _vault(bucket.name, backup)
        accounts = Accounts(backup=backup, clone=clone)
        taken = project.materialize(**cloned(project, accounts=accounts, vault=vault))
        assert taken.success, failure(taken)
        assert set(project.verdicts().values()) == {"PASS"}
        tried = project.run("app_drill", project.defs(accounts=accounts, vault=vault))
        assert tried.success, failure(tried)
        assert sweep(project, accounts=accounts) == "no temporary instance was left"

        alone = Accounts(backup=backup, clone=backup)
        result = project.materialize(**cloned(project, accounts=alone))
        refused(project, result, "cloudsql.instances.clone", f"{PROJECT} to {backup}")
        alone = Accounts(backup=clone)
        result = project.materialize(**live(project, accounts=alone))
        refused(project, result, "cloudsql.instances.export", f"{PROJECT} to {clone}")
        other = sql.cloud.bucket().name
        result = project.materialize(accounts=alone, vault=_vault(other, clone))
        refused(project, result, f"gs://{other}", "storage.objects.", clone)
        assert list(sql.cloud.client().list_blobs(other)) == []
    finally:
        sql.allow(
            "operator",
            places={
                "*": [f"iam.serviceAccounts.getAccessToken:{each}" for each in ("backup", "cloner")]
            },
        )


def _instances(project: str, *verbs: str) -> dict[str, list[str]]:
    return {f"projects/{project}": [f"cloudsql.instances.{verb}" for verb in verbs]}


def _vault(bucket: str, account: str) -> VaultPlace:
    return VaultPlace(url=f"gs://{bucket}/v", cloud_storage=CloudStorage(impersonate=account))


def test_no_secret_is_told(
    project: CloudProject,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Not in events, logs, configuration, backups, receipts, requests, nor in any command line."""
    caplog.set_level(logging.DEBUG)
    secret = f"{secrets.token_hex(8)}#secret/{secrets.token_hex(8)}"
    sql = project.sql
    role = f"reader_{secrets.token_hex(3)}"
    sql.execute(SOURCE, f"CREATE ROLE {role} LOGIN PASSWORD '{secret}' IN ROLE pg_read_all_data")
    monkeypatch.setenv("APP_PASSWORD", secret)
    sql.cloud.forget()
    ended = threading.Event()
    seen: set[bytes] = set()

    def look() -> None:
        while not ended.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(file.read_bytes())

    with meanwhile(look):
        try:
            proved(project, project.materialize(**cloned(project, user=role)))
            assert drilled(project, user=role)[0] == "INCONCLUSIVE"
            assert project.materialize(user=role).success
            assert drilled(project, user=role)[0] == "PASS"
            failed = project.materialize(user=role, database="not-there")
            assert not failed.success
        finally:
            ended.set()
    assert any(b"pg_dump" in each for each in seen)
    said = capfd.readouterr()
    told = [caplog.text, said.out, said.err, json.dumps(sql.cloud.requests())]
    told += [each.decode(errors="replace") for each in seen]
    for run in project.instance.get_runs():
        told += [str(run), *map(str, project.instance.all_logs(run.run_id))]
    told += [each.name for each in sql.cloud.client().list_blobs(LANDING_BUCKET)]
    files = [each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()]
    assert any(b"app_backup" in each for each in files)
    for each in (secret, quote(secret, safe=""), "ya29."):
        assert not [text for text in told if each in text]
        assert not [data for data in files if each.encode() in data]
    sql.execute(SOURCE, f"DROP ROLE {role}")
