"""Instances: the methods ``sql.instances.*`` that make, show, change and remove them."""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, not_done
from dagster_resil.localcloud.sql.clusters import OWN_SETTINGS
from dagster_resil.localcloud.sql.context import Context, MethodGroup
from dagster_resil.localcloud.sql.discovery import format_time
from dagster_resil.localcloud.sql.errors import in_progress, invalid_request
from dagster_resil.localcloud.sql.operation_log import Running, page
from dagster_resil.localcloud.sql.store import Instance, Store

REGIONS = ("europe-west1", "us-east1")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,95}[a-z0-9])?")
_VERSION = re.compile(r"POSTGRES_(\d+)")
_MOST_RESULTS = 500
_SETTABLE = ("replicaConfiguration", "maintenanceVersion")
"""What a caller may set beside the name, version, region, primary and settings; the rest of the
resource is output, and ignored in a request as Google ignores it."""
_UNCHANGEABLE = ("name", "region", "databaseVersion", "masterInstanceName", "instanceType")

_SETTINGS: Mapping[str, Any] = {
    "kind": "sql#settings",
    "settingsVersion": "1",
    "edition": "ENTERPRISE",
    "availabilityType": "ZONAL",
    "pricingPlan": "PER_USE",
    "activationPolicy": "ALWAYS",
    "dataDiskType": "PD_SSD",
    "dataDiskSizeGb": "10",
    "storageAutoResize": True,
    "connectorEnforcement": "NOT_REQUIRED",
    "deletionProtectionEnabled": False,
    "ipConfiguration": {"ipv4Enabled": True},
}
_BACKUPS: Mapping[str, Any] = {
    "kind": "sql#backupConfiguration",
    "enabled": False,
    "pointInTimeRecoveryEnabled": False,
    "startTime": "04:00",
    "transactionLogRetentionDays": 7,
    "backupRetentionSettings": {"retentionUnit": "COUNT", "retainedBackups": 7},
}


