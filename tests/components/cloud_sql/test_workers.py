"""A worker that is killed, and two that want the same."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_resil.cloudsql import ownership
from dagster_resil.cloudsql.client import CloudSql as Client
from dagster_resil.cloudsql.client import CloudSqlSettings
from dagster_resil.localcloud.identities import LANDING_BUCKET
from tests.components.cloud_project import CloudProject
from tests.components.cloud_sql.faults import (
    SOON_S,
    SOURCE,
    clean,
    listed,
    meanwhile,
    operations,
    sweep,
    until,
    until_running,
)
from tests.localcloud.cloudsql import PROJECT

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
    return subprocess.Popen(command, cwd=Path(__file__).parents[3])


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
        assert sweep(project, **config) == f"{left} stays for now: an operation is running on it"
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
            assert [run.wait(SOON_S) for run in runs] == [0, 0]
        finally:
            ended.set()
    assert most == 1
    assert len(listed(both)) == 2
    clean(project)
    sql.delete("past")
