"""Clones, points in time, the told clock, backups: exactly the state of a moment."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from googleapiclient.errors import HttpError

from dagster_resil.localcloud.sql.clock import Clock
from dagster_resil.localcloud.sql.discovery import parse_time
from tests.localcloud.cloudsql import PROJECT, RECOVERABLE, CloudSql, fits, reason


def window(sql: CloudSql, name: str) -> tuple[datetime, datetime]:
    answer = (
        sql.api()
        .projects()
        .instances()
        .getLatestRecoveryTime(project=PROJECT, instance=name)
        .execute()
    )
    fits("SqlInstancesGetLatestRecoveryTimeResponse", answer)
    assert answer["kind"] == "sql#getLatestRecoveryTime"
    return parse_time(answer["earliestRecoveryTime"]), parse_time(answer["latestRecoveryTime"])


def destination(operation: dict[str, Any]) -> str:
    return str(operation["targetId"])


def test_a_clone_is_the_source_as_it_is(sql: CloudSql) -> None:
    source = sql.make(settings={"deletionProtectionEnabled": True, "userLabels": {"team": "x"}})
    sql.execute(source, "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
    operation = sql.done(sql.clone(source, "a-clone"))
    assert (operation["operationType"], destination(operation)) == ("CLONE", "a-clone")
    assert sql.rows("a-clone", "SELECT count(*), sum(g) FROM t") == [(1000, 500500)]

    clone = sql.get("a-clone")
    assert clone["settings"]["deletionProtectionEnabled"] is True
    assert "userLabels" not in clone["settings"]
    assert clone["serviceAccountEmailAddress"] != sql.get(source)["serviceAccountEmailAddress"]
    identifier = "SELECT system_identifier FROM pg_control_system()"
    assert sql.rows("a-clone", identifier) == sql.rows(source, identifier)
    # They are two from now on.
    sql.execute("a-clone", "INSERT INTO t VALUES (0)")
    assert sql.rows(source, "SELECT count(*) FROM t") == [(1000,)]


def test_a_clone_that_failed_can_be_deleted(sql: CloudSql) -> None:
    source = sql.make(settings={"deletionProtectionEnabled": True})
    sql.cloud.fault("operation_failed", method="sql.instances.clone")
    sql.failed(sql.clone(source, "a-clone"))
    sql.cloud.mend()
    where = {"project": PROJECT, "instance": "a-clone"}
    for refused_request in (
        sql.instances.delete(**where),
        sql.instances.patch(**where, body={"settings": {"dataDiskSizeGb": "20"}}),
    ):
        with pytest.raises(HttpError) as refused:
            refused_request.execute()
        assert refused.value.resp.status == 400
    sql.patch("a-clone", deletionProtectionEnabled=False, userLabels={"a": "b"})
    found = sql.get("a-clone")
    assert (found["state"], found["settings"]["userLabels"]) == ("FAILED", {"a": "b"})
    sql.delete("a-clone")


def test_a_clone_into_another_project(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    sql.execute(source, "CREATE TABLE t AS SELECT 1 AS x")
    operation = sql.done(sql.clone(source, source, project="scratch"))
    assert operation["targetProject"] == "scratch"
    assert sql.rows(source, "SELECT x FROM t", project="scratch") == [(1,)]
    names = [each["name"] for each in sql.instances.list(project="scratch").execute()["items"]]
    assert names == [source]


@pytest.mark.parametrize("major", [15, 17])
def test_a_point_in_time_is_exactly_that(sql: CloudSql, major: int) -> None:
    source = sql.make_recoverable(major=major)
    moments = []
    with sql.connect(source) as connection:
        connection.execute("CREATE TABLE t (x int)")
        for number in range(4):
            connection.execute("INSERT INTO t VALUES (%s)", [number])
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            moments.append(row[0])
            time.sleep(0.01)
        connection.execute("DROP TABLE t")
    time.sleep(0.01)
    for number in (1, 3):
        operation = sql.done(sql.clone(source, at=moments[number]))
        found = sql.rows(destination(operation), "SELECT x FROM t ORDER BY x")
        assert [x for (x,) in found] == list(range(number + 1))
    # A moment that is quiet: the last commit was before it.
    _, latest = window(sql, source)
    operation = sql.done(sql.clone(source, at=latest))
    assert sql.rows(destination(operation), "SELECT to_regclass('t')") == [(None,)]
    # The clone has a window of its own.
    earliest, latest = window(sql, destination(operation))
    assert moments[-1] < earliest <= latest


def test_the_window(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    earliest, latest = window(sql, source)
    assert earliest <= latest
    sql.execute(source, "CREATE TABLE t (x int)")
    committed = datetime.now(UTC)
    assert window(sql, source)[1] >= committed - timedelta(milliseconds=1)
    for wrong in (earliest - timedelta(seconds=1), datetime.now(UTC) + timedelta(minutes=1)):
        with pytest.raises(HttpError, match="not within the recovery window") as refused:
            sql.clone(source, at=wrong).execute()
        assert reason(refused) == (400, "invalidRequest")
    without = sql.make()
    with pytest.raises(HttpError, match="not enabled") as refused:
        window(sql, without)
    assert refused.value.resp.status == 400
    with pytest.raises(HttpError, match="not enabled"):
        sql.clone(without, at=datetime.now(UTC)).execute()


def test_recovery_that_is_enabled_later(sql: CloudSql) -> None:
    source = sql.make()
    sql.execute(source, "CREATE TABLE t AS SELECT 1 AS x")
    sql.patch(source, backupConfiguration={"enabled": True, "pointInTimeRecoveryEnabled": True})
    earliest, _ = window(sql, source)
    sql.execute(source, "INSERT INTO t VALUES (2)")
    _, latest = window(sql, source)
    sql.execute(source, "INSERT INTO t VALUES (3)")
    operation = sql.done(sql.clone(source, at=latest))
    assert sql.rows(destination(operation), "SELECT max(x) FROM t") == [(2,)]
    operation = sql.done(sql.clone(source, at=earliest))
    assert sql.rows(destination(operation), "SELECT max(x) FROM t") == [(1,)]


def test_the_archive_lags(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    sql.execute(source, "CREATE TABLE t (x int)")
    _, before = window(sql, source)
    sql.cloud.fault("archive_lag", instance=source)
    sql.execute(source, "INSERT INTO t VALUES (1)")
    assert window(sql, source)[1] == before
    with pytest.raises(HttpError, match="not within the recovery window"):
        sql.clone(source, at=datetime.now(UTC)).execute()
    operation = sql.done(sql.clone(source, at=before))
    assert sql.rows(destination(operation), "SELECT count(*) FROM t") == [(0,)]
    sql.cloud.mend()
    assert window(sql, source)[1] > before
    operation = sql.done(sql.clone(source, at=window(sql, source)[1]))
    assert sql.rows(destination(operation), "SELECT count(*) FROM t") == [(1,)]


def test_clones_of_clones(sql: CloudSql) -> None:
    first = sql.make_recoverable()
    sql.execute(first, "CREATE TABLE t AS SELECT 1 AS x")
    second = destination(sql.done(sql.clone(first, at=window(sql, first)[1])))
    sql.execute(second, "INSERT INTO t VALUES (2)")
    at = window(sql, second)[1]
    sql.execute(second, "INSERT INTO t VALUES (3)")
    third = destination(sql.done(sql.clone(second, at=at)))
    assert sql.rows(third, "SELECT x FROM t ORDER BY x") == [(1,), (2,)]


def test_a_replica_that_was_promoted_has_a_window(sql: CloudSql) -> None:
    primary = sql.make_recoverable()
    replica = sql.make_replica(primary)
    sql.done(sql.instances.promoteReplica(project=PROJECT, instance=replica))
    sql.patch(replica, backupConfiguration=RECOVERABLE)
    sql.execute(replica, "CREATE TABLE t AS SELECT 1 AS x")
    at = window(sql, replica)[1]
    sql.execute(replica, "INSERT INTO t VALUES (2)")
    clone = destination(sql.done(sql.clone(replica, at=at)))
    assert sql.rows(clone, "SELECT x FROM t") == [(1,)]


def test_a_source_that_is_dead_is_recovered_from_its_archive(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    sql.execute(source, "CREATE TABLE t AS SELECT 1 AS x")
    latest = window(sql, source)[1]
    os.kill(sql.state(source)["pid"], signal.SIGKILL)
    while sql.state(source)["pid"] is not None:
        time.sleep(0.02)
    assert window(sql, source)[1] == latest
    clone = destination(sql.done(sql.clone(source, at=latest)))
    assert sql.rows(clone, "SELECT x FROM t") == [(1,)]


def test_days_that_were_told(sql: CloudSql) -> None:
    source = "told"
    sql.tell(source, "2026-11-19T12:00:00Z")
    sql.make_recoverable(source)
    assert sql.get(source)["createTime"].startswith("2026-11-19T12:")
    sql.execute(source, "CREATE TABLE t (day int)")
    for day in (20, 21, 22):
        sql.tell(source, f"2026-11-{day}T00:00:00Z")
        sql.execute(source, f"INSERT INTO t VALUES ({day})")
    sql.tell(source, "2026-11-23T09:00:00Z")
    earliest, latest = window(sql, source)
    assert earliest.isoformat().startswith("2026-11-19T12:")
    assert latest.isoformat().startswith("2026-11-23T09:")
    # A day's end, and a time that was jumped over.
    for at, days in (
        ("2026-11-21T00:00:00Z", [20]),
        ("2026-11-21T18:30:00Z", [20, 21]),
        ("2026-11-23T00:00:00Z", [20, 21, 22]),
    ):
        operation = sql.done(sql.clone(source, at=at))
        assert operation["insertTime"].startswith("2026-11-23T09:")
        clone = destination(operation)
        assert [day for (day,) in sql.rows(clone, "SELECT day FROM t ORDER BY 1")] == days
    run = sql.done(sql.api().backupRuns().insert(project=PROJECT, instance=source, body={}))
    assert run["endTime"].startswith("2026-11-23T09:")
    # Beyond the days that are kept, nothing is recovered.
    sql.tell(source, "2026-11-28T00:00:00Z")
    assert window(sql, source)[0].isoformat().startswith("2026-11-21T00:00:")


def test_a_clock_only_goes_forward(sql: CloudSql) -> None:
    source = sql.make()
    for wrong in ("2026-01-01T00:00:00Z", "yesterday", ""):
        answer = requests.post(
            f"{sql.cloud.url}/localcloud/clock",
            json={"instance": source, "now": wrong},
            timeout=10,
        )
        assert answer.status_code == 400
    told = {
        each["instance"]: each["now"]
        for each in requests.get(f"{sql.cloud.url}/localcloud/clock", timeout=10).json()["clocks"]
    }
    assert abs(parse_time(told[source]) - datetime.now(UTC)) < timedelta(seconds=30)


def test_told_and_real_times() -> None:
    def at(text: str) -> datetime:
        return parse_time(f"2026-11-{text}:00Z")

    clock = Clock().set(at("01T00:00"), real=at("25T08:00"))
    clock = clock.set(at("02T00:00"), real=at("25T08:10"))
    assert clock.told(at("25T08:05")) == at("01T00:05")
    assert clock.told(at("25T08:11")) == at("02T00:01")
    assert clock.told(at("24T00:00")) == at("01T00:00")
    assert clock.real(at("01T00:05")) == at("25T08:05")
    assert clock.real(at("01T12:00")) == at("25T08:10")
    assert clock.real(at("02T00:00")) == at("25T08:10")
    assert clock.real(at("02T00:01")) == at("25T08:11")
    assert Clock.of_json(clock.to_json()) == clock
    with pytest.raises(ValueError, match="can't go back"):
        clock.set(at("01T23:00"), real=at("25T08:12"))
    assert Clock().real(at("03T00:00")) == at("03T00:00")


# -- backups


def test_a_backup_and_its_restore(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    runs = sql.api().backupRuns()
    sql.execute(source, "CREATE TABLE t AS SELECT 1 AS x")
    operation = sql.done(
        runs.insert(project=PROJECT, instance=source, body={"description": "before the change"})
    )
    assert operation["operationType"] == "BACKUP_VOLUME"
    number = operation["backupContext"]["backupId"]
    run = runs.get(project=PROJECT, instance=source, id=number).execute()
    fits("BackupRun", run)
    assert (run["status"], run["type"], run["description"]) == (
        "SUCCESSFUL",
        "ON_DEMAND",
        "before the change",
    )
    sql.execute(source, "INSERT INTO t VALUES (2)")
    moment = window(sql, source)[1]
    second = sql.done(runs.insert(project=PROJECT, instance=source, body={}))
    listed = runs.list(project=PROJECT, instance=source, maxResults=1).execute()
    assert [each["id"] for each in listed["items"]] == [second["backupContext"]["backupId"]]
    listed = runs.list(
        project=PROJECT, instance=source, pageToken=listed["nextPageToken"]
    ).execute()
    assert [each["id"] for each in listed["items"]] == [number]

    context = {"backupRunId": number, "instanceId": source, "project": PROJECT}
    sql.done(
        sql.instances.restoreBackup(
            project=PROJECT, instance=source, body={"restoreBackupContext": context}
        )
    )
    assert sql.rows(source, "SELECT x FROM t") == [(1,)]
    # Its history begins anew.
    assert window(sql, source)[0] > moment
    sql.execute(source, "INSERT INTO t VALUES (3)")
    clone = destination(sql.done(sql.clone(source, at=window(sql, source)[1])))
    assert sql.rows(clone, "SELECT x FROM t ORDER BY x") == [(1,), (3,)]

    # Into another instance, which it replaces.
    other = sql.make()
    sql.done(
        sql.instances.restoreBackup(
            project=PROJECT, instance=other, body={"restoreBackupContext": context}
        )
    )
    assert sql.rows(other, "SELECT x FROM t") == [(1,)]

    sql.done(runs.delete(project=PROJECT, instance=source, id=number))
    with pytest.raises(HttpError) as refused:
        runs.get(project=PROJECT, instance=source, id=number).execute()
    assert reason(refused) == (404, "backupRunDoesNotExist")


def test_a_recovery_begins_with_the_last_backup_before(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    sql.execute(source, "CREATE TABLE t AS SELECT 1 AS x")
    before = window(sql, source)[1]
    run = sql.done(sql.api().backupRuns().insert(project=PROJECT, instance=source, body={}))
    sql.execute(source, "INSERT INTO t VALUES (2)")
    after = window(sql, source)[1]
    for at, count in ((before, 1), (after, 2)):
        clone = destination(sql.done(sql.clone(source, at=at)))
        assert sql.rows(clone, "SELECT count(*) FROM t") == [(count,)]
    assert run["status"] == "DONE"


def test_a_large_clone_is_quick(sql: CloudSql) -> None:
    source = sql.make_recoverable()
    sql.execute(
        source,
        "CREATE TABLE t AS SELECT g, md5(g::text) AS m FROM generate_series(1, 200000) g",
    )
    at = window(sql, source)[1]
    begun = time.monotonic()
    clone = destination(sql.done(sql.clone(source, at=at)))
    took = time.monotonic() - begun
    assert sql.rows(clone, "SELECT count(*) FROM t") == [(200_000,)]
    assert took < 10  # about 1 s on a quiet machine