class Instances(MethodGroup):
    """The methods of instances, and what the other methods share of them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.create_replica: Callable[[Request, Instance], Answer] | None = None

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.instances.insert": self._insert,
            "sql.instances.list": self._list,
            "sql.instances.get": self._get,
            "sql.instances.patch": self._patch,
            "sql.instances.update": self._update,
            "sql.instances.delete": self._delete,
            "sql.instances.restart": self._restart,
            "sql.instances.failover": self._failover,
            "sql.connect.get": self._connect_settings,
        }

    # -- what the others share

    def resource(self, instance: Instance, base_url: str) -> dict[str, Any]:
        """Return an instance as the API shows it.

        ``dnsName`` is the one field that means something else here than at Google: it says where
        the server really is, ``localhost:PORT``.
        """
        replicas = [
            each.name
            for each in self._store.instances(instance.project)
            if each.primary == instance.name
        ]
        document = {
            "kind": "sql#instance",
            "backendType": "SECOND_GEN",
            **instance.resource,
            "name": instance.name,
            "project": instance.project,
            "connectionName": f"{instance.project}:{instance.region}:{instance.name}",
            "selfLink": f"{base_url}/v1/projects/{instance.project}/instances/{instance.name}",
            "ipAddresses": [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}],
            "dnsName": f"localhost:{instance.port}",
            "etag": f"{instance.uid}-{instance.settings['settingsVersion']}",
        }
        if replicas:
            document["replicaNames"] = replicas
        return document

    def new(
        self,
        project: str,
        name: str,
        *,
        region: str,
        major: int,
        settings: Mapping[str, Any],
        clock: str | None = None,
        **resource: Any,
    ) -> Instance:
        """Return an instance that is about to be made.

        :param clock: its clock; by default its own, if it was told of already.
        :raises ApiError: the name is taken, or can't be one.
        """
        if not _NAME.fullmatch(name):
            raise invalid_request(f"Invalid instance name ({name}).")
        if self._store.instance(project, name) is not None:
            raise ApiError(409, "instanceAlreadyExists", "The Cloud SQL instance already exists.")
        if region not in REGIONS:
            raise invalid_request(f"Invalid region {region!r}: the local cloud has {REGIONS}.")
        self._outages.check(region)
        clock = clock or f"{project}/{name}"
        mark = secrets.token_hex(3)
        return Instance(
            project=project,
            name=name,
            uid=secrets.token_hex(6),
            port=self._clusters.free_port(),
            major=major,
            clock=clock,
            archive=1,
            resource={
                "state": "PENDING_CREATE",
                "region": region,
                "gceZone": f"{region}-b",
                "databaseVersion": f"POSTGRES_{major}",
                "databaseInstalledVersion": "POSTGRES_"
                + self._clusters.programs(major).version.replace(".", "_"),
                "instanceType": "CLOUD_SQL_INSTANCE",
                "createTime": format_time(self._store.clock(clock).now()),
                "serviceAccountEmailAddress": f"p1-{mark}@gcp-sa-cloud-sql.iam.gserviceaccount.com",
                "settings": dict(settings),
                **resource,
            },
        )

    def add(self, instance: Instance) -> None:
        """Have a new instance, PENDING_CREATE, and its identity, which may do nothing yet."""
        self._store.put_instance(instance)
        self._identities.add(instance.service_account, {}, key=False)

    def ready(self, instance: Instance, *, base: bool = True) -> None:
        """Have an instance RUNNABLE whose server runs."""
        if base and instance.has_recovery:
            self._archive.take_base(instance, "first")
        self._outages.apply_to(self._store.change(instance.key, state="RUNNABLE"))

    def failed(self, instance: Instance) -> None:
        """Leave an instance FAILED that could not be made: it is there until it is deleted."""
        self._clusters.stop(instance, how=signal.SIGQUIT)
        self._store.change(instance.key, state="FAILED")

    def running(self, request: Request, permission: str, *, name: str | None = None) -> Instance:
        """Return the request's instance, which has to be RUNNABLE.

        :raises ApiError: it is not, or the caller may not do that to it.
        """
        instance = self._access.instance(request, permission, name=name)
        check_running(instance)
        return instance

    # -- insert

    def _insert(self, request: Request) -> Answer:
        project = request.names["project"]
        self._access.check(request, "cloudsql.instances.create")
        given = without_nulls(request.given)
        name = given.get("name")
        if not name:
            raise invalid_request("Missing parameter: name.")
        if given.get("project", project) != project:
            raise invalid_request("The project of the body is not that of the path.")
        if "masterInstanceName" in given:
            if self.create_replica is None:
                raise not_done("read replicas")
            return self.create_replica(request, self._planned_replica(project, name, given))
        settings = settings_of(given.get("settings", {}), replica=False)
        instance = self.new(
            project,
            name,
            region=given.get("region", ""),
            major=self._major(given.get("databaseVersion")),
            settings=settings,
            **{key: given[key] for key in _SETTABLE if key in given},
        )
        instance = _zoned(instance)
        password = given.get("rootPassword")

        def work(running: Running) -> None:
            self._clusters.create(instance)
            running.check()
            started = self._clusters.start(instance)
            if password:
                self._clusters.set_password(started, "postgres", password)
            self.ready(started)

        return self._operations.begin(
            request,
            "CREATE",
            instance,
            work,
            prepare=lambda: self.add(instance),
            failed=lambda: self.failed(instance),
        )

    def _planned_replica(self, project: str, name: str, given: Mapping[str, Any]) -> Instance:
        primary = self._store.instance(project, str(given["masterInstanceName"]).rpartition(":")[2])
        if primary is None:
            raise invalid_request("The primary instance does not exist.")
        if given.get("databaseVersion", f"POSTGRES_{primary.major}") != (
            f"POSTGRES_{primary.major}"
        ):
            raise invalid_request("A replica has the database version of its primary.")
        own = given.get("settings", {})
        settings = {
            **primary.settings,
            # Protection is not inherited, labels are not either.
            "userLabels": {},
            "deletionProtectionEnabled": False,
            "backupConfiguration": {},
            "availabilityType": "ZONAL",
            **own,
            "settingsVersion": "1",
        }
        return _zoned(
            self.new(
                project,
                name,
                region=given.get("region", primary.region),
                major=primary.major,
                settings=settings_of(settings, replica=True),
                clock=primary.clock,
                instanceType="READ_REPLICA_INSTANCE",
                masterInstanceName=f"{project}:{primary.name}",
                **{key: given[key] for key in _SETTABLE if key in given},
            )
        )

    def _major(self, version: str | None) -> int:
        found = _VERSION.fullmatch(version or "")
        if not found:
            raise invalid_request(f"databaseVersion {version!r}: the local cloud has PostgreSQL.")
        if int(found[1]) not in self._clusters.majors():
            have = ", ".join(f"POSTGRES_{major}" for major in self._clusters.majors())
            raise invalid_request(f"databaseVersion {version}: this machine can run {have}.")
        return int(found[1])

    # -- reading

    def _list(self, request: Request) -> Answer:
        self._access.check(request, "cloudsql.instances.list")
        wanted = conditions(request.query.get("filter", ""))
        limit, after = page(request, _MOST_RESULTS)
        everything = self._store.instances(request.names["project"])
        here = [
            resource
            for each in everything
            if not self._outages.gone(each.region)
            and fulfils(resource := self.resource(each, request.base_url), wanted)
        ]
        shown = here[after or 0 :][:limit]
        answer: dict[str, Any] = {"kind": "sql#instancesList"}
        if shown:
            answer["items"] = shown
        if len(here) > (after or 0) + limit:
            answer["nextPageToken"] = str((after or 0) + limit)
        if missing := {each.region for each in everything if self._outages.gone(each.region)}:
            answer["warnings"] = [
                {
                    "code": "REGION_UNREACHABLE",
                    "message": "The region is unreachable.",
                    "region": region,
                }
                for region in sorted(missing)
            ]
        return Answer.of(answer)

    def _get(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.get")
        return Answer.of(self.resource(instance, request.base_url))

    def _connect_settings(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.get")
        shown = self.resource(instance, request.base_url)
        kept = ("region", "ipAddresses", "databaseVersion", "backendType", "dnsName")
        return Answer.of(
            {
                "kind": "sql#connectSettings",
                "connectionName": shown["connectionName"],
                **{key: shown[key] for key in kept},
            }
        )

    # -- changing

    def _patch(self, request: Request) -> Answer:
        return self._changed(request, lambda old, given: merged(old, given))

    def _update(self, request: Request) -> Answer:
        return self._changed(
            request, lambda old, given: {**without_nulls(given), "kind": "sql#settings"}
        )

    def _changed(
        self,
        request: Request,
        change: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]],
    ) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.update")
        given = request.given
        for key in _UNCHANGEABLE:
            shown = instance.name if key == "name" else instance.resource.get(key)
            if given.get(key) is not None and given[key] != shown:
                raise invalid_request(f"{key} can't be changed.")
        new = dict(given.get("settings") or {})
        version = new.pop("settingsVersion", None)
        check_version(instance, version)
        settings = settings_of(change(instance.settings, new), replica=instance.primary is not None)
        if instance.state != "FAILED" or _concerns_server(instance.settings, settings):
            check_running(instance.changed(settings={}))
        settings["settingsVersion"] = str(int(instance.settings["settingsVersion"]) + 1)
        if (
            settings["activationPolicy"] == "NEVER"
            and settings["backupConfiguration"] != (instance.settings["backupConfiguration"])
        ):
            raise invalid_request("Backups can't be changed while the instance is stopped.")

        def work(running: Running) -> None:
            before = self._store.instance(*instance.key) or instance
            after = self._store.change(instance.key, settings=settings)
            flags = [each.settings.get("databaseFlags", []) for each in (before, after)]
            if not after.is_on:
                # RUNNABLE still: that is what Google calls an instance that its owner has stopped.
                self._clusters.stop(after)
                return
            if flags[0] != flags[1] or not before.is_on:
                self._clusters.stop(after)
                self._clusters.start(after)
            elif before.has_recovery != after.has_recovery:
                self._clusters.configure(after, {})
                with self._clusters.admin(after) as connection:
                    connection.execute("SELECT pg_reload_conf()")
            if after.has_recovery and not before.has_recovery:
                # What was not archived meanwhile is missing: an archive without a gap begins.
                after = replace(after, archive=after.archive + 1)
                self._store.put_instance(after)
                self._clusters.make_home(after)
                self._clusters.configure(after, {})
                with self._clusters.admin(after) as connection:
                    connection.execute("SELECT pg_reload_conf()")
                self._archive.take_base(after, f"enabled-{after.archive}")
                self._archive.forget_earlier(after)

        def prepare() -> None:
            now = self._store.instance(*instance.key)
            if (
                now is None
                or now.settings["settingsVersion"] != instance.settings["settingsVersion"]
            ):
                # Another change came between; merged with what was before, this would undo it.
                raise in_progress()

        return self._operations.begin(request, "UPDATE", instance, work, prepare=prepare)

    # -- removing

    def _delete(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.delete")
        for parameter in ("enableFinalBackup", "finalBackupTtlDays", "finalBackupExpiryTime"):
            if request.query.get(parameter, "").lower() not in ("", "false", "0"):
                raise not_done("a final backup")
        if instance.settings.get("deletionProtectionEnabled"):
            raise invalid_request(
                "The instance is protected. Please disable the deletion protection and try again. "
                "To disable deletion protection, update the instance settings with "
                "deletionProtectionEnabled set to false."
            )
        if any(each.primary == instance.name for each in self._store.instances(instance.project)):
            raise ApiError(
                400,
                "instanceHasReplicas",
                "The instance has read replicas: delete or promote them first.",
            )
        state = instance.state

        def work(running: Running) -> None:
            self.remove(instance)

        return self._operations.begin(
            request,
            "DELETE",
            instance,
            work,
            locks=[(instance.project, instance.primary)] if instance.primary else [],
            prepare=lambda: _changed_state(self._store, instance, "PENDING_DELETE"),
            failed=lambda: _changed_state(self._store, instance, state),
        )

    def remove(self, instance: Instance) -> None:
        """Remove an instance with all that it has; its name is free at once."""
        self._clusters.stop(instance, how=signal.SIGQUIT)
        if instance.primary is not None:
            self._outages.drop_slot(instance)
        self._clusters.remove_home(instance.uid)
        self._store.forget(instance.uid)
        self._store.remove_instance(instance)
        self._identities.remove(instance.service_account)
        if all(each.clock != instance.clock for each in self._store.instances()):
            self._store.remove_clock(instance.clock)

    # -- restarting

    def _restart(self, request: Request) -> Answer:
        instance = self.running(request, "cloudsql.instances.restart")

        def work(running: Running) -> None:
            self._clusters.stop(instance)
            self._clusters.start(instance)

        return self._operations.begin(request, "RESTART", instance, work)

    def _failover(self, request: Request) -> Answer:
        instance = self.running(request, "cloudsql.instances.failover")
        context = request.given.get("failoverContext") or {}
        check_version(instance, context.get("settingsVersion"))
        if instance.settings.get("availabilityType") != "REGIONAL":
            raise invalid_request("Failover is only for instances with high availability.")

        def work(running: Running) -> None:
            # The disk is in both zones: the other machine recovers what this one has written.
            self._clusters.stop(instance, how=signal.SIGQUIT)
            self._clusters.start(instance)
            other = instance.resource.get("secondaryGceZone")
            self._store.change(
                instance.key, gceZone=other, secondaryGceZone=instance.resource.get("gceZone")
            )

        return self._operations.begin(request, "FAILOVER", instance, work)


def check_running(instance: Instance) -> None:
    """Refuse what needs an instance that is RUNNABLE, and whose server its owner has not stopped.

    :raises ApiError: it is not, or has.
    """
    if instance.state != "RUNNABLE" or not instance.is_on:
        raise ApiError(
            400,
            "invalidState",
            "The Cloud SQL instance is not in an appropriate state to handle the request.",
        )


def _concerns_server(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether settings differ in more than what Cloud SQL itself keeps.

    That can be changed of an instance that could not be made too: otherwise a clone that failed
    half-way could never be deleted, since it inherits its source's protection.
    """
    kept = ("userLabels", "deletionProtectionEnabled")
    return any(old.get(key) != new.get(key) for key in old.keys() | new.keys() if key not in kept)


