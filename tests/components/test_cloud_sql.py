"""A database in Cloud SQL, by way of Dagster: both ways to take, the past, and the drill."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from google.api_core.exceptions import Conflict

from dagster_resil.cloudsql.temporary import PREFIX, temporary_clone
from dagster_resil.components.cloud_sql import Accounts, CloudSqlDatabase, Export, PointInTime
from dagster_resil.components.partitions import open_key
from dagster_resil.components.protected_database import ProtectedDatabase, VaultPlace
from dagster_resil.localcloud.identities import LANDING_BUCKET, SCRATCH_PROJECT, address
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.model import Manifest
from dagster_resil.verify.verdict import Verdict
from tests.components.conftest import failure
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

    def defs(self, **config: Any) -> dg.Definitions:
        component = ProtectedDatabase(
            name="app",
            vault=VaultPlace(url=self.vault.as_uri()),
            start=f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}",
            cloud_sql=CloudSqlDatabase(
                instance=f"{PROJECT}:europe-west1:{self.instance_name}",
                database="postgres",
                password_env="APP_PASSWORD",
                temporary_project=SCRATCH_PROJECT,
                accounts=Accounts(backup=address("backup"), clone=address("cloner")),
                **{"point_in_time": PointInTime(), **config},
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
        from dagster_resil.vault import open_vault

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


@pytest.fixture
def project(
    sql: CloudSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudProject]:
    name = sql.make_recoverable()
    sql.execute(
        name,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 500) n",
        "CREATE TABLE other AS SELECT n FROM generate_series(1, 100) n",
        "CREATE TABLE unlikely ()",
    )
    yield from _project(sql, name, tmp_path, monkeypatch)


def _project(
    sql: CloudSql, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudProject]:
    with contextlib.suppress(Conflict):
        sql.cloud.client().bucket(LANDING_BUCKET).create(location="europe-west1")
    # The process itself may do nothing but act as one of two accounts.
    for key, value in sql.cloud.running.environment("operator").items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield CloudProject(sql, name, instance, tmp_path / "vault", f"gs://{LANDING_BUCKET}/{name}")


def allow_landing(project: CloudProject, name: str) -> None:
    """Let an instance write into the landing bucket."""
    account = project.sql.get(name)["serviceAccountEmailAddress"]
    bucket = project.landing.split("/")[2]
    rights = [f"storage.objects.{verb}" for verb in ("create", "get", "list", "delete")]
    project.sql.allow(account, places={bucket: rights})


def test_by_a_snapshot(project: CloudProject) -> None:
    result = project.materialize()
    assert result.success, failure(result)
    assert set(project.verdicts().values()) == {"PASS"}
    manifest = project.newest()
    assert manifest.engine == "pg_dump"
    assert manifest.source.instance == f"{PROJECT}:europe-west1:{project.instance_name}"
    assert manifest.rows == 600
    assert project.temporary() == []


def test_from_a_replica(project: CloudProject) -> None:
    replica = project.sql.make_replica(project.instance_name)
    result = project.materialize(read_from=replica)
    assert result.success, failure(result)
    assert set(project.verdicts().values()) == {"PASS"}
    assert project.newest().source.port != project.sql.get(project.instance_name)["dnsName"]


def test_the_past_is_recovered(
    sql: CloudSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each day has a row more; each backup has the rows of its day's end."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=n) for n in (3, 2, 1)]
    name = "past"
    sql.tell(name, (days[0] + timedelta(hours=1)).isoformat())
    sql.make_recoverable(name)
    sql.execute(name, "CREATE TABLE item (id int PRIMARY KEY)")
    for number, day in enumerate(days):
        sql.tell(name, (day + timedelta(hours=12)).isoformat())
        sql.execute(name, f"INSERT INTO item VALUES ({number})")
    sql.tell(name, datetime.now(UTC).isoformat())
    sql.execute(name, "INSERT INTO item SELECT n FROM generate_series(100, 150) n")
    for project in _project(sql, name, tmp_path, monkeypatch):
        for number, day in enumerate(days):
            result = project.materialize(f"{day:%Y-%m-%d}")
            assert result.success, failure(result)
            assert set(project.verdicts().values()) == {"PASS"}, project.verdicts()
            [entry] = project.backups().for_partition("app", f"{day:%Y-%m-%d}")
            manifest = entry.manifest
            assert manifest.rows == number + 1
            assert manifest.recovered is not None
            assert manifest.partition is not None
            assert not manifest.partition.late
            assert manifest.recovered.moment == manifest.snapshot.taken_at
            assert day < manifest.snapshot.taken_at < day + timedelta(days=1)
        live = project.materialize()
        assert live.success, failure(live)
        assert project.newest().rows == 54
        assert project.newest().recovered is None

        before = f"{days[0] - timedelta(days=2):%Y-%m-%d}"
        refused = project.materialize(before)
        assert not refused.success
        assert "can be recovered to moments from" in failure(refused)
        without = project.materialize(
            f"{days[0]:%Y-%m-%d}", point_in_time=PointInTime(backfill=False)
        )
        assert "point-in-time recovery" in failure(without)
        assert len(project.backups().entries("app").backups) == 4
        assert project.temporary() == []


def test_the_drill(project: CloudProject) -> None:
    nothing = project.run("app_drill", project.defs())
    assert nothing.success
    assert project.drilled().metadata["verdict"].value == "INCONCLUSIVE"
    assert "no backup's snapshot" in project.drilled().description

    taken = project.materialize()
    assert taken.success, failure(taken)
    project.sql.execute(project.instance_name, "DELETE FROM item WHERE id > 10")
    drilled = project.run("app_drill", project.defs())
    assert drilled.success, failure(drilled)
    assert project.drilled().passed, project.drilled().description
    assert project.drilled().metadata["restore_seconds"].value > 0
    assert project.drilled().metadata["recovery_point_seconds"].value < 900
    assert project.temporary() == []
    [receipt] = list(project.backups().vault.names("app/drills/"))
    assert receipt.endswith(".json")
    # It says nothing of the backup itself.
    assert project.backups().entries("app").backups[0].receipts == 1


def test_a_drill_that_finds_another_state(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = project.materialize()
    assert taken.success, failure(taken)
    real = temporary_clone

    def later(*words: Any, **options: Any) -> Any:
        """Recover to a moment that has other rows."""
        project.sql.execute(project.instance_name, "DELETE FROM item WHERE id > 10")
        return real(*words, **{**options, "moment": None})

    monkeypatch.setattr("dagster_resil.verify.drill.temporary_clone", later)
    drilled = project.run("app_drill", project.defs())
    assert drilled.success, failure(drilled)
    found = project.drilled()
    assert not found.passed
    assert found.metadata["verdict"].value == "FAIL"
    assert "public.item: 490 rows missing" in found.description
    assert project.backups().entries("app").backups[0].verdict is Verdict.PASS


def test_by_an_export_of_a_clone(project: CloudProject) -> None:
    """A clone's own identity is new: it is let into the landing bucket for a time."""
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=(project, stop))
    writer.start()
    try:
        result = project.materialize(method="export", export=Export(landing=project.landing))
    finally:
        stop.set()
        writer.join()
    assert result.success, failure(result)
    assert set(project.verdicts().values()) == {"PASS"}, project.verdicts()
    manifest = project.newest()
    assert manifest.engine == "cloudsql_export"
    assert manifest.tools["archive"].startswith("15.")
    assert project.temporary() == []


