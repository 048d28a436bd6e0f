"""A database in Cloud SQL, by way of Dagster: both ways to take, the past, and the drill."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_resil.cloudsql import client as api
from dagster_resil.cloudsql.temporary import temporary_clone
from dagster_resil.components.cloud_sql import CloudSqlDatabase, Export, PointInTime
from dagster_resil.components.protected_database import ProtectedDatabase, VaultPlace
from dagster_resil.localcloud.identities import SCRATCH_PROJECT
from dagster_resil.records.verdict import Verdict
from tests.components.cloud_project import CloudProject, allow_landing, cloud_project
from tests.components.conftest import failure
from tests.localcloud.cloudsql import PASSWORD, PROJECT, CloudSql


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
    yield from cloud_project(sql, name, tmp_path, monkeypatch)


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
    assert f"localhost:{project.newest().source.port}" == project.sql.get(replica)["dnsName"]


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
    for project in cloud_project(sql, name, tmp_path, monkeypatch):
        for number, day in enumerate(days):
            result = project.materialize(f"{day:%Y-%m-%d}")
            assert result.success, failure(result)
            assert set(project.verdicts().values()) == {"PASS"}, project.verdicts()
            taken = [entry.manifest for entry in project.backups().entries("app").backups]
            [manifest] = [
                each for each in taken if each.partition and each.partition.key == f"{day:%Y-%m-%d}"
            ]
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
    assert "no backup of" in project.drilled().description

    project.sql.execute(project.instance_name, "CREATE UNLOGGED TABLE passing AS SELECT 1 AS n")
    taken = project.materialize()
    project.sql.execute(project.instance_name, "DROP TABLE passing")
    assert taken.success, failure(taken)
    project.sql.execute(project.instance_name, "DELETE FROM item WHERE id > 10")
    drilled = project.run("app_drill", project.defs())
    assert drilled.success, failure(drilled)
    assert project.drilled().passed, project.drilled().description
    assert "600 rows in 3 tables as they were; not compared: public.passing (unlogged" in (
        project.drilled().description
    )
    assert project.drilled().metadata["restore_seconds"].value > 0
    assert project.drilled().metadata["recovery_point_seconds"].value < 900
    assert project.temporary() == []
    [receipt] = list(project.backups().vault.names("app/drills/"))
    assert receipt.endswith(".json")
    # It says nothing of the backup itself.
    assert project.backups().entries("app").backups[0].receipts == 1


def test_a_drill_after_a_backup_that_only_counted(project: CloudProject) -> None:
    """What was in the rows nobody knows, so nobody can say that they are as they were."""
    taken = project.run(
        "app_backup", project.defs(compare="counts"), partition_key=f"{datetime.now(UTC):%Y-%m-%d}"
    )
    assert taken.success, failure(taken)
    assert project.run("app_drill", project.defs()).success
    assert project.drilled().metadata["verdict"].value == "INCONCLUSIVE"
    assert "recorded counts only" in project.drilled().description


def test_a_drill_passes_over_what_shows_another_instance(project: CloudProject) -> None:
    """One that the database was in before, or what a clone was like."""
    taken = project.materialize()
    assert taken.success, failure(taken)
    [file] = project.vault.glob("app/manifests/*")
    document = json.loads(file.read_text())
    document["source"]["instance"] = "local:europe-west1:earlier"
    file.chmod(0o600)
    file.write_text(json.dumps(document))
    assert project.run("app_drill", project.defs()).success
    assert project.drilled().metadata["verdict"].value == "INCONCLUSIVE"
    assert f"no backup of local:europe-west1:{project.instance_name}" in (
        project.drilled().description
    )


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

    monkeypatch.setattr("dagster_resil.cloudsql.drill.temporary_clone", later)
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


def test_what_a_clone_writes_by_itself_is_told(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_cron goes on in a clone."""
    real = api.CloudSql.export

    def export(self: api.CloudSql, name: str, **options: Any) -> None:
        with project.sql.connect(name, project=SCRATCH_PROJECT) as connection:
            connection.execute("UPDATE other SET n = n + 1 WHERE n = 1")
        real(self, name, **options)

    monkeypatch.setattr(api.CloudSql, "export", export)
    result = project.materialize(method="export", export=Export(landing=project.landing))
    assert result.success, failure(result)
    assert {t.name for t in project.newest().tables if not t.settled} == {"other"}
    assert project.verdicts()["contents_match"] == "INCONCLUSIVE"


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


