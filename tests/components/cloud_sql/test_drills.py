"""The drill, where something is in its way."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any

import dagster as dg
import pytest

from dagster_resil.cloudsql.temporary import temporary_clone
from dagster_resil.components import event_log
from dagster_resil.components.cloud_sql import PointInTime
from dagster_resil.components.failure_alerts import build_alert_sensor
from dagster_resil.errors import VaultError
from dagster_resil.vault.local import LocalVault
from tests.components.cloud_project import CloudProject
from tests.components.cloud_sql.faults import (
    SOURCE,
    clean,
    cloned,
    drilled,
    sweep,
    until,
)
from tests.components.conftest import Webhook, failure
from tests.localcloud.cloudsql import PROJECT, CloudSql


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
    assert re.search(r"is \d+ s ago, more than 1 s; no backup of .* has a snapshot within", words)
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
