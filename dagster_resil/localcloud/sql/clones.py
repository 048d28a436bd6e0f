"""Clones of instances, as they are or as they were.

The methods are ``sql.instances.clone`` and, for the window of point-in-time recovery,
``sql.projects.instances.getLatestRecoveryTime``. A clone to a point in time is what
PostgreSQL calls recovery: a base, WAL out of the archive up to the last commit at or before that
time, and a new timeline from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, not_done
from dagster_resil.localcloud.sql.clusters import (
    command_path,
    place_file,
)
from dagster_resil.localcloud.sql.context import Context, MethodGroup
from dagster_resil.localcloud.sql.discovery import format_time, format_time_up, parse_time
from dagster_resil.localcloud.sql.errors import OperationFailed, invalid_request
from dagster_resil.localcloud.sql.instances import Instances, without_nulls
from dagster_resil.localcloud.sql.operation_log import Running
from dagster_resil.localcloud.sql.store import Base, Instance

_RECOVERY_TIMEOUT_S = 600
_NOT_DONE = ("binLogCoordinates", "databaseNames", "sourceInstanceDeletionTime", "pitrTimestampMs")


class Clones(MethodGroup):
    """The methods of clones."""

    def __init__(self, context: Context, instances: Instances) -> None:
        super().__init__(context)
        self._instances = instances

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.instances.clone": self._clone,
            "sql.projects.instances.getLatestRecoveryTime": self._latest_recovery_time,
        }

    def _latest_recovery_time(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.get")
        if "sourceInstanceDeletionTime" in request.query:
            raise not_done("recovery of an instance that was deleted")
        earliest, latest = self._window(instance)
        return Answer.of(
            {
                "kind": "sql#getLatestRecoveryTime",
                "earliestRecoveryTime": format_time_up(earliest),
                "latestRecoveryTime": format_time(latest),
            }
        )

    def _window(self, instance: Instance) -> tuple[datetime, datetime]:
        if not instance.has_recovery:
            raise ApiError(
                400,
                "pointInTimeRecoveryNotEnabled",
                f"Point-in-time recovery is not enabled for instance {instance.name}.",
            )
        if not self._archive.can_be_read(instance.major):
            raise not_done(f"pointInTimeRecovery of POSTGRES_{instance.major} without pg_waldump")
        window = self._archive.window(instance)
        if window is None:
            raise invalid_request(f"Instance {instance.name} has nothing to recover from yet.")
        return window

    def _clone(self, request: Request) -> Answer:
        source = self._instances.running(request, "cloudsql.instances.clone")
        context = without_nulls(request.given.get("cloneContext") or {})
        for key in _NOT_DONE:
            if key in context:
                raise not_done(f"cloneContext.{key}")
        name = context.get("destinationInstanceName")
        if not name:
            raise invalid_request("Missing parameter: cloneContext.destinationInstanceName.")
        project = context.get("destinationProject", source.project)
        if project != source.project:
            self._access.check(request, "cloudsql.instances.create", project=project, instance=name)
        if source.primary is not None:
            raise invalid_request("A read replica can't be cloned.")
        when: datetime | None = None
        base: Base | None = None
        if "pointInTime" in context:
            when, base = self._point(source, parse_time(context["pointInTime"]))
        clone = self._planned(source, project, name)

        def work(running: Running) -> None:
            self._clusters.make_home(clone)
            if when is None or base is None:
                self._clusters.base_backup(source, self._clusters.data(clone), watch=running.check)
                self._instances.ready(self._clusters.start(clone))
            else:
                self._instances.ready(self._recover(source, clone, base, when, running))

        return self._operations.begin(
            request,
            "CLONE",
            clone,
            work,
            locks=[source.key],
            prepare=lambda: self._instances.add(clone),
            failed=lambda: self._instances.failed(clone),
        )

    def _point(self, source: Instance, told: datetime) -> tuple[datetime, Base]:
        """Return the real time that a told one means, and the base to begin with.

        :raises ApiError: it can't be recovered.
        """
        earliest, latest = self._window(source)
        real = self._store.clock(source.clock).real(told)
        base = self._archive.base_for(source, real)
        if told > latest or told < earliest or base is None:
            raise invalid_request(
                f"The point in time {format_time(told)} is not within the recovery window: "
                f"{format_time_up(earliest)} to {format_time(latest)}."
            )
        return real, base

    def _planned(self, source: Instance, project: str, name: str) -> Instance:
        settings: Mapping[str, Any] = {
            # Deletion protection is inherited; labels are not.
            **{key: value for key, value in source.settings.items() if key != "userLabels"},
            "settingsVersion": "1",
        }
        zones = {
            key: source.resource[key] for key in ("secondaryGceZone",) if key in source.resource
        }
        return self._instances.new(
            project,
            name,
            region=source.region,
            major=source.major,
            settings=settings,
            clock=source.clock,
            **zones,
        )

    def _recover(
        self, source: Instance, clone: Instance, base: Base, when: datetime, running: Running
    ) -> Instance:
        data = self._clusters.data(clone)
        self._clusters.unpack(self._clusters.backups(source.uid) / base.folder, data)
        running.check()
        place_file(data / "recovery.signal")
        settings = {
            "restore_command": f"cp {command_path(self._clusters.archive(source))}/'%f' '%p'",
            "recovery_target_timeline": str(base.timeline),
            "recovery_target_action": "promote",
            # It answers when it has recovered, not before.
            "hot_standby": "off",
        }
        latest = self._archive.latest(source)
        if latest is not None and latest > when:
            settings["recovery_target_time"] = when.strftime("%Y-%m-%d %H:%M:%S.%f+00")
        elif latest is None or latest < when:
            raise OperationFailed(
                "INTERNAL_ERROR", "The WAL up to that point in time is no longer archived."
            )
        # Where the last commit of all is wanted PostgreSQL would miss one after it: no target.
        clone = self._clusters.start(clone, more=settings, timeout_s=_RECOVERY_TIMEOUT_S)
        self._clusters.configure(clone, {})
        return clone
