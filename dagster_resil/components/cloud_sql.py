"""A protected database that is in Cloud SQL: what it is called there, and who does what to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import ConfigDict, Field, field_validator, model_validator

from dagster_resil import logs
from dagster_resil.backup.origin import Origin
from dagster_resil.cloudsql.client import CloudSql, CloudSqlSettings
from dagster_resil.cloudsql.endpoint import endpoint_of
from dagster_resil.cloudsql.export import ExportSettings, exporting
from dagster_resil.cloudsql.instance import Instance
from dagster_resil.cloudsql.landing import may_land
from dagster_resil.cloudsql.temporary import temporary_clone
from dagster_resil.components.sources import VaultAddress, value_of, variable_name
from dagster_resil.errors import ConfigurationError, PermissionMissing, SourceUnreachable
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.base import format_time
from dagster_resil.records.manifest import Recovered

_CONNECTION_NAME = re.compile(
    r"(?P<project>[a-z][a-z0-9-]*(?:\.[a-z]+:[a-z0-9-]+)?):(?P<region>[a-z0-9-]+):(?P<name>[a-z][a-z0-9-]*)"
)
_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/[^\s?#]+")
_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_BEFORE_THE_END = timedelta(milliseconds=1)
"""A window does not have its end: the last moment that is in it is recovered to."""


class Export(dg.Model, dg.Resolvable):
    """Cloud SQL's own export, by the instance's identity.

    :param landing: the bucket and folder that exports are written to, ``gs://bucket/folder``; not
        the vault. The instance's service account needs to create, list and delete there.
    :param consistency: "clone" exports a temporary clone, which nobody knows of, and compares
        exactly; "live" exports the instance itself. A table that is written to meanwhile stays
        INCONCLUSIVE.
    :param offload: whether Google exports on a machine of its own.
    """

    landing: str
    consistency: Literal["clone", "live"] = "clone"
    offload: bool = False

    @field_validator("landing")
    @classmethod
    def _a_folder_in_a_bucket(cls, value: str) -> str:
        if not _FOLDER.fullmatch(value):
            raise ValueError("exports land in a folder of a bucket: gs://bucket/folder")
        return value

    @property
    def bucket(self) -> str:
        """Return the name of the bucket."""
        return urlsplit(self.landing).netloc


class PointInTime(dg.Model, dg.Resolvable):
    """Point-in-time recovery, which the instance has to have enabled.

    :param backfill: whether a past window is backed up by recovering a temporary clone to its end.
    :param drill: when ``recovers_to_a_moment`` runs: a cron, or none. By default daily, and not at
        all with ``method: export``, of which no backup shows the instance itself at a moment.
    :param recovery_point_minutes: how far behind the newest recoverable moment may be.
    """

    backfill: bool = True
    drill: str | None = "17 4 * * *"
    recovery_point_minutes: float = Field(default=15, gt=0)


class Accounts(dg.Model, dg.Resolvable):
    """The service accounts to act as, one for each class of job; by default the process's own.

    :param backup: reads the instance, and exports it.
    :param clone: clones it, and has the clones: makes, reads, changes and deletes them.
    """

    backup: str | None = None
    clone: str | None = None

    @field_validator("backup", "clone")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is not None and not _ACCOUNT.fullmatch(value):
            raise ValueError("a service account is named by its e-mail address")
        return value


class CloudSqlDatabase(dg.Model, dg.Resolvable):
    """A database in Cloud SQL.

    :param instance: its connection name, ``project:region:instance``.
    :param user: the login; with ``iam``, a service account without ".gserviceaccount.com".
    :param password_env: the NAME of the environment variable with its password.
    :param iam: sign in by IAM database authentication, without a password.
    :param read_from: a read replica of it that backups are read from, by its name in the project.
    :param method: "snapshot" reads by connections of ours, "export" by Cloud SQL's export.
    :param temporary_project: the project that temporary clones are made in; by default its own.
    :param timeout_minutes: how long one operation may take: a clone, an export, a deletion.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    instance: str
    database: str
    user: str = "postgres"
    password_env: str | None = None
    iam: bool = False
    read_from: str | None = None
    method: Literal["snapshot", "export"] = "snapshot"
    export: Export | None = None
    point_in_time: PointInTime | None = None
    accounts: Accounts = Field(default_factory=Accounts)
    temporary_project: str | None = None
    timeout_minutes: float = Field(default=60, gt=0)

    @field_validator("instance")
    @classmethod
    def _a_connection_name(cls, value: str) -> str:
        if not _CONNECTION_NAME.fullmatch(value):
            raise ValueError("an instance's connection name is project:region:instance")
        return value

    @field_validator("password_env")
    @classmethod
    def _a_variable(cls, value: str | None) -> str | None:
        return variable_name(value)

    @model_validator(mode="after")
    def _fits(self) -> CloudSqlDatabase:
        if self.method == "export" and self.export is None:
            raise ValueError("'method: export' needs 'export', which says where exports land")
        if self.method != "export" and self.export is not None:
            raise ValueError("'export' is for 'method: export'")
        if self.iam == (self.password_env is not None):
            raise ValueError("a login has either 'password_env' or 'iam: true'")
        if self.read_from and self.method == "export":
            raise ValueError("'read_from' is for 'method: snapshot'")
        recovery = self.point_in_time
        if self.export is not None and recovery is not None and recovery.drill is not None:
            if "drill" in recovery.model_fields_set:
                raise ValueError(
                    "a 'drill' compares with backups by 'method: snapshot': an export's, of a "
                    "clone or of many moments, shows none that the instance could be recovered to"
                )
            self.point_in_time = recovery.model_copy(update={"drill": None})
        return self

    @property
    def recovers(self) -> bool:
        """Return whether a past window is backed up by recovering a clone to its end."""
        return self.point_in_time is not None and self.point_in_time.backfill

    @property
    def way(self) -> str:
        """Return what a backup of today is read from, and how."""
        if self.export is not None:
            clone = "a temporary clone of " if self.export.consistency == "clone" else ""
            return f"{clone}{self.instance}, by its export to {self.export.landing}"
        replica = f"{self.read_from}, a replica of " if self.read_from else ""
        return f"{replica}{self.instance}, by connections under one snapshot"


