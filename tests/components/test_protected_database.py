"""The real component, on a real Dagster instance and a real PostgreSQL."""

import logging
import os
import secrets
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from pydantic import ValidationError

from dagster_resil.components import ProtectedDatabase
from dagster_resil.components.partitions import open_key, partition_of, spread
from dagster_resil.components.protected_database import Cron
from dagster_resil.demo.damage import flip_one_byte
from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.scratch import sweep
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.layout import manifest_name
from dagster_resil.verify.checks import names
from tests.components.conftest import ASSET, Project, component, failure, restored
from tests.conftest import owner_session


def test_a_materialization_is_taken_and_proved(project: Project) -> None:
    result = project.materialize()

    assert result.success
    [event] = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert event.partition == project.open
    assert metadata["rows"].value == metadata["dagster/row_count"].value == 500
    assert metadata["backup_id"].value == project.newest().manifest.backup_id
    assert {"bytes", "seconds", "bytes_per_second", "snapshot_at", "lsn", "tables"} <= set(metadata)
    partition = project.newest().manifest.partition
    assert partition is not None
    assert (partition.key, partition.late) == (project.open, False)
    for check in names():
        assert project.evaluations(check) == [(True, "ERROR", project.open)]


def test_a_second_materialization_is_a_second_backup(project: Project) -> None:
    assert project.materialize().success
    assert project.materialize().success
    partition = partition_of(project.partitions, project.open)
    assert len(project.backups().for_partition("app", partition).backups) == 2


def test_a_past_partition_is_refused_with_the_reason(project: Project) -> None:
    past = project.partitions.get_partition_keys()[0]
    result = project.run("app_backup", partition_key=past)
    assert not result.success
    assert "nothing was taken" in failure(result)
    assert project.open in failure(result)
    assert not project.vault.exists()


def test_a_window_within_its_grace_is_late(project: Project) -> None:
    from dagster_resil.components.partitions import live_partition

    key = project.partitions.get_partition_keys()[-2]
    end = project.partitions.time_window_for_partition_key(key).end
    just_after = end.astimezone(UTC) + timedelta(minutes=5)
    assert live_partition(project.partitions, key, grace_s=600, now=just_after).late
    with pytest.raises(dg.Failure, match="ended at"):
        live_partition(project.partitions, key, grace_s=60, now=just_after)
    with pytest.raises(dg.Failure, match="begins at"):
        live_partition(project.partitions, key, grace_s=0, now=end - timedelta(days=5))


@pytest.mark.parametrize("job", ["app_verify", "app_restore"])
def test_a_job_without_a_partition_is_refused(project: Project, job: str) -> None:
    result = project.run(job)
    assert "needs a partition" in failure(result)


@pytest.mark.parametrize("job", ["app_verify", "app_restore"])
def test_a_partition_without_a_backup_is_refused(project: Project, job: str) -> None:
    project.vault.mkdir()
    result = project.run(job, partition_key=project.partitions.get_partition_keys()[3])
    assert "has no" in failure(result)
    assert "hint:" in failure(result)


def test_a_damaged_backup_is_a_red_check(project: Project) -> None:
    assert project.materialize().success
    flip_one_byte(project.newest(), "public", "item")

    assert project.run("app_verify", partition_key=project.open).success

    assert project.evaluations("archive_intact")[0] == (False, "ERROR", project.open)
    assert project.evaluations("contents_match")[0] == (False, "WARN", project.open)