def test_by_an_export_of_what_is_written_to(project: CloudProject) -> None:
    allow_landing(project, project.instance_name)
    live = Export(landing=project.landing, consistency="live")
    quiet = project.materialize(method="export", export=live)
    assert quiet.success, failure(quiet)
    assert set(project.verdicts().values()) == {"PASS"}, project.verdicts()

    stop = threading.Event()
    writer = threading.Thread(target=_write, args=(project, stop))
    writer.start()
    try:
        result = project.materialize(method="export", export=live)
    finally:
        stop.set()
        writer.join()
    assert result.success, failure(result)
    verdicts = project.verdicts()
    assert verdicts["contents_match"] == verdicts["row_counts_match"] == "INCONCLUSIVE"
    assert verdicts["restores_cleanly"] == verdicts["schema_matches"] == "PASS"
    assert {t.name for t in project.newest().tables if not t.settled} == {"item"}
    assert project.temporary() == []


def _write(project: CloudProject, stop: threading.Event) -> None:
    """Write to one table, all the while."""
    number = 1000
    with project.sql.connect(project.instance_name) as connection:
        while not stop.wait(0.01):
            number += 1
            connection.execute("INSERT INTO item VALUES (%s, 'new')", [number])


def test_the_janitor(project: CloudProject) -> None:
    [sensor] = [s for s in project.defs().sensors or () if "temporary" in s.name]
    assert isinstance(sensor, dg.SensorDefinition)
    context = dg.build_sensor_context(instance=project.instance)
    data = sensor.evaluate_tick(context)
    assert "no temporary instance" in (data.skip_message or "")
    assert project.sql.get(project.instance_name)["state"] == "RUNNABLE"
