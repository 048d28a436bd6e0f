"""A Dagster project whose database is in the local Cloud SQL, for the tests of that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from google.api_core.exceptions import Conflict

from dagster_resil.cloudsql.temporary import PREFIX
from dagster_resil.components.cloud_sql import Accounts, CloudSqlDatabase, PointInTime
from dagster_resil.components.partitions import open_key
from dagster_resil.components.protected_database import ProtectedDatabase, VaultPlace
from dagster_resil.localcloud.identities import LANDING_BUCKET, SCRATCH_PROJECT, address
from dagster_resil.records.manifest import Manifest
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from tests.localcloud.cloudsql import PASSWORD, PROJECT, CloudSql

ASSET = dg.AssetKey(["app", "backup"])
DRILL = dg.AssetCheckKey(dg.AssetKey(["app", "point_in_time_recovery"]), "recovers_to_a_moment")


@dataclass
class CloudProject:
    """A Dagster project with one database in Cloud SQL."""

    sql: CloudSql
    instance_name: str
    instance: dg.DagsterInstance
    vault: Path
    landing: str
    database: str = "postgres"

    def defs(self, **config: Any) -> dg.Definitions:
        component = ProtectedDatabase(
            name="app",
            vault=config.pop("vault", None) or VaultPlace(url=self.vault.as_uri()),
            compare=config.pop("compare", "contents"),
            lock_timeout_seconds=config.pop("lock_timeout_seconds", 60),
            start=f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}",
            cloud_sql=CloudSqlDatabase(
                **{
                    "instance": f"{PROJECT}:europe-west1:{self.instance_name}",
                    "database": self.database,
                    "password_env": "APP_PASSWORD",
                    "temporary_project": SCRATCH_PROJECT,
                    "accounts": Accounts(backup=address("backup"), clone=address("cloner")),
                    "point_in_time": PointInTime(),
                    **config,
                }
            ),
        )
        return component.build_defs(None)  # type: ignore[arg-type]

    def run(self, job: str, defs: dg.Definitions, **options: Any) -> dg.ExecuteInProcessResult:
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, raise_on_error=False, **options
        )

    def materialize(self, key: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        defs = self.defs(**config)
        partitions = defs.resolve_job_def("app_backup").partitions_def
        assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
        return self.run("app_backup", defs, partition_key=key or open_key(partitions))

    def backups(self) -> Backups:
        return Backups(open_vault(self.vault.as_uri()))

    def newest(self) -> Manifest:
        return self.backups().entries("app").backups[0].manifest

    def verdicts(self) -> dict[str, str]:
        """Return what each check said last."""
        found = {}
        for check in (
            "archive_intact",
            "restores_cleanly",
            "row_counts_match",
            "contents_match",
            "schema_matches",
        ):
            [record] = self.instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(ASSET, check), limit=1
            )
            assert record.event is not None
            assert record.event.dagster_event is not None
            data = record.event.dagster_event.asset_check_evaluation_data
            found[check] = str(data.metadata["verdict"].value)
        return found

    def drilled(self) -> Any:
        [record] = self.instance.event_log_storage.get_asset_check_execution_history(DRILL, limit=1)
        assert record.event is not None
        assert record.event.dagster_event is not None
        return record.event.dagster_event.asset_check_evaluation_data

    def temporary(self) -> list[str]:
        found = []
        for project in (PROJECT, SCRATCH_PROJECT):
            items = self.sql.instances.list(project=project).execute().get("items", [])
            found += [each["name"] for each in items if each["name"].startswith(PREFIX)]
        return found


def cloud_project(
    sql: CloudSql,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    database: str = "postgres",
) -> Iterator[CloudProject]:
    """Yield a project, of an instance that is there."""
    with contextlib.suppress(Conflict):
        sql.cloud.client().bucket(LANDING_BUCKET).create(location="europe-west1")
    # The process itself may do nothing but act as one of two accounts.
    for key, value in sql.cloud.running.environment("operator").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield CloudProject(
            sql, name, instance, tmp_path / "vault", f"gs://{LANDING_BUCKET}/{name}", database
        )


def allow_landing(project: CloudProject, name: str) -> None:
    """Let an instance write into the landing bucket."""
    account = project.sql.get(name)["serviceAccountEmailAddress"]
    bucket = project.landing.split("/")[2]
    rights = [f"storage.objects.{verb}" for verb in ("create", "get", "list", "delete")]
    project.sql.allow(account, places={bucket: rights})
