"""Cloud SQL's processes: they come back after a restart, and end with whom they belong to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.workspace import Workspace
from tests.localcloud.cloud import running_cloud
from tests.localcloud.cloudsql import PROJECT, CloudSql


@pytest.fixture
def folder() -> Iterator[Path]:
    with Workspace() as space:
        yield space.path / "it's 100% a cloud"


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlives what it belongs to"
        time.sleep(0.05)


def test_what_is_there_after_a_restart(folder: Path) -> None:
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        primary = sql.make_recoverable("kept")
        sql.tell(primary, "2031-01-01T00:00:00Z")
        replica = sql.make_replica(primary)
        sql.execute(primary, "CREATE TABLE t AS SELECT 1 AS x")
        sql.done(sql.api().backupRuns().insert(project=PROJECT, instance=primary, body={}))
        before = {name: sql.get(name) for name in (primary, replica)}
        pids = [sql.state(name)["pid"] for name in (primary, replica)]
        sql.make("off")
        sql.patch("off", activationPolicy="NEVER")
        sql.cloud.fault("operation_stuck")
        stuck = sql.instances.restart(project=PROJECT, instance=replica).execute()
        making = sql.instances.insert(project=PROJECT, body=sql.body("half")).execute()
        sql.wait(stuck, status="RUNNING")
    gone(*pids)
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        for operation in (stuck, making):
            ended = sql.operations.get(project=PROJECT, operation=operation["name"]).execute()
            assert ended["status"] == "DONE"
            assert ended["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
        assert sql.state("off")["pid"] is None
        assert sql.get("half")["state"] == "FAILED"
        sql.delete("half")
        for name, old in before.items():
            new = sql.get(name)
            assert new["dnsName"] == old["dnsName"]
            assert new["settings"] == old["settings"]
            assert new["serviceAccountEmailAddress"] == old["serviceAccountEmailAddress"]
        assert sql.rows(primary, "SELECT x FROM t") == [(1,)]
        runs = sql.api().backupRuns().list(project=PROJECT, instance=primary).execute()
        assert [each["status"] for each in runs["items"]] == ["SUCCESSFUL"]
        assert runs["items"][0]["endTime"].startswith("2031-01-01T00:00:")
        sql.execute(primary, "INSERT INTO t VALUES (2)")
        deadline = time.monotonic() + 20
        while sql.rows(replica, "SELECT count(*) FROM t") != [(2,)]:
            assert time.monotonic() < deadline, "it streams no more"
            time.sleep(0.05)
        sql.done(sql.clone(primary, at="2031-01-01T00:00:00Z"))


def test_a_crash_leaves_nothing_running(folder: Path) -> None:
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        name = sql.make()
        sql.execute(name, "CREATE TABLE t AS SELECT 1 AS x")
        pid = sql.state(name)["pid"]
        sql.cloud.fault("operation_stuck", method="sql.instances.delete")
        deleting = sql.instances.delete(project=PROJECT, instance=name).execute()
        os.kill(cloud.running.pid, signal.SIGKILL)
        gone(cloud.running.pid, pid)
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        ended = sql.operations.get(project=PROJECT, operation=deleting["name"]).execute()
        assert ended["error"]["errors"]
        assert sql.get(name)["state"] == "RUNNABLE"
        assert sql.rows(name, "SELECT x FROM t") == [(1,)]


_PARENT = """
import sys, time
from pathlib import Path
from tests.localcloud.cloud import running_cloud
from tests.localcloud.cloudsql import CloudSql

with running_cloud(Path(sys.argv[1])) as cloud, CloudSql(cloud) as sql:
    name = sql.make()
    print(cloud.running.pid, sql.state(name)["pid"], flush=True)
    time.sleep(60)
"""


def test_everything_ends_with_its_parent(folder: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    gone(*pids)
