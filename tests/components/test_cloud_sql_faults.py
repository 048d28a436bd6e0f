"""What goes wrong with a database in Cloud SQL, from Dagster's run to the instance and back.

Whatever it is: the run fails with what failed, to what, and what to do; no backup is listed; no
temporary instance is left, nor a right in the landing bucket.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest

from dagster_resil.cloudsql import ownership
from dagster_resil.cloudsql.client import CloudSql as Client
from dagster_resil.cloudsql.client import CloudSqlSettings
from dagster_resil.cloudsql.temporary import temporary_clone
from dagster_resil.components import event_log
from dagster_resil.components.cloud_sql import Accounts, Export, PointInTime
from dagster_resil.components.failure_alerts import build_alert_sensor
from dagster_resil.components.protected_database import CloudStorage, VaultPlace
from dagster_resil.demo.databases import load
from dagster_resil.errors import VaultError
from dagster_resil.localcloud.identities import LANDING_BUCKET, SCRATCH_PROJECT, address
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import client_for
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.local import LocalVault
from dagster_resil.workspace import Workspace
from tests.components.cloud_project import CloudProject, allow_landing, cloud_project
from tests.components.conftest import Webhook, failure
from tests.localcloud.cloud import running_cloud
from tests.localcloud.cloudsql import PASSWORD, PROJECT, RECOVERABLE, CloudSql

SOURCE = "orders"
_SOON_S = 240
"""What has to happen soon happens within seconds; a machine may have other things to do."""


@pytest.fixture(scope="module")
def home() -> Iterator[CloudSql]:
    """A cloud with one instance, protected against deletion, that the tests share."""
    with (
        Workspace() as space,
        running_cloud(space.path / "cloud") as cloud,
        CloudSql(cloud) as sql,
    ):
        settings = {"backupConfiguration": RECOVERABLE, "deletionProtectionEnabled": True}
        sql.make(SOURCE, settings=settings)
        yield sql


@pytest.fixture
def project(
    home: CloudSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudProject]:
    database = f"t{tmp_path.name[-30:]}_{os.getpid()}"
    home.execute(SOURCE, f'CREATE DATABASE "{database}" TEMPLATE template0')
    home.execute(
        SOURCE,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 500) n",
        "CREATE TABLE other AS SELECT n, 'of another' AS what FROM generate_series(1, 100) n",
        database=database,
    )
    yield from cloud_project(home, SOURCE, tmp_path, monkeypatch, database=database)
    home.cloud.mend()
    if home.state(SOURCE)["pid"] is None:
        restart(home)
    home.execute(SOURCE, f'DROP DATABASE "{database}" WITH (FORCE)')
    assert home.get(SOURCE)["settings"]["deletionProtectionEnabled"]


def restart(sql: CloudSql) -> None:
    sql.done(sql.instances.restart(project=PROJECT, instance=SOURCE))


def kill(sql: CloudSql, name: str = SOURCE, *, project: str = PROJECT) -> None:
    """End a server as a machine ends that loses its power."""
    pid = int(sql.state(name, project=project)["pid"])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread; what it raises is raised in the end."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    for error in wrong:
        raise error


def until(found: Callable[[], Any], awaited: str) -> Any:
    """Wait until something is there, and return it."""
    deadline = time.monotonic() + _SOON_S
    while not (what := found()):
        assert time.monotonic() < deadline, f"waited for {_SOON_S} s: {awaited}"
        time.sleep(0.01)
    return what


def operations(sql: CloudSql, kind: str) -> list[dict[str, Any]]:
    """Return the operations of a kind, in both projects."""
    found = []
    for each in (PROJECT, SCRATCH_PROJECT):
        answer = sql.operations.list(project=each, maxResults=100).execute()
        found += [item for item in answer.get("items", []) if item["operationType"] == kind]
    return found


def until_running(sql: CloudSql, kind: str) -> None:
    until(
        lambda: [each for each in operations(sql, kind) if each["status"] == "RUNNING"],
        f"an operation {kind} that runs",
    )


def listed(project: CloudProject) -> list[str]:
    """Return the manifests: also of a vault that was never made."""
    return [str(each) for each in project.vault.glob("app/manifests/*")]


def bindings(project: CloudProject) -> list[Any]:
    """Return who was let into the landing bucket."""
    policy = project.sql.cloud.client().bucket(LANDING_BUCKET).get_iam_policy()
    return [member for binding in policy.bindings for member in binding["members"]]


def refused(project: CloudProject, result: dg.ExecuteInProcessResult, *words: str) -> str:
    """See that a run failed with words that help, and that nothing is left of it."""
    assert not result.success
    said = failure(result)
    for word in words:
        assert word in said
    what, _, hint = said.partition("\nhint: ")
    assert what
    assert hint
    assert PASSWORD not in said
    assert listed(project) == []
    clean(project)
    return said


def clean(project: CloudProject) -> None:
    assert project.temporary() == []
    assert bindings(project) == []


def proved(project: CloudProject, result: dg.ExecuteInProcessResult) -> None:
    assert result.success, failure(result)
    wrong = [
        (check.name, check.summary, check.details)
        for receipt in project.backups().receipts(project.newest().backup_id)
        for check in receipt.checks
        if check.verdict is not Verdict.PASS
    ]
    assert not wrong
    assert set(project.verdicts().values()) == {"PASS"}
    clean(project)


def cloned(project: CloudProject, **more: Any) -> dict[str, Any]:
    return {"method": "export", "export": Export(landing=project.landing), **more}


def live(project: CloudProject, **more: Any) -> dict[str, Any]:
    export = Export(landing=project.landing, consistency="live")
    return {"method": "export", "export": export, **more}


# -- a source that is killed


def test_the_source_is_killed_while_it_is_read(project: CloudProject) -> None:
    sql = project.sql
    sql.execute(
        SOURCE,
        "INSERT INTO other SELECT n, repeat('x', 50) FROM generate_series(1, 100000) n",
        database=project.database,
    )

    def work() -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
        with sql.connect(SOURCE) as connection:
            until(lambda: connection.execute(query).fetchone() != (0,), "pg_dump")
            kill(sql)

    with meanwhile(work):
        result = project.materialize()
    refused(project, result, project.database, "127.0.0.1")


def killed_during(
    project: CloudProject, kind: str, config: dict[str, Any]
) -> dg.ExecuteInProcessResult:
    """Kill the source's server while an operation runs."""
    method = f"sql.instances.{kind.lower()}"
    project.sql.cloud.fault("operation_slow", method=method, seconds=0.5)

    def work() -> None:
        until_running(project.sql, kind)
        kill(project.sql)

    with meanwhile(work):
        return project.materialize(**config)