def check_version(instance: Instance, version: Any) -> None:
    """Refuse a change to settings that somebody else has changed meanwhile.

    :raises ApiError: it was.
    """
    if version is not None and str(version) != instance.settings["settingsVersion"]:
        raise ApiError(412, "staleData", "Condition does not match.")


def settings_of(given: Mapping[str, Any], *, replica: bool) -> dict[str, Any]:
    """Return whole settings.

    :raises ApiError: they contradict each other, or the local cloud can't have them so.
    """
    if not given.get("tier"):
        raise invalid_request("Missing parameter: settings.tier.")
    backups = merged(_BACKUPS, given.get("backupConfiguration", {}))
    settings = {**_SETTINGS, **given, "backupConfiguration": backups}
    if backups["pointInTimeRecoveryEnabled"] and not backups["enabled"]:
        raise invalid_request("Point-in-time recovery needs backups enabled.")
    if replica and backups["enabled"]:
        raise invalid_request("Backups can't be enabled on a read replica.")
    for flag in settings.get("databaseFlags", ()):
        if flag.get("name") in OWN_SETTINGS or not re.fullmatch(
            r"[a-z_]+(\.[a-z_]+)?", str(flag.get("name"))
        ):
            raise invalid_request(f"Flag {flag.get('name')!r} can't be set.")
    if settings.get("retainBackupsOnDelete"):
        raise not_done("settings.retainBackupsOnDelete")
    if settings["activationPolicy"] not in ("ALWAYS", "NEVER"):
        raise not_done(f"settings.activationPolicy {settings['activationPolicy']}")
    return settings