def test_an_older_backup_leaves_the_checks_as_the_newest_has_them(project: Project) -> None:
    def verify(backup_id: str) -> dg.ExecuteInProcessResult:
        config = {"ops": {"app_verify_backup": {"config": {"backup_id": backup_id}}}}
        return project.run("app_verify", partition_key=project.open, run_config=config)

    assert project.materialize().success
    older = project.newest()
    assert project.materialize().success
    newest = project.newest()
    flip_one_byte(newest, "public", "item")
    assert verify(newest.manifest.backup_id).success
    told = {check: project.evaluations(check) for check in names()}
    assert told["archive_intact"][0] == (False, "ERROR", project.open)

    result = verify(older.manifest.backup_id)
    assert result.success, failure(result)
    [output] = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata = output.step_output_data.metadata
    assert metadata["backup_id"].value == older.manifest.backup_id
    assert metadata["verdict"].value == "PASS"
    assert newest.manifest.backup_id in str(metadata["not_in_the_checks"].value)

    flip_one_byte(older, "public", "item")
    said = failure(verify(older.manifest.backup_id))
    assert f"FAIL: {older.manifest.backup_id}: archive_intact: public.item" in said
    assert "hint:" in said
    assert project.backups().verdict(older.manifest.backup_id) is Verdict.FAIL

    # Whether one is the newest can't be told where a manifest can't be read.
    file = project.vault / manifest_name(newest.manifest.backup_id)
    file.chmod(0o600)
    file.write_text("{")
    assert "FAIL" in failure(verify(older.manifest.backup_id))
    assert {check: project.evaluations(check) for check in names()} == told