def test_the_source_is_killed_while_it_is_exported(project: CloudProject) -> None:
    allow_landing(project, SOURCE)
    refused(project, killed_during(project, "EXPORT", live(project)))


def test_the_source_is_killed_while_it_is_cloned(project: CloudProject) -> None:
    refused(project, killed_during(project, "CLONE", cloned(project)), f"clone instance {SOURCE}")


def test_the_source_is_killed_once_it_is_cloned(project: CloudProject) -> None:
    """The clone is all that the backup needs."""
    proved(project, killed_during(project, "EXPORT", cloned(project)))


# -- operations that fail, hang, or are not answered


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clone_fails(project: CloudProject, when: str) -> None:
    with project.sql.cloud.failing(
        "operation_failed", method="sql.instances.clone", when=when, message="No room for it."
    ):
        result = project.materialize(**cloned(project))
    refused(project, result, f"clone instance {SOURCE} to resil-tmp-", "No room for it.")


def test_an_answer_is_lost(project: CloudProject) -> None:
    """What was accepted, though the answer was an error, is not begun a second time."""
    cloud = project.sql.cloud
    before = [len(operations(project.sql, kind)) for kind in ("CLONE", "EXPORT")]
    for method in ("clone", "export"):
        cloud.fault("error", method=f"sql.instances.{method}", when="after", times=1)
    result = project.materialize(**cloned(project))
    assert cloud.struck() == [1, 1]
    after = [len(operations(project.sql, kind)) for kind in ("CLONE", "EXPORT")]
    assert after == [number + 1 for number in before]
    proved(project, result)


# -- a bucket that is denied


def test_who_clones_may_let_nobody_into_the_landing_bucket(project: CloudProject) -> None:
    with project.sql.cloud.failing("denied", permission="storage.buckets.setIamPolicy"):
        result = project.materialize(**cloned(project))
    said = refused(project, result, f"bucket {LANDING_BUCKET}", "storage.buckets.setIamPolicy")
    assert address("cloner") in said