def conditions(expression: str) -> list[tuple[list[str], str]]:
    """Read a list's filter: ``field.below:value``, several of them apart by spaces or AND.

    :raises ApiError: it is another.
    """
    found = []
    for word in expression.split():
        if word == "AND":
            continue
        field, colon, value = word.partition(":")
        if not colon or word == "OR" or "*" in value:
            raise not_done(f"the filter {expression!r}")
        found.append((field.split("."), value.strip('"')))
    return found


def fulfils(resource: Mapping[str, Any], wanted: list[tuple[list[str], str]]) -> bool:
    """Return whether a resource is as a filter says."""
    for path, value in wanted:
        found: Any = resource
        for step in path:
            found = found.get(step) if isinstance(found, Mapping) else None
        if isinstance(found, bool):
            found = str(found).lower()
        if found != value:
            return False
    return True


def merged(old: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document changed as a PATCH says (RFC 7396): objects merge, null takes away."""
    new = dict(old)
    for key, value in given.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            here = new.get(key)
            new[key] = merged(here if isinstance(here, dict) else {}, value)
        else:
            new[key] = value
    return new


def without_nulls(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without what is null: not given."""
    return {
        key: without_nulls(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if value is not None
    }


def _zoned(instance: Instance) -> Instance:
    if instance.settings.get("availabilityType") != "REGIONAL":
        return instance
    return instance.changed(secondaryGceZone=f"{instance.region}-c")


def _changed_state(store: Store, instance: Instance, state: str) -> None:
    store.change(instance.key, state=state)