def test_only_a_replica_stands_for_the_source(project: CloudProject) -> None:
    """One that was promoted has the same name, and soon other rows."""
    replica = project.sql.make_replica(project.instance_name)
    project.sql.done(project.sql.instances.promoteReplica(project=PROJECT, instance=replica))
    for other in (replica, project.sql.make()):
        result = project.materialize(read_from=other)
        assert not result.success
        assert f"{other} is no replica of {project.instance_name}" in failure(result)
    elsewhere = project.materialize(instance=f"{PROJECT}:us-east1:{project.instance_name}")
    assert "is in europe-west1" in failure(elsewhere)
    assert not project.vault.exists()


def test_a_login_that_was_not_there_at_that_moment(
    sql: CloudSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    sql.tell("late", (yesterday + timedelta(hours=1)).isoformat())
    name = sql.make_recoverable("late")
    sql.execute(name, "CREATE TABLE item AS SELECT 1 AS n")
    sql.tell(name, datetime.now(UTC).isoformat())
    sql.execute(name, f"CREATE ROLE late LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_read_all_data")
    for project in cloud_project(sql, name, tmp_path, monkeypatch):
        result = project.materialize(f"{yesterday:%Y-%m-%d}", user="late")
        assert not result.success
        said = failure(result)
        assert (
            f"in the clone of {PROJECT}:europe-west1:late as of {yesterday:%Y-%m-%d}T23:59" in said
        )
        assert "must have existed at that moment" in said
        assert project.temporary() == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"password_env": "hunter-2!"}, "NAME of an environment variable"),
        ({"password_env": None}, "either 'password_env' or 'iam: true'"),
        ({"iam": True}, "either 'password_env' or 'iam: true'"),
        ({"instance": "orders"}, "project:region:instance"),
        ({"accounts": {"backup": "bob"}}, "e-mail address"),
        ({"method": "export"}, "says where exports land"),
        ({"export": {"landing": "gs://b-1/x"}}, "is for 'method: export'"),
        ({"method": "export", "export": {"landing": "file:///tmp/x"}}, "gs://bucket/folder"),
        ({"method": "export", "export": {"landing": "gs://vault-1/x"}}, "another bucket"),
        (
            {
                "method": "export",
                "export": {"landing": "gs://b-1/x"},
                "point_in_time": {"drill": "1 2 * * *"},
            },
            "a 'drill' compares with backups by 'method: snapshot'",
        ),
    ],
)
def test_what_can_not_be_meant(config: dict[str, Any], words: str) -> None:
    database = {"instance": "p:r:i", "database": "d", "password_env": "APP_PASSWORD", **config}
    with pytest.raises(ValueError, match=words) as error:
        ProtectedDatabase(
            name="app",
            vault=VaultPlace(url="gs://vault-1/prod"),
            cloud_sql=CloudSqlDatabase(**database),
        )
    assert "hunter" not in str(error.value)


def test_a_secret_for_a_name_is_not_repeated(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = project.materialize(password_env="hunter2")
    assert not result.success
    assert "is not set where Dagster runs this" in failure(result)
    assert "hunter2" not in failure(result)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("connection: {url: 'postgresql://u:hunter2@h/x'}", "'url' does not belong in a file"),
        ("connection: {url_env: X, password: hunter2}", "as 'password_env'"),
        ("connection: {url_evn: hunter2}", "Extra inputs are not permitted"),
        ("connection: {url_env: 'hunter2@'}", "NAME of an environment variable"),
        ("cloud_sql: {instance: 'p:r:i', database: x, password: hunter2}", "'password_env'"),
        ("cloud_sql: {instance: 'p:r:i', database: x, pasword: hunter2}", "cloud_sql"),
        (
            "cloud_sql: {instance: 'p:r:i', database: x, password_env: 'hunter2@'}",
            "NAME of an environment variable",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # parse_obj_as, of Dagster
def test_a_secret_in_yaml_is_not_repeated(typed: str, words: str) -> None:
    """Dagster quotes what it was given in its errors, which its pages and logs show."""
    text = f"name: app\nvault: {{url: 'gs://bucket'}}\n{typed}\n"
    with pytest.raises(Exception, match=r".") as raised:
        ProtectedDatabase.resolve_from_yaml(text)
    said = "".join(traceback.format_exception(raised.value))
    assert words in said
    assert "hunter2" not in said
