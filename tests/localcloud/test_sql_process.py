"""Cloud SQL's processes: they come back after a restart, and end with whom they belong to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dagster_resil.workspace import Workspace
from tests.localcloud.cloud import running_cloud
from tests.localcloud.cloudsql import PROJECT, CloudSql


@pytest.fixture(scope="module")
def seed() -> Iterator[Path]:
    """What a cloud has made once it has had an instance: the next one need not make it again."""
    with Workspace() as space:
        with running_cloud(space.path / "cloud") as cloud, CloudSql(cloud) as sql:
            sql.make()
            sql.remove_all()
        yield space.path / "cloud" / "sql"


@pytest.fixture
def folder(seed: Path) -> Iterator[Path]:
    with Workspace() as space:
        folder = space.path / "it's 100% a cloud"
        for place in (folder, folder / "sql", folder / "sql" / "servers"):
            place.mkdir(mode=0o711)
        for name in ("secret", "servers/templates"):
            subprocess.run(["cp", "-Rp", seed / name, folder / "sql" / name], check=True)
        yield folder


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
        assert runs["items"][0]["endTime"].startswith("2031-01-01T00:")
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


@pytest.mark.parametrize("wait_s", [0.05, 0.3])
def test_a_crash_in_the_middle_of_making(folder: Path, wait_s: float) -> None:
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        source = sql.make_recoverable()
        sql.execute(source, "CREATE TABLE t AS SELECT g FROM generate_series(1, 200000) g")
        at = datetime.now(UTC)
        sql.execute(source, "INSERT INTO t VALUES (0)")
        begun = [
            sql.clone(source, "a-clone", at=at).execute(),
            sql.instances.insert(project=PROJECT, body=sql.body("new")).execute(),
        ]
        time.sleep(wait_s)
        os.kill(cloud.running.pid, signal.SIGKILL)
        gone(cloud.running.pid)
    deadline = time.monotonic() + 20
    while busy := processes_in(folder):
        assert time.monotonic() < deadline, busy
        time.sleep(0.05)
    with running_cloud(folder) as cloud, CloudSql(cloud) as sql:
        for operation in begun:
            ended = sql.operations.get(project=PROJECT, operation=operation["name"]).execute()
            assert ended["status"] == "DONE"
            if "error" in ended:
                assert sql.get(ended["targetId"])["state"] == "FAILED"
                sql.delete(ended["targetId"])
        sql.done(sql.clone(source, "again", at=at))
        assert sql.rows("again", "SELECT count(*) FROM t") == [(200_000,)]


def processes_in(folder: Path) -> list[str]:
    """Return the commands that run and name a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (place / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command and lives(int(place.name)):
                found.append(command.replace("\0", " "))
    return found


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