@dataclass(frozen=True)
class CloudSqlSource:
    """What the jobs of a database in Cloud SQL do.

    :param folder: a private one, for the certificates of servers, as long as it is used.
    """

    config: CloudSqlDatabase
    folder: Path

    @property
    def name(self) -> str:
        """Return the instance's name in its project."""
        return self._words["name"]

    @property
    def _words(self) -> dict[str, str]:
        found = _CONNECTION_NAME.fullmatch(self.config.instance)
        if found is None:  # pragma: no cover - the model has looked
            raise ConfigurationError(f"{self.config.instance!r} is no connection name")
        return found.groupdict()

    def cloud(self, account: str | None) -> CloudSql:
        """Return the API as one of the accounts."""
        return CloudSql(
            CloudSqlSettings(
                project=self._words["project"],
                impersonate=account,
                timeout_s=self.config.timeout_minutes * 60,
            )
        )

    @property
    def reader(self) -> CloudSql:
        """Return the API as who backs up."""
        return self.cloud(self.config.accounts.backup)

    @property
    def cloner(self) -> CloudSql:
        """Return the API as who clones."""
        return self.cloud(self.config.accounts.clone)

    def connect(self, cloud: CloudSql, instance: Instance) -> Endpoint:
        """Return the way to the database in an instance."""
        config = self.config
        password = value_of(config.password_env) if config.password_env else None
        if password:
            logs.register_secret(password)
        return endpoint_of(
            instance,
            database=config.database,
            user=config.user,
            password=password,
            iam=config.iam,
            server_ca=self.folder / f"{instance.name}.pem",
            login_hint=f"check 'user' ({config.user}) and what the variable {config.password_env} "
            "holds",
            cloud=cloud,
        )

    def _instance(self, cloud: CloudSql) -> Instance:
        """Return the instance.

        :raises ConfigurationError: it is in another region than its connection name says.
        """
        instance = cloud.instance(self.name)
        if instance.region != self._words["region"]:
            raise ConfigurationError(
                f"instance {self.name} is in {instance.region}, not where its connection name, "
                f"{self.config.instance}, says",
                hint=f"its name is {instance.project}:{instance.region}:{instance.name}",
            )
        return instance

    def _read_from(self, cloud: CloudSql) -> Instance:
        """Return the instance that is read, which is the source or follows it.

        :raises ConfigurationError: it is neither.
        """
        instance = self._instance(cloud)
        if self.config.read_from is None:
            return instance
        replica = cloud.instance(self.config.read_from)
        if replica.primary != instance.name:
            # One that was promoted goes on under its name, with a state of its own.
            raise ConfigurationError(
                f"{replica.name} is no replica of {instance.name}: nothing was read from it",
                hint="was it promoted? name a replica as read_from, or none",
            )
        return replica

    @contextmanager
    def live(self, owner: str) -> Iterator[Origin]:
        """Yield the database as it is."""
        config = self.config
        if config.export is None:
            cloud = self.reader
            yield Origin(self.connect(cloud, self._read_from(cloud)), instance=config.instance)
            return
        as_who = {"impersonate": config.accounts.backup} if config.accounts.backup else {}
        landing = VaultAddress(config.export.landing, None, cloud_storage=as_who).open()
        if config.export.consistency == "live":
            cloud = self.reader
            exported = ExportSettings(
                instance=self.name,
                landing=landing,
                offload=config.export.offload,
            )
            yield Origin(
                self.connect(cloud, self._instance(cloud)),
                exporting(cloud, exported),
                instance=config.instance,
            )
            return
        cloner, reader = self.cloner, self.reader
        self._instance(cloner)
        with (
            temporary_clone(
                cloner, self.name, owner=owner, purpose="export", project=config.temporary_project
            ) as clone,
            may_land(config.export.landing, clone, impersonate=config.accounts.clone),
        ):
            exported = ExportSettings(
                instance=clone.name,
                landing=landing,
                project=clone.project,
                offload=config.export.offload,
            )
            yield Origin(
                self.connect(reader, clone),
                exporting(reader, exported),
                instance=config.instance,
                cloned=True,
            )

    @contextmanager
    def past(self, end: datetime, owner: str) -> Iterator[Origin]:
        """Yield the database as it was just before a moment.

        :raises ConfigurationError: the moment is outside of the window of recovery.
        """
        cloud = self.cloner
        moment = end - _BEFORE_THE_END
        self._instance(cloud)
        window = cloud.recovery_window(self.name)
        if not window.earliest <= moment <= window.latest:
            raise ConfigurationError(
                f"{self.config.instance} can be recovered to moments from "
                f"{format_time(window.earliest)} to {format_time(window.latest)}, and the window "
                f"ended at {format_time(end)}: nothing was taken",
                hint="choose a partition whose end is in between",
            )
        with temporary_clone(
            cloud,
            self.name,
            owner=owner,
            purpose="backfill",
            moment=moment,
            project=self.config.temporary_project,
        ) as clone:
            recovered = Recovered(
                instance=self.config.instance, moment=moment, by_way_of=clone.name
            )
            try:
                yield Origin(
                    self.connect(cloud, clone),
                    recovered=recovered,
                    instance=self.config.instance,
                    cloned=True,
                )
            except (SourceUnreachable, PermissionMissing) as error:
                raise type(error)(
                    f"in the clone of {self.config.instance} as of {format_time(moment)}: "
                    f"{error.message}",
                    hint="the login, its password and its rights must have existed at that moment; "
                    "the clone does not have those of today",
                ) from None
