"""Backups of instances: the methods ``sql.backupRuns.*`` and ``sql.instances.restoreBackup``.

A backup is a copy of the cluster's files with the WAL that makes them whole; a recovery to a later
point in time can begin with it.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.protocol import Answer, ApiError, Request, not_done
from dagster_resil.localcloud.sql.context import Context, MethodGroup
from dagster_resil.localcloud.sql.discovery import format_time
from dagster_resil.localcloud.sql.errors import invalid_request
from dagster_resil.localcloud.sql.instances import Instances, without_nulls
from dagster_resil.localcloud.sql.operation_log import Running, page
from dagster_resil.localcloud.sql.store import Backup, Instance

_MOST_RESULTS = 100


class Backups(MethodGroup):
    """The methods of backups."""

    def __init__(self, context: Context, instances: Instances) -> None:
        super().__init__(context)
        self._instances = instances

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.backupRuns.insert": self._insert,
            "sql.backupRuns.list": self._list,
            "sql.backupRuns.get": self._get,
            "sql.backupRuns.delete": self._delete,
            "sql.instances.restoreBackup": self._restore,
        }

    def recover(self) -> None:
        """Have the backups FAILED that a local cloud did not live to finish."""
        for instance in self._store.instances():
            for backup in self._store.backups(instance.uid):
                if backup.resource["status"] in ("ENQUEUED", "RUNNING"):
                    self._put(backup, status="FAILED")
                    shutil.rmtree(self._folder(backup), ignore_errors=True)

    def _folder(self, backup: Backup) -> Path:
        return self._clusters.backups(backup.uid) / backup.folder

    def _put(self, backup: Backup, **fields: Any) -> Backup:
        backup = replace(backup, resource={**backup.resource, **fields})
        self._store.put_backup(backup)
        return backup

    def _now(self, instance: Instance) -> str:
        return format_time(self._store.clock(instance.clock).now())

    def _shown(self, backup: Backup, request: Request) -> dict[str, Any]:
        where = f"{request.base_url}/v1/projects/{backup.project}"
        link = f"{where}/instances/{backup.resource['instance']}/backupRuns/{backup.id}"
        return {**backup.resource, "selfLink": link}

    def _insert(self, request: Request) -> Answer:
        instance = self._instances.running(request, "cloudsql.backupRuns.create")
        if instance.primary is not None:
            raise invalid_request("A read replica can't be backed up.")
        given = without_nulls(request.given)
        now = self._store.clock(instance.clock).now()
        number = int(now.timestamp() * 1000)
        while self._store.backup(instance.uid, number):
            number += 1
        resource = {
            "kind": "sql#backupRun",
            "id": str(number),
            "instance": instance.name,
            "type": "ON_DEMAND",
            "backupKind": "SNAPSHOT",
            "status": "ENQUEUED",
            "enqueuedTime": format_time(now),
            "windowStartTime": format_time(now),
            "databaseVersion": instance.resource["databaseVersion"],
            "location": given.get("location", instance.region.partition("-")[0][:2]),
            **({"description": given["description"]} if "description" in given else {}),
        }
        backup = Backup(
            instance.project, instance.uid, number, f"run-{number}", instance.major, resource
        )

        def work(running: Running) -> None:
            started = self._put(backup, status="RUNNING", startTime=self._now(instance))
            self._archive.take_base(instance, backup.folder, watch=running.check)
            size = sum(each.stat().st_size for each in self._folder(backup).rglob("*"))
            self._put(
                started,
                status="SUCCESSFUL",
                endTime=self._now(instance),
                maxChargeableBytes=str(size),
            )

        def failed() -> None:
            self._put(backup, status="FAILED", endTime=self._now(instance))
            self._remove_files(instance, backup)

        return self._operations.begin(
            request,
            "BACKUP_VOLUME",
            instance,
            work,
            prepare=lambda: self._store.put_backup(backup),
            failed=failed,
            backupContext={"kind": "sql#backupContext", "backupId": str(number)},
        )

    def _remove_files(self, instance: Instance, backup: Backup) -> None:
        for base in self._store.bases(instance.uid):
            if base.folder == backup.folder:
                self._store.remove_base(base)
        shutil.rmtree(self._folder(backup), ignore_errors=True)

    def _found(self, request: Request, permission: str) -> tuple[Instance, Backup]:
        instance = self._access.instance(request, permission)
        number = request.names["id"]
        if not (number.isascii() and number.isdigit()):
            raise invalid_request(f"Invalid backup id ({number}).")
        backup = self._store.backup(instance.uid, int(number))
        if backup is None:
            raise _no_backup()
        return instance, backup

    def _get(self, request: Request) -> Answer:
        _, backup = self._found(request, "cloudsql.backupRuns.get")
        return Answer.of(self._shown(backup, request))

    def _list(self, request: Request) -> Answer:
        project = request.names["project"]
        if request.names["instance"] == "-":  # all of the project
            self._access.check(request, "cloudsql.backupRuns.list")
            instances = self._store.instances(project)
        else:
            instances = [self._access.instance(request, "cloudsql.backupRuns.list")]
        limit, before = page(request, _MOST_RESULTS)
        found = sorted(
            (backup for each in instances for backup in self._store.backups(each.uid)),
            key=lambda backup: -backup.id,
        )
        rest = [each for each in found if before is None or each.id < before]
        answer: dict[str, Any] = {"kind": "sql#backupRunsList"}
        if rest:
            answer["items"] = [self._shown(each, request) for each in rest[:limit]]
        if len(rest) > limit:
            answer["nextPageToken"] = str(rest[limit - 1].id)
        return Answer.of(answer)

    def _delete(self, request: Request) -> Answer:
        instance, backup = self._found(request, "cloudsql.backupRuns.delete")

        def work(running: Running) -> None:
            self._remove_files(instance, backup)
            self._store.remove_backup(backup)

        return self._operations.begin(
            request,
            "DELETE_BACKUP",
            instance,
            work,
            backupContext={"kind": "sql#backupContext", "backupId": str(backup.id)},
        )

    # -- restoring

    def _restore(self, request: Request) -> Answer:
        target = self._instances.running(request, "cloudsql.instances.restoreBackup")
        given = without_nulls(request.given)
        others = given.keys() - {"restoreBackupContext"}
        if others:
            raise not_done(f"restoreBackup with {sorted(others)}")
        context = given.get("restoreBackupContext") or {}
        if "backupRunId" not in context:
            raise invalid_request("Missing parameter: restoreBackupContext.backupRunId.")
        source = self._access.instance(
            request,
            "cloudsql.backupRuns.get",
            project=context.get("project", target.project),
            name=context.get("instanceId", target.name),
        )
        backup = self._store.backup(source.uid, int(context["backupRunId"]))
        if backup is None:
            raise _no_backup()
        if backup.resource["status"] != "SUCCESSFUL":
            raise invalid_request("The backup run is not successful.")
        if backup.major != target.major:
            raise invalid_request("The backup is of another database version.")
        if target.primary is not None or any(
            each.primary == target.name for each in self._store.instances(target.project)
        ):
            raise invalid_request(
                "An instance with read replicas, or one of them, can't be restored."
            )

        def work(running: Running) -> None:
            self._put_back(target, backup)

        return self._operations.begin(
            request,
            "RESTORE_VOLUME",
            target,
            work,
            locks=[source.key] if source.key != target.key else [],
            backupContext={"kind": "sql#backupContext", "backupId": str(backup.id)},
        )

    def _put_back(self, target: Instance, backup: Backup) -> None:
        """Have an instance's cluster be what the backup holds.

        What it was before stays until that one runs. Another archive begins: the WAL of the two
        would have the same names.
        """
        data = self._clusters.data(target)
        new, old = data.with_name("data.new"), data.with_name("data.old")
        for place in (new, old):
            shutil.rmtree(place, ignore_errors=True)
        self._clusters.unpack(self._folder(backup), new)
        after = replace(target, archive=target.archive + 1)
        self._clusters.stop(target, how=signal.SIGQUIT)
        data.rename(old)
        new.rename(data)
        try:
            self._clusters.make_home(after)
            self._store.put_instance(after)
            after = self._clusters.start(after)
        except ResilError:
            self._store.put_instance(target)
            shutil.rmtree(data)
            old.rename(data)
            self._clusters.start(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if after.has_recovery:
            self._archive.take_base(after, f"restored-{after.archive}")
        self._archive.forget_earlier(after)


def _no_backup() -> ApiError:
    return ApiError(404, "backupRunDoesNotExist", "The backup run does not exist.")