def test_a_backup_that_is_no_longer_the_newest_leaves_the_checks(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.materialize().success
    put_receipt = Backups.put_receipt

    def after_another_is_taken(backups: Backups, receipt: Receipt) -> str:
        monkeypatch.setattr(Backups, "put_receipt", put_receipt)
        assert project.materialize().success
        return backups.put_receipt(receipt)

    monkeypatch.setattr(Backups, "put_receipt", after_another_is_taken)
    assert project.run("app_verify", partition_key=project.open).success
    assert len(project.evaluations("archive_intact")) == 2, "those of the two materializations"


def test_a_verdict_that_can_not_be_kept_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(backups: Backups, receipt: Receipt) -> str:
        raise VaultError("no space left in the vault", hint="free some")

    monkeypatch.setattr(Backups, "put_receipt", is_full)
    words = "is not kept: no space left in the vault\nhint: free some"
    assert f"PASS, {words}" in failure(project.materialize())
    assert {check: project.evaluations(check) for check in names()} == {
        check: [(True, "ERROR", project.open)] for check in names()
    }

    flip_one_byte(project.newest(), "public", "item")
    result = project.run("app_verify", partition_key=project.open)
    assert f"FAIL, {words}" in failure(result)
    assert project.evaluations("archive_intact")[0] == (False, "ERROR", project.open)


def test_a_backup_is_restored_into_a_scratch_server_that_stays(project: Project) -> None:
    assert project.materialize().success
    result = project.run(
        "app_restore",
        partition_key=project.open,
        run_config={
            "ops": {"app_restore_backup": {"config": {"target": {"scratch": {"keep_minutes": 1}}}}}
        },
    )
    assert result.success, failure(result)
    [output] = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata = output.step_output_data.metadata
    address = str(metadata["address"].value)
    assert "passfile=" in address
    assert "password=" not in address
    assert metadata["verdict"].value == "PASS"
    kept = Path(address.split("passfile=")[1].strip("\"'")).parent
    try:
        with owner_session(
            Endpoint.parse(address.removeprefix('psql "').removesuffix('"')), autocommit=False
        ) as there:
            assert there.execute("SELECT count(*) FROM item").fetchone() == (500,)
        sweep()
        assert kept.exists(), "its time is not over"
    finally:
        (kept / "keep_until").write_text("0")
        sweep()
    assert not kept.exists()


def test_a_backup_is_restored_into_an_empty_database(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.materialize().success
    target = project.source.create()
    monkeypatch.setenv("TARGET_URL", url_of(target))
    config = {
        "ops": {
            "app_restore_backup": {"config": {"target": {"database": {"url_env": "TARGET_URL"}}}}
        }
    }
    result = project.run("app_restore", partition_key=project.open, run_config=config)
    assert result.success, failure(result)
    with owner_session(target, autocommit=False) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (500,)

    again = project.run("app_restore", partition_key=project.open, run_config=config)
    assert not again.success
    assert "is not empty" in failure(again)


def test_a_restore_leaves_out_roles_and_owners_as_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"owner_{secrets.token_hex(3)}"
    project.source.execute(
        project.endpoint, f"CREATE ROLE {name}", f"ALTER TABLE item OWNER TO {name}"
    )
    assert project.materialize().success
    target = project.source.create()
    monkeypatch.setenv("TARGET_URL", url_of(target))
    database = {"url_env": "TARGET_URL", "roles": False, "owners": False}
    result = project.run(
        "app_restore",
        partition_key=project.open,
        run_config={"ops": {"app_restore_backup": {"config": {"target": {"database": database}}}}},
    )
    with owner_session(target) as connection:
        query = "SELECT tableowner FROM pg_tables WHERE tablename = 'item'"
        assert connection.execute(query).fetchone() == ("postgres",), failure(result)
    project.source.execute(project.endpoint, "ALTER TABLE item OWNER TO postgres")
    project.source.execute(project.endpoint, f"DROP ROLE {name}")


def test_another_source_is_taken_when_the_run_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.materialize().success
    other = project.source.create()
    project.source.execute(other, "CREATE TABLE another ()")
    monkeypatch.setenv("APP_URL", url_of(other))

    refused = failure(project.materialize())
    assert "otherwise correct the address" in refused
    assert "accept_new_source: true in the Launchpad" in refused

    config = {"ops": {"app__backup": {"config": {"accept_new_source": True}}}}
    accepted = project.run("app_backup", partition_key=project.open, run_config=config)
    assert accepted.success, failure(accepted)
    assert [table.name for table in project.newest().manifest.tables] == ["another"]
    assert project.materialize().success  # from now on it is the known one


def test_a_failed_backup_is_not_restored(project: Project) -> None:
    assert project.materialize().success
    flip_one_byte(project.newest(), "public", "item")
    project.run("app_verify", partition_key=project.open)
    result = project.run("app_restore", partition_key=project.open)
    assert "no proved backup" in failure(result)


def test_a_newest_backup_that_can_not_be_read_is_not_passed_over(project: Project) -> None:
    assert project.materialize().success
    good = project.newest().manifest
    assert project.materialize().success
    newest = project.newest().manifest
    file = project.vault / manifest_name(newest.backup_id)
    file.chmod(0o600)
    file.write_text("{")

    result = project.run("app_verify", partition_key=project.open)
    assert f"the manifest of {newest.backup_id}" in failure(result)
    assert "hint:" in failure(result)
    assert len(project.evaluations("contents_match")) == 2, "nothing was said of the partition"

    # A recovery is not held up by it, as with resil restore.
    result = project.run("app_restore", partition_key=project.open)
    assert restored(result) == good.backup_id
    warnings = [
        entry.user_message
        for entry in project.instance.all_logs(result.run_id)
        if entry.level == logging.WARNING
    ]
    assert any(newest.backup_id in warning for warning in warnings), warnings

    (project.vault / manifest_name(good.backup_id)).unlink()
    result = project.run("app_restore", partition_key=project.open)
    assert f"the manifest of {newest.backup_id}" in failure(result)


def test_no_secret_reaches_the_event_log(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.materialize().success
    good = url_of(project.endpoint)
    secret = project.endpoint.password or ""
    monkeypatch.setenv("APP_URL", good.replace(secret, "wrong-and-secret"))
    failed = project.materialize()
    assert "password authentication failed" in failure(failed)
    for run in project.instance.get_runs():
        for entry in project.instance.all_logs(run.run_id):
            text = dg.serialize_value(entry)
            assert secret not in text
            assert "wrong-and-secret" not in text


def test_every_check_has_the_partitions_of_its_asset(project: Project) -> None:
    graph = project.defs.resolve_asset_graph()
    keys = graph.asset_check_keys
    assert {key.name for key in keys} == set(names())
    for key in keys:
        assert graph.get(key).partitions_def == graph.get(ASSET).partitions_def


def schedule_data(project: Project, tick: datetime) -> ScheduleExecutionData:
    [schedule] = list(project.defs.schedules or [])
    assert isinstance(schedule, dg.ScheduleDefinition)
    with dg.build_schedule_context(
        instance=project.instance,
        scheduled_execution_time=tick,
        repository_def=project.defs.get_repository_def(),
    ) as context:
        return schedule.evaluate_tick(context)


def test_the_schedule_asks_for_the_open_window(project: Project) -> None:
    before = project.open
    [request] = schedule_data(project, datetime.now(UTC)).run_requests or []
    assert request.partition_key in {before, project.open}
    assert request.run_key == request.partition_key


def test_a_tick_that_was_missed_asks_for_nothing(project: Project) -> None:
    data = schedule_data(project, datetime(2026, 3, 7, tzinfo=UTC))
    assert not data.run_requests
    assert "missed" in str(data.skip_message)


def test_databases_do_not_all_begin_in_the_same_minute() -> None:
    assert len({spread("0 * * * *", f"database_{number}") for number in range(30)}) > 10
    assert spread("0 0 * * 0", "shop").split()[1:] == ["0", "*", "*", "0"]


def test_the_demo_loads_where_there_is_no_pyproject(tmp_path: Path) -> None:
    # As from an installed wheel: the package alone, below a folder that is nobody's project.
    (tmp_path / "dagster_resil").symlink_to(Path(__file__).parents[2] / "dagster_resil")
    code = (
        "import warnings; warnings.simplefilter('ignore');"
        "from dagster_resil.definitions import defs;"
        "print(*sorted(k.to_user_string() for k in defs().resolve_asset_graph().get_all_asset_keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [
        "cloud_shop/backup",
        "cloud_shop/point_in_time_recovery",
        "empty/backup",
        "exported_shop/backup",
        "hostile/backup",
        "shop/backup",
    ], done.stderr


@pytest.mark.parametrize(
    ("cadence", "example"),
    [
        ("hourly", "%Y-%m-%d-%H:00"),
        ("weekly", None),
        (Cron(cron="30 4 * * *", timezone="Europe/Berlin"), None),
    ],
)
def test_cadences(cadence: Any, example: str | None) -> None:
    defs = component(cadence=cadence).build_defs(None)  # type: ignore[arg-type]
    partitions = defs.resolve_job_def("app_backup").partitions_def
    assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    key = open_key(partitions)
    window = partitions.time_window_for_partition_key(key)
    assert window.start <= datetime.now(UTC) < window.end
    assert partitions.has_partition_key(key)
    if example:
        assert key == datetime.now(UTC).strftime(example)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Not A Name"},
        {"start": "yesterday"},
        {"connection": {"url_env": "postgresql://user:secret@host/db"}},
        {"connection": {"url": "postgresql://user:secret@host/db"}},
        {"vault": {}},
    ],
)
def test_wrong_attributes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        ProtectedDatabase.model_validate(
            {
                "name": "app",
                "connection": {"url_env": "APP_URL"},
                "vault": {"url_env": "APP_VAULT"},
                **wrong,
            }
        )
    assert "secret@" not in str(error.value)


def test_every_setting_of_a_backup_is_one_of_the_component(project: Project) -> None:
    """What shapes a backup is in its manifest."""
    config = {
        "jobs": 1,
        "compare": "text",
        "part_mb": 3,
        "compress_level": 5,
        "lock_timeout_seconds": 7,
        "attempts": 1,
        "time_limit_seconds": 300,
    }
    project.defs = component(**config).build_defs(None)  # type: ignore[arg-type]
    assert project.materialize().success
    assert project.newest().manifest.settings == {
        "jobs": 1,
        "compare": "text",
        "part_bytes": 3 << 20,
        "compress_level": 5,
        "lock_timeout_s": 7,
        "grace_s": 0,
    }
    for wrong in ({"compress_level": 0}, {"attempts": 0}, {"lock_timeout_seconds": 0}):
        with pytest.raises(ValidationError):
            component(**wrong)


def test_a_time_limit_ends_a_backup(project: Project) -> None:
    defs = component(time_limit_seconds=0.001).build_defs(None)  # type: ignore[arg-type]
    project.defs = defs
    result = project.materialize()
    assert not result.success
    assert "took longer than 0.001 s" in failure(result)
    assert "raise time_limit_seconds, or jobs" in failure(result)
