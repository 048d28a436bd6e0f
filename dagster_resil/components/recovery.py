"""Point-in-time recovery, tried; and the janitor of the temporary instances that this takes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from dagster_resil.cloudsql.drill import CHECK, DrillResult, DrillSettings, drill
from dagster_resil.cloudsql.temporary import sweep
from dagster_resil.components.checks import severity
from dagster_resil.components.cloud_sql import CloudSqlDatabase, CloudSqlSource
from dagster_resil.components.metadata import describe_drill
from dagster_resil.components.running import explained, progress_into
from dagster_resil.components.sources import VaultAddress
from dagster_resil.process import DAY_S
from dagster_resil.records.verdict import Verdict

_SWEEP_EVERY_S = 300
_OLDEST_S = DAY_S
"""A temporary instance that is older is removed, whoever is at work on it, known to us or not."""


def build_recovery(
    name: str,
    config: CloudSqlDatabase,
    vault: VaultAddress,
    *,
    jobs: int,
    running: bool,
    timezone: str,
    owners: list[str],
    group: str,
) -> dg.Definitions:
    """Return the drill of a database in Cloud SQL, its schedule, and the janitor."""
    janitor = _janitor(name, config)
    settings = config.point_in_time
    if settings is None:
        return dg.Definitions(sensors=[janitor])
    key = dg.AssetKey([name, "point_in_time_recovery"])
    drill_settings = DrillSettings(
        jobs=jobs,
        project=config.temporary_project,
        recovery_point_s=settings.recovery_point_minutes * 60,
    )

    @dg.multi_asset_check(
        name=f"{name}_recovers",
        specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="Recover a temporary clone to a moment that a backup knows, and "
                "compare.",
            )
        ],
        # With the backups of the database: one temporary instance of it at a time.
        pool=f"{name}_backup",
        required_resource_keys=vault.resource_keys,
    )
    def recovers(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with explained(), tempfile.TemporaryDirectory(prefix="resil-") as folder:
            source = CloudSqlSource(config, Path(folder))
            cloud = source.cloner
            drilled = drill(
                cloud,
                source.name,
                vault.open(context.resources),
                name=name,
                owner=context.run.run_id,
                connect=lambda instance: source.connect(cloud, instance),
                settings=drill_settings,
                progress=progress_into(context.log),
            )
        yield _result(key, drilled)
        if drilled.failure is not None:
            # What was found counts; what is left or lost has to be seen.
            with explained():
                raise drilled.failure

    job = dg.define_asset_job(
        f"{name}_drill",
        selection=dg.AssetSelection.checks(dg.AssetCheckKey(key, CHECK)),
        executor_def=dg.in_process_executor,
        description=f"Recover {name} to a moment of its past, in a temporary instance.",
    )
    schedules = []
    if settings.drill is not None:
        schedules.append(
            dg.ScheduleDefinition(
                name=f"{name}_drill_schedule",
                job=job,
                cron_schedule=settings.drill,
                execution_timezone=timezone,
                default_status=dg.DefaultScheduleStatus.RUNNING
                if running
                else dg.DefaultScheduleStatus.STOPPED,
                description="Tries point-in-time recovery.",
            )
        )
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                key,
                group_name=group,
                owners=owners,
                kinds={"postgres", "googlecloud"},
                description=f"The past moments that {config.instance} can be recovered to.",
            )
        ],
        asset_checks=[recovers],
        jobs=[job],
        schedules=schedules,
        sensors=[janitor],
    )


def _result(key: dg.AssetKey, drilled: DrillResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=CHECK,
        passed=drilled.check.verdict is Verdict.PASS,
        severity=severity(drilled.check.verdict),
        description=drilled.check.summary,
        metadata=describe_drill(drilled),
    )


def _janitor(name: str, config: CloudSqlDatabase) -> dg.SensorDefinition:
    """Return the sensor that removes what a worker that was killed has left."""

    @dg.sensor(
        name=f"{name}_temporary_instances",
        minimum_interval_seconds=_SWEEP_EVERY_S,
        # Also where the schedules rest: a backfill by hand may be killed too.
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Removes temporary instances whose run has ended.",
    )
    def janitor(context: dg.SensorEvaluationContext) -> Iterator[dg.SkipReason]:
        def alive(owner: str) -> bool:
            run = context.instance.get_run_by_id(owner)
            # One that is not known here may be another Dagster's, at work: only its age tells.
            return run is None or not run.is_finished

        words: list[str] = []
        with explained(), tempfile.TemporaryDirectory(prefix="resil-") as folder:
            removed = sweep(
                CloudSqlSource(config, Path(folder)).cloner,
                project=config.temporary_project,
                alive=alive,
                older_than_s=_OLDEST_S,
                leave=lambda name, why: words.append(f"{name} stays for now: {why}"),
            )
        if removed:
            words.insert(0, f"removed {', '.join(removed)}")
        yield dg.SkipReason("; ".join(words) or "no temporary instance was left")

    return janitor
