"""The component that protects one database."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dagster_resil.backup.origin import Origin
from dagster_resil.backup.settings import PART_BYTES, BackupSettings, Comparison
from dagster_resil.backup.take import take_backup
from dagster_resil.components.checks import build_checks
from dagster_resil.components.cloud_sql import CloudSqlDatabase, CloudSqlSource
from dagster_resil.components.jobs import build_restore_job, build_verify_job
from dagster_resil.components.literals import reading, refuse_literals
from dagster_resil.components.metadata import describe_backup
from dagster_resil.components.partitions import (
    CRONS,
    build_partitions,
    live_partition,
    open_key,
    past_partition,
    spread,
)
from dagster_resil.components.recovery import build_recovery
from dagster_resil.components.running import explained, progress_into
from dagster_resil.components.sources import VaultAddress, endpoint_from, variable_name
from dagster_resil.errors import CloudSqlError
from dagster_resil.process import DAY_S
from dagster_resil.records.manifest import Manifest, Partition
from dagster_resil.restore import RestoreSettings
from dagster_resil.vault.layout import is_database_name
from dagster_resil.verify.prove import VerifySettings


class Connection(dg.Model, dg.Resolvable):
    """How the database is reached: names of environment variables, never their values.

    :param url_env: the variable that holds the PostgreSQL URL.
    :param password_env: the variable that holds the password, where the URL has none.
    """

    # What was typed in place of a variable's name may be a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    url_env: str
    password_env: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_literals(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_literals(data)
        return data

    @field_validator("url_env", "password_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        return variable_name(value)


class CloudStorage(dg.Model, dg.Resolvable):
    """How objects are written to Cloud Storage, and what their bucket has to be.

    What is left out is as the environment's ``RESIL_GCS_…`` say, or as the bucket has it.

    :param impersonate: the service account to act as, without ``gcs_resource``.
    :param kms_key: the customer-managed key that encrypts new objects.
    :param object_retention_days: how long each new object has to stay.
    :param object_retention_mode: whether anybody may take that back: not when "Locked".
    :param location: where the bucket has to be, for ``resil check``; so are the next three.
    """

    impersonate: str | None = None
    storage_class: str | None = None
    kms_key: str | None = None
    object_retention_days: int | None = None
    object_retention_mode: Literal["Locked", "Unlocked"] | None = None
    hold: Literal["temporary", "event-based"] | None = None
    location: str | None = None
    versioning: bool | None = None
    retention_days: int | None = None
    retention_locked: bool | None = None


class VaultPlace(dg.Model, dg.Resolvable):
    """Where backups go: a URL, or the environment variable that holds it.

    :param gcs_resource: the key of a ``dagster_gcp.GCSResource`` in your definitions, which signs
        in to Cloud Storage; without it, Application Default Credentials do.
    """

    url: str | None = None
    url_env: str | None = None
    gcs_resource: str | None = None
    cloud_storage: CloudStorage | None = None

    def address(self) -> VaultAddress:
        """Return it for those who open it."""
        settings = self.cloud_storage.model_dump(exclude_none=True) if self.cloud_storage else {}
        return VaultAddress(self.url, self.url_env, self.gcs_resource, settings)

    @model_validator(mode="after")
    def _one_of_them(self) -> "VaultPlace":
        if (self.url is None) == (self.url_env is None):
            raise ValueError("a vault needs either 'url' or 'url_env'")
        return self


class Cron(dg.Model, dg.Resolvable):
    """A cadence of one's own.

    :param cron: five fields; each tick begins a window.
    :param timezone: an IANA name.
    """

    cron: str
    timezone: str = "UTC"


class BackupConfig(dg.Config):
    """What one run does differently."""

    accept_new_source: bool = Field(
        default=False,
        description="Take the backup although another server or database answers than so far.",
    )


class ProtectedDatabase(dg.Component, dg.Model, dg.Resolvable):
    """A PostgreSQL database whose backups are restored and compared before they count.

    Yields the asset ``<name>/backup`` with its checks, its schedule, and the jobs
    ``<name>_backup``, ``<name>_verify`` and ``<name>_restore``.

    A database in Cloud SQL with point-in-time recovery has a second asset,
    ``<name>/point_in_time_recovery``, whose check ``recovers_to_a_moment`` the job ``<name>_drill``
    runs.

    :param name: the name that this tool uses for the database: small letters, digits, underscores.
    :param connection: how it is reached; or ``cloud_sql``, where it is in Cloud SQL.
    :param cadence: how long a window is, and when the schedule ticks.
    :param start: the day of the first window; fixed, so that keys stay.
    :param grace_minutes: how long after its window's end a backup still counts as its, late.
    :param jobs: connections that dump, restore and compare at a time.
    :param compare: what a restore has to equal: the number of rows ("counts"), their contents
        ("contents"), or their contents by the text of every value ("text"), which finds the same
        at several times the cost.
    :param part_mb: how much of a large table goes into one object, in MiB; memory holds one part a
        job.
    :param compress_level: gzip's level, 1 to 9; 1 costs a third of the time of 6 for a tenth more
        bytes.
    :param lock_timeout_seconds: how long to wait for the locks of a dump (ACCESS SHARE).
    :param attempts: how often to begin again when the schema changes under the snapshot.
    :param time_limit_seconds: the longest that reading the source may take, and the longest that a
        restore of the verification may take; by default a day.
    :param schedule: whether the schedule runs from the start.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return what reads it from YAML."""
        return reading(super().model())

    name: str
    connection: Connection | None = None
    cloud_sql: CloudSqlDatabase | None = None
    vault: VaultPlace
    cadence: Literal["hourly", "daily", "weekly"] | Cron = "daily"
    timezone: str = "UTC"
    start: str = "2026-01-01"
    grace_minutes: int = 0
    jobs: int = Field(default=2, ge=1, le=64)
    compare: Comparison = "contents"
    part_mb: int = Field(default=PART_BYTES >> 20, ge=1)
    compress_level: int = Field(default=BackupSettings.compress_level, ge=1, le=9)
    lock_timeout_seconds: float = Field(default=BackupSettings.lock_timeout_s, gt=0)
    attempts: int = Field(default=BackupSettings.attempts, ge=1)
    time_limit_seconds: float = Field(default=DAY_S, gt=0)
    schedule: Literal["running", "stopped"] = "running"
    owners: list[str] = Field(default_factory=list)
    tags: dict[str, str] = Field(default_factory=dict)
    group: str = "backups"

    @field_validator("name")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if not is_database_name(value):
            raise ValueError("small letters, digits and underscores, a letter first")
        return value

    @field_validator("start", mode="before")
    @classmethod
    def _a_day(cls, value: Any) -> Any:
        # YAML reads a bare 2026-01-01 as a date.
        text = value.isoformat() if isinstance(value, date) else str(value)
        date.fromisoformat(text)
        return text

    @model_validator(mode="after")
    def _reached_in_one_way(self) -> "ProtectedDatabase":
        if (self.connection is None) == (self.cloud_sql is None):
            raise ValueError("a protected database has either 'connection' or 'cloud_sql'")
        export = self.cloud_sql.export if self.cloud_sql else None
        if export and self.vault.url and urlsplit(self.vault.url).netloc == export.bucket:
            # What lands is removed after a day, and instances may write there.
            raise ValueError("exports land in another bucket than the vault's")
        return self

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return what protects the database."""
        del context
        key = dg.AssetKey([self.name, "backup"])
        cadence, cron, timezone = self._windows()
        partitions = build_partitions(cadence, cron, timezone, self.start)
        vault = self.vault.address()
        verify_settings = VerifySettings(jobs=self.jobs, timeout_s=self.time_limit_seconds)
        grace_s = self.grace_minutes * 60
        checks = build_checks(self.name, key, partitions, vault, verify_settings, grace_s=grace_s)
        job = dg.define_asset_job(
            f"{self.name}_backup",
            selection=dg.AssetSelection.assets(key),
            executor_def=dg.in_process_executor,
            description=f"Take a backup of {self.name} and prove it.",
        )
        protection = dg.Definitions(
            assets=[self._asset(key, partitions, vault)],
            asset_checks=[checks],
            jobs=[
                job,
                build_verify_job(
                    self.name, key, partitions, vault, verify_settings, grace_s=grace_s
                ),
                build_restore_job(
                    self.name,
                    partitions,
                    vault,
                    RestoreSettings(jobs=self.jobs, timeout_s=self.time_limit_seconds),
                    grace_s=grace_s,
                ),
            ],
            schedules=[self._schedule(partitions, cron, timezone)],
        )
        if self.cloud_sql is None:
            return protection
        return dg.Definitions.merge(
            protection,
            build_recovery(
                self.name,
                self.cloud_sql,
                vault,
                jobs=self.jobs,
                running=self.schedule == "running",
                timezone=timezone,
                owners=self.owners,
                group=self.group,
            ),
        )

    def _windows(self) -> tuple[str, str, str]:
        if isinstance(self.cadence, Cron):
            return "cron", self.cadence.cron, self.cadence.timezone
        return self.cadence, CRONS[self.cadence], self.timezone

    def _asset(
        self,
        key: dg.AssetKey,
        partitions: dg.TimeWindowPartitionsDefinition,
        vault: VaultAddress,
    ) -> dg.AssetsDefinition:
        grace_s = self.grace_minutes * 60

        @dg.asset(
            key=key,
            partitions_def=partitions,
            group_name=self.group,
            owners=self.owners,
            tags=self.tags,
            kinds={"postgres", "googlecloud"} if self.cloud_sql else {"postgres"},
            # One backup of a database at a time: two would only slow each other down.
            pool=f"{self.name}_backup",
            required_resource_keys=vault.resource_keys,
            description=f"A backup of the database {self.name}, proved by restoring it."
            + (
                f"\n\nDatabase {self.cloud_sql.database} is read from {self.cloud_sql.way}."
                if self.cloud_sql
                else ""
            ),
        )
        def backup(
            context: dg.AssetExecutionContext, config: BackupConfig
        ) -> dg.MaterializeResult[None]:
            key = context.partition_key
            with explained():
                past = None
                if self.cloud_sql and self.cloud_sql.recovers:
                    past = past_partition(partitions, key, grace_s=grace_s)
                partition = past or live_partition(partitions, key, grace_s=grace_s)
                settings = BackupSettings(
                    jobs=self.jobs,
                    grace_s=grace_s,
                    compare=self.compare,
                    part_bytes=self.part_mb << 20,
                    compress_level=self.compress_level,
                    lock_timeout_s=self.lock_timeout_seconds,
                    attempts=self.attempts,
                    timeout_s=self.time_limit_seconds,
                    accept_new_source=config.accept_new_source,
                )
                store = vault.open(context.resources)
                taken: Manifest | None = None
                try:
                    with self._reading(past, context.run.run_id) as origin:
                        taken = take_backup(
                            origin,
                            store,
                            name=self.name,
                            partition=partition,
                            settings=settings,
                            progress=progress_into(context.log),
                        )
                except CloudSqlError as error:
                    if taken is not None:  # but its temporary instance is left
                        error.add_note(
                            f"backup {taken.backup_id} was taken and is whole: the job "
                            f"{self.name}_verify proves it"
                        )
                    raise
            metadata = describe_backup(taken)
            if self.cloud_sql and taken.recovered is None:
                metadata["read_from"] = dg.MetadataValue.text(self.cloud_sql.way)
            return dg.MaterializeResult(metadata=metadata)

        return backup

    @contextmanager
    def _reading(self, past: Partition | None, owner: str) -> Iterator[Origin]:
        """Yield what a backup is read from.

        :param past: the partition of which a past state is recovered; None for the state of now.
        """
        if self.connection is not None:
            yield Origin(endpoint_from(self.connection.url_env, self.connection.password_env))
        elif self.cloud_sql is not None:
            with tempfile.TemporaryDirectory(prefix="resil-") as folder:
                source = CloudSqlSource(self.cloud_sql, Path(folder))
                with source.past(past.end, owner) if past else source.live(owner) as origin:
                    yield origin

    def _schedule(
        self, partitions: dg.TimeWindowPartitionsDefinition, cron: str, timezone: str
    ) -> dg.ScheduleDefinition:
        status = (
            dg.DefaultScheduleStatus.RUNNING
            if self.schedule == "running"
            else dg.DefaultScheduleStatus.STOPPED
        )

        @dg.schedule(
            name=f"{self.name}_backup_schedule",
            job_name=f"{self.name}_backup",
            cron_schedule=cron if isinstance(self.cadence, Cron) else spread(cron, self.name),
            execution_timezone=timezone,
            default_status=status,
            description="Backs up the window that is open at the tick.",
        )
        def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
            key = open_key(partitions, context.scheduled_execution_time)
            if key != open_key(partitions):
                # After an outage the daemon makes up for the ticks that it missed.
                return dg.SkipReason(
                    f"this tick was missed: partition {key} has ended, and a backup taken now "
                    "would not show it"
                )
            return dg.RunRequest(partition_key=key, run_key=key)

        return schedule