def test_the_instance_may_not_write_into_the_landing_bucket(project: CloudProject) -> None:
    account = project.sql.get(SOURCE)["serviceAccountEmailAddress"]
    project.sql.allow(account, places={})
    result = project.materialize(**live(project))
    refused(project, result, f"export database {project.database}", "storage.objects.", account)


def test_who_backs_up_may_not_read_the_landing_bucket(project: CloudProject) -> None:
    allow_landing(project, SOURCE)
    with project.sql.cloud.failing(
        "denied", permission="storage.objects.*", caller=address("backup"), bucket=LANDING_BUCKET
    ):
        result = project.materialize(**live(project))
    refused(project, result, LANDING_BUCKET, "storage.objects.", address("backup"))


# -- an export that is damaged


@pytest.mark.parametrize("fault", ["export_truncated", "export_corrupted"])
def test_an_export_is_damaged(project: CloudProject, fault: str) -> None:
    allow_landing(project, SOURCE)
    project.sql.execute(
        SOURCE,
        "INSERT INTO other SELECT n, md5(n::text) FROM generate_series(1, 2000) n",
        database=project.database,
    )
    with project.sql.cloud.failing(fault, method="sql.instances.export", at_byte=20_000):
        result = project.materialize(**live(project))
    refused(project, result, "of an export, is damaged")


Files = dict[str, str]
"""What a file holds → its object's name."""


def _removed(project: CloudProject, files: Files, kind: str) -> None:
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    bucket.blob(files[kind]).delete()


def _exchanged(project: CloudProject, files: Files, kind: str) -> None:
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    other = {"item": "other", "blob": "another blob"}.get(kind, "item")
    blobs = [bucket.blob(files[each]) for each in (kind, other)]
    data = [blob.download_as_bytes(raw_download=True) for blob in blobs]
    for blob, content in zip(blobs, reversed(data), strict=True):
        blob.upload_from_string(content, content_type="application/octet-stream")


def _doubled(project: CloudProject, files: Files, kind: str) -> None:
    """Have a file twice: under its name without Google's compression, or one of the next number."""
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    name = files[kind]
    folder, _, file = name.rpartition("/")
    copy = {"blob": "blob_4711.dat.gz.gz", "item": "4711.dat.gz.gz"}.get(
        kind, file.removesuffix(".gz")
    )
    data = bucket.blob(name).download_as_bytes(raw_download=True)
    bucket.blob(f"{folder}/{copy}").upload_from_string(data)


@pytest.mark.parametrize("kind", ["toc", "item", "list", "blob"])
@pytest.mark.parametrize("damage", [_removed, _exchanged, _doubled])
def test_a_file_of_an_export(
    project: CloudProject,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[CloudProject, Files, str], None],
    kind: str,
) -> None:
    """Between export and reading a file is removed, exchanged for another, or doubled."""
    allow_landing(project, SOURCE)
    project.sql.execute(
        SOURCE,
        "SELECT lo_from_bytea(0, 'one'), lo_from_bytea(0, 'another one')",
        database=project.database,
    )
    done: list[bool] = []
    names = GcsVault.names

    def damaged(vault: GcsVault, prefix: str = "", **more: Any) -> Iterator[str]:
        found = list(names(vault, prefix, **more))
        if not done and found and f"gs://{LANDING_BUCKET}" in vault.url:
            done.append(True)
            files = _files(project, f"{vault.url.removeprefix(f'gs://{LANDING_BUCKET}/')}", found)
            damage(project, files, kind)
        return names(vault, prefix, **more)

    monkeypatch.setattr(GcsVault, "names", damaged)
    result = project.materialize(**live(project))
    assert done
    if result.success:
        # What only the comparison can tell: two large objects for each other.
        assert (damage, kind) == (_exchanged, "blob")
        assert "FAIL" in project.verdicts().values()
        clean(project)
    else:
        said = refused(project, result, "export")
        assert "report it" not in said


def _files(project: CloudProject, folder: str, found: list[str]) -> Files:
    """Tell an export's files by what they hold."""
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    files: Files = {}
    for each in found:
        name = f"{folder}/{each}"
        data = gzip.decompress(bucket.blob(name).download_as_bytes(raw_download=True))
        file = name.rpartition("/")[2]
        if file == "toc.dat.gz":
            files["toc"] = name
        elif file.endswith(".toc.gz"):
            files["list"] = name
        elif file.startswith("blob_"):
            files["another blob" if "blob" in files else "blob"] = name
        else:
            text = gzip.decompress(data)
            files["item" if b"item" in text else "other"] = name
    assert files.keys() == {"toc", "list", "blob", "another blob", "item", "other"}
    return files


