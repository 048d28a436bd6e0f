"""What the tests of faults share: waiting, killing, and what every failure has to leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_resil.components.cloud_sql import Export
from dagster_resil.localcloud.identities import LANDING_BUCKET, SCRATCH_PROJECT
from dagster_resil.records.verdict import Verdict
from tests.components.cloud_project import CloudProject
from tests.components.conftest import failure
from tests.localcloud.cloudsql import PASSWORD, PROJECT, CloudSql

SOURCE = "orders"
SOON_S = 240
"""What has to happen soon happens within seconds; a machine may have other things to do."""


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
    deadline = time.monotonic() + SOON_S
    while not (what := found()):
        assert time.monotonic() < deadline, f"waited for {SOON_S} s: {awaited}"
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


def sweep(project: CloudProject, **config: Any) -> str:
    """Have the sensor tick once, and return what it says."""
    [sensor] = [each for each in project.defs(**config).sensors or () if "temporary" in each.name]
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.build_sensor_context(instance=project.instance) as context:
        return sensor.evaluate_tick(context).skip_message or ""


def drilled(project: CloudProject, **config: Any) -> tuple[str, str]:
    """Try recovery; return the verdict and its words."""
    result = project.run("app_drill", project.defs(**config))
    assert result.success, failure(result)
    clean(project)
    found = project.drilled()
    return found.metadata["verdict"].value, found.description