# -- operations without an end


def test_an_export_that_does_not_end_is_cancelled(project: CloudProject) -> None:
    with project.sql.cloud.failing("operation_stuck", method="sql.instances.export"):
        result = project.materialize(**live(project, timeout_minutes=0.02))
    refused(project, result, f"export database {project.database}", "not ended within 1.2 s")
    assert {each["status"] for each in operations(project.sql, "EXPORT")} == {"DONE"}


def test_a_clone_that_takes_too_long_is_removed_later(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.sql.cloud.failing("operation_slow", method="sql.instances.clone", seconds=4):
        result = project.materialize(**cloned(project, timeout_minutes=0.02))
        assert not result.success
        said = failure(result)
        [left] = project.temporary()
        assert f"clone instance {SOURCE} to {left} of project scratch' has not ended" in said
        assert f"also: temporary instance {left} in project scratch is left" in said
        assert listed(project) == []
        until(
            lambda: all(each["status"] == "DONE" for each in operations(project.sql, "CLONE")),
            "the end of the clone",
        )
    # It is whole by now, but has no labels: a worker may be about to give it some.
    assert sweep(project) == f"{left} stays for now: it has no labels yet, and is young"
    monkeypatch.setattr("dagster_resil.cloudsql.temporary._TURN_S", 0)
    assert sweep(project) == f"removed {left}"
    clean(project)


def sweep(project: CloudProject, **config: Any) -> str:
    """Have the sensor tick once, and return what it says."""
    [sensor] = [each for each in project.defs(**config).sensors or () if "temporary" in each.name]
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.build_sensor_context(instance=project.instance) as context:
        return sensor.evaluate_tick(context).skip_message or ""


# -- a worker that is killed


_WORKER = """
import json, sys
from pathlib import Path
import dagster as dg
from tests.components.cloud_project import CloudProject
name, folder, vault, landing, database, key, config = sys.argv[1:]
pools = {"concurrency": {"pools": {"default_limit": 1, "granularity": "op"}}}
with dg.DagsterInstance.local_temp(folder, overrides=pools) as instance:
    project = CloudProject(None, name, instance, Path(vault), landing, database)
    sys.exit(0 if project.materialize(key or None, **json.loads(config)).success else 4)
"""


def worker(project: CloudProject, key: str = "", **config: Any) -> subprocess.Popen[bytes]:
    """Start a run in a process of its own."""
    command = [sys.executable, "-c", _WORKER, project.instance_name]
    command += [project.instance.root_directory, str(project.vault), project.landing]
    command += [project.database, key, json.dumps(config)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def test_what_a_killed_worker_has_left(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor removes that, once Dagster knows of the run's end, and nothing else."""
    sql = project.sql
    for key, value in sql.cloud.running.environment("owner").items():
        monkeypatch.setenv(key, value)
    # Beside the source, where there is the most to be mistaken for one of ours.
    config: dict[str, Any] = {"accounts": {}, "temporary_project": None}
    active = project.instance.create_run_for_job(
        project.defs(**config).resolve_job_def("app_backup"), status=dg.DagsterRunStatus.STARTED
    )
    client = Client(CloudSqlSettings(project=PROJECT))
    others = ["resil-tmp-somebodys", replica_name()]
    for owner in (active.run_id, str(uuid.uuid4())):
        others.append(ownership.new_name(PROJECT, SOURCE, owner))
        client.clone(SOURCE, others[-1])
        client.label(others[-1], ownership.labels(SOURCE, owner=owner, purpose="backfill"))
    sql.done(sql.clone(SOURCE, others[0]))  # it has inherited its source's protection
    sql.make_replica(SOURCE, others[1])
    sql.cloud.fault("operation_stuck", method="sql.instances.export")

    export = {"landing": project.landing}
    try:
        with worker(project, method="export", export=export, **config) as killed:
            try:
                until_running(sql, "EXPORT")
            finally:
                killed.kill()
        [left] = set(project.temporary()) - set(others)
        assert listed(project) == []
        assert sweep(project, **config) == "no temporary instance was left"

        [run] = [
            each
            for each in project.instance.get_runs()
            if each.status is dg.DagsterRunStatus.STARTED and each.run_id != active.run_id
        ]
        assert run.run_id in left
        project.instance.report_run_failed(run, "the worker is gone")
        # Its export is under way still: an instance with an operation can't be deleted.
        assert sweep(project, **config) == f"{left} stays for now: an operation has it"
        [stuck] = [each for each in operations(sql, "EXPORT") if each["targetId"] == left]
        sql.operations.cancel(project=PROJECT, operation=stuck["name"]).execute()
        until(
            lambda: all(each["status"] == "DONE" for each in operations(sql, "EXPORT")),
            "the end of the export",
        )

        assert sweep(project, **config) == f"removed {left}"
        assert sorted(project.temporary()) == sorted(others)
        assert sql.get(SOURCE)["state"] == "RUNNABLE"
        assert sql.get(others[0])["settings"]["deletionProtectionEnabled"]
    finally:
        sql.cloud.mend()
        for name in project.temporary():
            if "masterInstanceName" not in sql.get(name):
                sql.patch(name, deletionProtectionEnabled=False)
            sql.delete(name)
        policy = sql.cloud.client().bucket(LANDING_BUCKET).get_iam_policy()
        policy.bindings = []
        sql.cloud.client().bucket(LANDING_BUCKET).set_iam_policy(policy)


def replica_name() -> str:
    """Return a name that would be one of ours, for what can't be one."""
    return ownership.new_name(PROJECT, SOURCE, "a-run")


# -- the drill


def drilled(project: CloudProject, **config: Any) -> tuple[str, str]:
    """Try recovery; return the verdict and its words."""
    result = project.run("app_drill", project.defs(**config))
    assert result.success, failure(result)
    clean(project)
    found = project.drilled()
    return found.metadata["verdict"].value, found.description


def test_a_drill_of_a_moment_with_a_transaction_under_way(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    """What it had written may be there or not: that is nobody's fault, and is told all the same."""
    monkeypatch.setattr(event_log, "_SETTLED_S", 0.0)
    alerts = build_alert_sensor(15)
    with dg.build_sensor_context(instance=project.instance) as context:
        cursor = alerts.evaluate_tick(context).cursor
    with project.sql.connect(SOURCE, project.database) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM item WHERE id > 400")
        taken = project.materialize()
        assert taken.success, failure(taken)
        assert project.newest().snapshot.in_progress == 1
        connection.execute("COMMIT")
    real = temporary_clone

    def later(*words: Any, **options: Any) -> Any:
        """Recover to a moment that has the commit."""
        return real(*words, **{**options, "moment": None})

    monkeypatch.setattr("dagster_resil.cloudsql.drill.temporary_clone", later)
    verdict, words = drilled(project)
    assert verdict == "INCONCLUSIVE"
    assert "public.item: 100 rows missing; 1 transactions were under way or had just" in words

    # A backup with nothing under way says more: a difference is a failure then.
    again = project.materialize()
    assert again.success, failure(again)
    project.sql.execute(SOURCE, "DELETE FROM item WHERE id > 300", database=project.database)
    verdict, words = drilled(project)
    assert verdict == "FAIL"
    assert "public.item: 100 rows missing" in words

    with dg.build_sensor_context(instance=project.instance, cursor=cursor) as context:
        alerts.evaluate_tick(context)
    where = "app/point_in_time_recovery, recovers_to_a_moment"
    assert sorted(webhook.titles) == [f"FAIL: {where}", f"INCONCLUSIVE: {where}"]


def test_an_archive_that_lags(project: CloudProject) -> None:
    """Both figures are told, whether a backup lies in the window or not."""
    taken = project.materialize()
    assert taken.success, failure(taken)
    point = {"point_in_time": PointInTime(recovery_point_minutes=0.02)}
    with project.sql.connect(SOURCE, project.database) as connection:
        connection.execute("CREATE TABLE newer ()")
    taken_at = project.newest().snapshot.taken_at
    until(lambda: newest_moment(project.sql) > taken_at, "WAL of later than the backup")
    project.sql.cloud.fault("archive_lag", instance=SOURCE)
    time.sleep(1.5)
    verdict, words = drilled(project, **point)
    assert verdict == "FAIL"
    assert re.search(r"exactly, but the newest moment .* is \d+ s ago, more than 1 s", words)

    for entry in project.vault.glob("app/manifests/*"):
        entry.unlink()
    again = project.materialize()
    assert again.success, failure(again)
    time.sleep(1.5)
    verdict, words = drilled(project, **point)
    assert verdict == "FAIL"
    assert re.search(r"is \d+ s ago, more than 1 s; no backup shows .* that lies in", words)
    verdict, words = drilled(project)
    assert verdict == "INCONCLUSIVE"


def newest_moment(sql: CloudSql) -> datetime:
    """Return the newest moment that can be recovered."""
    method = sql.api().projects().instances().getLatestRecoveryTime
    answer = method(project=PROJECT, instance=SOURCE).execute()
    return datetime.fromisoformat(answer["latestRecoveryTime"].replace("Z", "+00:00"))


def test_a_drill_whose_clone_can_not_be_read(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = project.materialize()
    assert taken.success, failure(taken)
    monkeypatch.setenv("APP_PASSWORD", "a-wrong-one")
    result = project.run("app_drill", project.defs())
    assert not result.success
    said = failure(result)
    assert "password authentication failed" in said
    assert "a-wrong-one" not in said
    clean(project)


def lost(*words: object) -> None:
    raise VaultError("the disk is full", hint="free some")


def test_what_was_found_counts_whatever_fails_after_it(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails, because a clone that is left costs money; the verdict is not lost."""
    taken = project.materialize()
    assert taken.success, failure(taken)
    project.sql.cloud.fault("denied", method="sql.instances.delete")
    result = project.run("app_drill", project.defs())
    assert not result.success
    [left] = project.temporary()
    said = failure(result)
    assert f"temporary instance {left} in project scratch is left" in said
    assert "grant cloudsql.instances.delete on project scratch" in said
    assert project.drilled().passed
    assert left in project.drilled().metadata["failure"].value
    [receipt] = project.backups().vault.names("app/drills/")
    assert json.loads(project.backups().vault.read(receipt))["verdict"] == "PASS"

    project.sql.cloud.mend()
    assert sweep(project) == f"removed {left}"
    with monkeypatch.context() as patch:
        patch.setattr(LocalVault, "put", lost)
        result = project.run("app_drill", project.defs())
    assert not result.success
    assert "the disk is full" in failure(result)
    assert project.drilled().passed
    clean(project)
    project.sql.cloud.fault("denied", method="sql.instances.delete")

    result = project.materialize(**cloned(project))
    assert not result.success
    said = failure(result)
    [second] = project.temporary()
    newest = project.newest()
    assert f"temporary instance {second} in project scratch is left" in said
    assert f"also: backup {newest.backup_id} was taken and is whole: the job app_verify" in said

    project.sql.cloud.mend()
    assert sweep(project).startswith("removed ")
    clean(project)


# -- who may do what


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


# -- what is done to the database meanwhile


def during_export(
    project: CloudProject, work: Callable[[], None], **config: Any
) -> dg.ExecuteInProcessResult:
    """Do something after the snapshot and before the export has read anything."""
    allow_landing(project, SOURCE)
    cloud = project.sql.cloud
    cloud.fault("operation_slow", method="sql.instances.export", seconds=1, times=1)

    def wait_and_work() -> None:
        until_running(project.sql, "EXPORT")
        work()

    with meanwhile(wait_and_work):
        return project.materialize(**live(project, **config))


def test_a_table_is_truncated_while_it_is_exported(project: CloudProject) -> None:
    """It has to wait for us, the export would have to wait for it, and we for the export.

    So do our own dump of the definitions, and the sessions that count: whichever has waited for
    too long first says so.
    """
    begun = time.monotonic()
    result = during_export(
        project,
        lambda: project.sql.execute(SOURCE, "TRUNCATE item", database=project.database),
        lock_timeout_seconds=0.5,
    )
    said = refused(project, result, project.database, "public.item", "TRUNCATE")
    assert re.search("waited for (0.5 s|too long) to lock|could not be locked to count", said)
    assert time.monotonic() - begun < _SOON_S
    query = "SELECT count(*) FROM item"
    assert project.sql.rows(SOURCE, query, database=project.database) == [(0,)]


def test_a_large_object_is_written_while_it_is_exported(project: CloudProject) -> None:
    result = during_export(
        project,
        lambda: project.sql.execute(
            SOURCE, "SELECT lo_from_bytea(0, 'new')", database=project.database
        ),
    )
    refused(project, result, "large objects of", "consistency: clone")


def test_definitions_change_while_they_are_exported(project: CloudProject) -> None:
    """A new snapshot is taken; what came, and what came in another's place, is in the backup."""
    sql = project.sql
    sql.execute(
        SOURCE,
        "CREATE SEQUENCE counter",
        "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 41'",
        database=project.database,
    )
    result = during_export(
        project,
        lambda: sql.execute(
            SOURCE,
            "CREATE TABLE passing ()",
            "DROP TABLE passing",
            "CREATE TABLE passing AS SELECT 1 AS one",
            "CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'",
            "SELECT nextval('counter') FROM generate_series(1, 100)",
            database=project.database,
        ),
    )
    proved(project, result)
    assert {table.name for table in project.newest().tables} == {"item", "other", "passing"}


def test_a_sequence_advances_while_it_is_exported(project: CloudProject) -> None:
    sql = project.sql
    sql.execute(SOURCE, "CREATE SEQUENCE counter", database=project.database)
    stop = threading.Event()

    def work() -> None:
        with sql.connect(SOURCE, project.database) as connection:
            while not stop.wait(0.005):
                connection.execute("SELECT nextval('counter')")

    allow_landing(project, SOURCE)
    with meanwhile(work):
        try:
            result = project.materialize(**live(project))
        finally:
            stop.set()
    proved(project, result)


def test_a_hostile_database_by_an_export_of_a_clone(project: CloudProject) -> None:
    """With a table that no clone has the rows of."""
    sql = project.sql
    sql.execute(
        SOURCE, "CREATE UNLOGGED TABLE passing AS SELECT 1 AS one", database=project.database
    )
    _load_hostile(project)
    result = project.materialize(**cloned(project))
    proved(project, result)
    unlogged, mappings = project.newest().left_out
    assert "public.passing" in unlogged
    assert "the export may have them" in mappings
    [receipt] = project.vault.glob("app/receipts/*/*.json")
    assert "public.passing" in " ".join(json.loads(receipt.read_text())["not_checked"])

    # What no login but a superuser is shown is not in a backup of ours, and is told.
    proved(project, project.materialize())
    [left_out] = project.newest().left_out
    assert "options of user mappings (3)" in left_out


def _load_hostile(project: CloudProject) -> None:
    """Load the demo's hostile database; that takes a superuser, which ``postgres`` is not."""
    cloud_sql = project.sql
    endpoint = Endpoint(
        {
            "host": "127.0.0.1",
            "port": str(cloud_sql.state(SOURCE)["port"]),
            "user": "cloudsqladmin",
            "dbname": project.database,
        },
        (cloud_sql.cloud.folder / "sql" / "secret").read_text().strip(),
    )
    load(endpoint, client_for(cloud_sql.major), "hostile")
    with endpoint.connect(autocommit=True) as connection:
        connection.execute("GRANT pg_read_all_data TO postgres")
        connection.execute("ALTER ROLE postgres BYPASSRLS")
        for (number,) in connection.execute("SELECT oid FROM pg_largeobject_metadata").fetchall():
            connection.execute(f"GRANT SELECT ON LARGE OBJECT {number} TO postgres")


# -- two at a time


def test_one_temporary_instance_at_a_time(project: CloudProject) -> None:
    """Runs of two partitions share a pool; the second waits."""
    sql = project.sql
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    sql.tell("past", (today - timedelta(days=2)).isoformat())
    sql.make_recoverable("past")
    sql.execute("past", "CREATE TABLE item AS SELECT n FROM generate_series(1, 10) n")
    sql.tell("past", datetime.now(UTC).isoformat())
    sql.execute("past", "INSERT INTO item VALUES (11)")
    most = 0
    ended = threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(0.02):
            most = max(most, len(project.temporary()))

    # Two runs that are the first of a pool both make its slots.
    project.instance.event_log_storage.set_concurrency_slots("app_backup", 1)
    both = replace(project, instance_name="past", database="postgres")
    with meanwhile(look):
        try:
            runs = [worker(both, f"{today - timedelta(days=n):%Y-%m-%d}") for n in (1, 2)]
            assert [run.wait(_SOON_S) for run in runs] == [0, 0]
        finally:
            ended.set()
    assert most == 1
    assert len(listed(both)) == 2
    clean(project)
    sql.delete("past")
