"""What backups and restores need of Cloud SQL, as calls that are over when they return."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.auth.credentials import Credentials

from dagster_resil.cloudsql import ownership
from dagster_resil.cloudsql.api import Api, Refusal, Watch, nothing
from dagster_resil.cloudsql.instance import Certificates, Instance, RecoveryWindow
from dagster_resil.cloudsql.operations import OperationRequest, Operations
from dagster_resil.cloudsql.refusals import recovery_hint, refused
from dagster_resil.errors import CloudSqlError, ConfigurationError, InstanceMissing

_POSTGRES_PORT = 5432
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_CHANGES = 20
"""How often a change is made anew because somebody else changed the same settings meanwhile."""


@dataclass(frozen=True)
class CloudSqlSettings:
    """Which project's instances, where, and as whom.

    :param project: the project of the instances, unless a call names another.
    :param endpoint: the Admin API's address; by default the local cloud's where the environment
        leads there (``RESIL_LOCALCLOUD``), Google's otherwise.
    :param impersonate: the service account to act as: one for each kind of job.
    :param timeout_s: how long one operation may take, and how long one may wait for its turn.
    :param request_timeout_s: how long to wait for a connection, and for each answer.
    :param retry_s: how long to go on with a request that fails in passing.
    """

    project: str
    endpoint: str | None = None
    impersonate: str | None = None
    timeout_s: float = 3600
    request_timeout_s: float = 60
    retry_s: float = 120


class CloudSql:
    """Cloud SQL's instances of a project. Threads may share it.

    Every method may raise :class:`CloudSqlError`, which says what was refused or failed and which
    permission, setting or right is missing. Methods that wait call ``watch`` some ten times a
    second; what that raises ends the wait and is passed on.

    :param credentials: used in place of Application Default Credentials.
    :raises ConfigurationError: there are no credentials, or the address is not to be trusted.
    """

    def __init__(
        self, settings: CloudSqlSettings, *, credentials: Credentials | None = None
    ) -> None:
        self.settings = settings
        self._api = Api(
            endpoint=settings.endpoint,
            impersonate=settings.impersonate,
            credentials=credentials,
            request_timeout_s=settings.request_timeout_s,
            retry_s=settings.retry_s,
        )
        self._operations = Operations(self._api, settings.timeout_s)

    @property
    def is_local(self) -> bool:
        """Return whether this is a cloud on this machine, whose servers are here too."""
        return self._api.on_loopback

    # -- looking

    def instance(self, name: str, *, project: str | None = None) -> Instance:
        """Return an instance.

        :raises InstanceMissing: there is none.
        """
        return self._parsed(self._resource(name, project or self.settings.project))

    def instances(self, *, project: str | None = None) -> list[Instance]:
        """Return a project's instances, of whatever kind; those of a region that is gone lack."""
        project = project or self.settings.project
        method = self._api.service.instances().list
        items = self._pages(method, "list", "list the instances", project=project)
        return [self._parsed(each) for each in items]

    def databases(self, name: str, *, project: str | None = None) -> list[str]:
        """Return the names of an instance's databases, without Google's own."""
        items = self._pages(
            self._api.service.databases().list,
            "databases",
            f"list the databases of instance {name}",
            project=project or self.settings.project,
            instance=name,
        )
        own = ("cloudsqladmin", "template0", "template1")
        return sorted(str(each["name"]) for each in items if each["name"] not in own)

    def recovery_window(self, name: str) -> RecoveryWindow:
        """Return the moments that an instance can be cloned at.

        :raises CloudSqlError: point-in-time recovery is off; the hint says how to turn it on.
        """
        project = self.settings.project
        answer = self._read(
            self._api.service.projects()
            .instances()
            .getLatestRecoveryTime(project=project, instance=name),
            "see",
            f"see the recovery window of instance {name}",
            project,
            name,
        )
        try:
            return RecoveryWindow(
                _time(answer["earliestRecoveryTime"]), _time(answer["latestRecoveryTime"])
            )
        except KeyError:
            raise CloudSqlError(
                f"instance {name} in project {project} has no recovery window",
                hint=recovery_hint(project, name),
            ) from None

    def certificates(self, name: str, *, project: str | None = None) -> Certificates:
        """Return what an instance's server is known by.

        :raises CloudSqlError: it has no certificate.
        """
        project = project or self.settings.project
        resource = self._resource(name, project)
        mode = resource.get("settings", {}).get("ipConfiguration", {}).get("serverCaMode", "")
        found = []
        if mode in ("GOOGLE_MANAGED_CAS_CA", "CUSTOMER_MANAGED_CAS_CA"):
            # Authorities that more than one instance has: the resource shows only one of them.
            answer = self._read(
                self._api.service.instances().listServerCas(project=project, instance=name),
                "authorities",
                f"see the certificate authorities of instance {name}",
                project,
                name,
            )
            found = [str(each["cert"]) for each in answer.get("certs", ())]
        elif "serverCaCert" in resource:
            found = [str(resource["serverCaCert"]["cert"])]
        if not found:
            raise CloudSqlError(
                f"instance {name} in project {project} has no certificate to know its server by",
                hint="an instance gets one when it is made; check that it is RUNNABLE",
            )
        host = resource.get("dnsName", "").rstrip(".") if mode.endswith("CAS_CA") else ""
        return Certificates("\n".join(each.strip() for each in found) + "\n", host or None)

    def login_token(self) -> str:
        """Return an access token that is a password with IAM database authentication.

        It is kept out of our logs and messages.

        :raises CloudSqlError: the credentials give none.
        """
        return self._api.login_token()

    # -- doing

    def export(
        self,
        name: str,
        *,
        database: str,
        uri: str,
        project: str | None = None,
        offload: bool = False,
        threads: int | None = None,
        watch: Watch = nothing,
    ) -> None:
        """Have an instance write a database to Cloud Storage, and wait until it has.

        It is a directory archive of pg_dump, each file of which Google compresses once more. The
        export is cancelled when ``watch`` raises, or when it takes too long.

        :param uri: the folder, ``gs://bucket/name``, in which nothing is yet: a new one each time.
        :param offload: have a machine of its own do it, at a price, to spare the instance.
        :param threads: how many tables go at a time.
        :raises CloudSqlError: it was refused or failed: something is there already, or the
            instance's service account lacks a right on the bucket (the hint says which).
        :raises OperationUnfinished: it took too long.
        """
        project = project or self.settings.project
        options: dict[str, Any] = {"parallel": True}
        if threads is not None:
            options["threads"] = threads
        context = {
            "fileType": "SQL",
            "uri": uri,
            "databases": [database],
            "offload": offload,
            "sqlExportOptions": options,
        }
        body = {"exportContext": context}
        service = self._api.service
        asked = OperationRequest(
            doing="export",
            what=f"export database {database} of instance {name} to {uri}",
            request=lambda: service.instances().export(project=project, instance=name, body=body),
            kind="EXPORT",
            project=project,
            instance=name,
            uri=uri,
        )
        self._operations.run(asked, watch=watch)

    def clone(
        self,
        source: str,
        destination: str,
        *,
        moment: datetime | None = None,
        project: str | None = None,
        watch: Watch = nothing,
    ) -> Instance:
        """Make an instance that is another one's copy, and wait until it is there.

        It has the source's settings, its protection against deletion too, and at Google its labels.
        When this raises it may be there all the same, whole or FAILED: delete it.

        :param source: an instance of the settings' project.
        :param moment: the state of which moment; by default now. It takes point-in-time recovery.
        :param project: where to make it; by default where the source is.
        :raises CloudSqlError: it was refused or failed.
        :raises OperationUnfinished: it took too long, and may come to be there later.
        """
        home = self.settings.project
        project = project or home
        context: dict[str, Any] = {"destinationInstanceName": destination}
        what = f"clone instance {source} to {destination}"
        if project != home:
            context["destinationProject"] = project
            what += f" of project {project}"
        if moment is not None:
            if moment.tzinfo is None:
                raise ConfigurationError(
                    f"can't {what}: the moment {moment} names no time zone", hint="use UTC"
                )
            if not self.instance(source).has_recovery:
                raise CloudSqlError(
                    f"can't {what} as of {_text(moment)}",
                    hint=recovery_hint(home, source),
                    reason="pointInTimeRecoveryNotEnabled",
                )
            context["pointInTime"] = _text(moment)
            what += f" as of {_text(moment)}"
        with contextlib.suppress(InstanceMissing):
            # One that was there before must not be taken for ours when an answer is lost.
            self.instance(destination, project=project)
            raise CloudSqlError(
                f"can't {what}: there is an instance of that name",
                hint="use another name",
                reason="instanceAlreadyExists",
            )
        service = self._api.service
        asked = OperationRequest(
            doing="clone",
            what=what,
            request=lambda: service.instances().clone(
                project=home, instance=source, body={"cloneContext": context}
            ),
            kind="CLONE",
            project=project,
            instance=destination,
            source=(home, source),
        )
        self._operations.run(asked, watch=watch)
        return self.instance(destination, project=project)

    def delete(
        self,
        name: str,
        *,
        project: str | None = None,
        watch: Watch = nothing,
        turn_s: float | None = None,
    ) -> None:
        """Delete an instance with all that it has, and wait until it is gone.

        One that is gone is fine. One that is protected against deletion is not deleted.

        :param turn_s: how long to wait for an operation that has the instance to end.
        :raises CloudSqlError: it was refused or failed.
        :raises OperationUnfinished: it took too long.
        """
        project = project or self.settings.project
        service = self._api.service
        asked = OperationRequest(
            doing="delete",
            what=f"delete instance {name}",
            request=lambda: service.instances().delete(project=project, instance=name),
            kind="DELETE",
            project=project,
            instance=name,
        )
        with contextlib.suppress(InstanceMissing):
            self._operations.run(asked, watch=watch, turn_s=turn_s)

    def label(self, name: str, labels: Mapping[str, str], *, project: str | None = None) -> None:
        """Give an instance labels, in addition to those that it has.

        :param labels: each value of at most 63 of a-z, 0-9, _ and -.
        :raises ConfigurationError: a label can't be one.
        """
        self.check_labels(labels)

        def change(settings: Mapping[str, Any]) -> dict[str, Any] | None:
            known = settings.get("userLabels", {})
            new = {**known, **labels}
            return None if new == known else {"userLabels": new}

        self._change(name, project or self.settings.project, f"label instance {name}", change)

    @staticmethod
    def check_labels(labels: Mapping[str, str]) -> None:
        """Refuse what can't be labels.

        :raises ConfigurationError: they can't.
        """
        for key, value in labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise ConfigurationError(
                    f"{key}={value} can't be a label",
                    hint="labels have at most 63 of the characters a-z, 0-9, _ and -",
                )

    def unprotect(
        self, name: str, *, project: str | None = None, turn_s: float | None = None
    ) -> None:
        """Lift a temporary instance's protection against deletion, which clones inherit.

        :param turn_s: how long to wait for an operation that has the instance to end.
        :raises CloudSqlError: it is not a temporary instance of this tool.
        """
        project = project or self.settings.project
        instance = self.instance(name, project=project)
        if not instance.deletion_protected:
            return
        if self.owner(instance) is None:
            raise CloudSqlError(
                f"instance {name} in project {project} is protected against deletion, and is not "
                "a temporary instance of this tool",
                hint="this tool removes that protection only from its own; to delete this one: "
                f"gcloud sql instances patch {name} --project={project} --no-deletion-protection",
                reason="notOurs",
            )
        self._change(
            name,
            project,
            f"remove the deletion protection of instance {name}",
            lambda settings: (
                {"deletionProtectionEnabled": False}
                if settings.get("deletionProtectionEnabled")
                else None
            ),
            turn_s=turn_s,
        )

    # -- what is ours

    def owner(self, instance: Instance) -> str | None:
        """Return who made a temporary instance; None for any other instance.

        :mod:`dagster_resil.cloudsql.ownership` says how that is told.
        """
        home = self.settings.project
        claim = ownership.claim(instance, home)
        if claim is None:
            return None
        if not claim.is_labelled:
            if not any(claim.is_of(home, each.name) for each in self.instances()):
                return None
            if not self._operations.was_cloned(instance.project, instance.name):
                return None
        return claim.owner

    def is_busy(self, instance: Instance) -> bool:
        """Return whether an operation has an instance."""
        found = self._operations.of_instance(instance.project, instance.name)
        return any(each["status"] != "DONE" for each in found)

    # -- how

    def _read(
        self, request: Any, doing: str, what: str, project: str, instance: str
    ) -> dict[str, Any]:
        try:
            return self._api.read(request, f"{what!r} in project {project}")
        except Refusal as refusal:
            raise refused(
                refusal,
                doing=doing,
                what=what,
                project=project,
                instance=instance,
                account=self._api.account,
            ) from None

    def _resource(self, name: str, project: str) -> dict[str, Any]:
        request = self._api.service.instances().get(project=project, instance=name)
        return self._read(request, "see", f"see instance {name}", project, name)

    def _pages(
        self, method: Callable[..., Any], doing: str, what: str, **where: str
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, str] = {}
        while True:
            request = method(**where, **page)
            answer = self._read(request, doing, what, where["project"], where.get("instance", ""))
            found += answer.get("items", ())
            if not answer.get("nextPageToken"):
                return found
            page = {"pageToken": answer["nextPageToken"]}

    def _change(
        self,
        name: str,
        project: str,
        what: str,
        change: Callable[[Mapping[str, Any]], dict[str, Any] | None],
        *,
        turn_s: float | None = None,
    ) -> None:
        """Change settings of an instance.

        :param change: takes the settings, returns those to be changed; None when all is well.
        """
        service = self._api.service
        for _ in range(_MOST_CHANGES):
            settings = self._resource(name, project).get("settings", {})
            new = change(settings)
            if new is None:
                return
            if "settingsVersion" in settings:
                # Refused if somebody else has changed them meanwhile, whose change is not lost.
                new["settingsVersion"] = settings["settingsVersion"]
            body = {"settings": new}
            asked = OperationRequest(
                doing="change",
                what=what,
                request=lambda body=body: service.instances().patch(  # type: ignore[misc]
                    project=project, instance=name, body=body
                ),
                kind="UPDATE",
                project=project,
                instance=name,
            )
            try:
                # Then looked at again: where an answer was lost, the operation that we found may
                # have been somebody else's change.
                self._operations.run(asked, turn_s=turn_s)
            except CloudSqlError as error:
                if error.reason not in ("staleData", "conditionNotMet"):
                    raise
        raise CloudSqlError(
            f"can't {what} in project {project}: its settings keep changing",
            hint=f"see by whom: gcloud sql operations list --instance={name} --project={project}",
            reason="staleData",
        )

    def _parsed(self, resource: Mapping[str, Any]) -> Instance:
        settings = resource.get("settings", {})
        backups = settings.get("backupConfiguration", {})
        version = re.fullmatch(r"POSTGRES_(\d+)(_\d+)?", resource.get("databaseVersion", ""))
        address, port = self._place(resource)
        created = resource.get("createTime")
        primary = resource.get("masterInstanceName")
        return Instance(
            project=resource["project"],
            name=resource["name"],
            region=resource.get("region", ""),
            state=resource.get("state", "SQL_INSTANCE_STATE_UNSPECIFIED"),
            major=int(version[1]) if version else 0,
            labels=dict(settings.get("userLabels", {})),
            # Not told of one that is only now being made.
            created_at=_time(created) if created else datetime.now(UTC),
            service_account=resource.get("serviceAccountEmailAddress", ""),
            deletion_protected=bool(settings.get("deletionProtectionEnabled")),
            has_recovery=bool(backups.get("pointInTimeRecoveryEnabled")),
            address=address,
            port=port,
            primary=str(primary).rpartition(":")[2] if primary else None,
        )

    def _place(self, resource: Mapping[str, Any]) -> tuple[str, int]:
        name = resource.get("dnsName", "")
        if self._api.on_loopback and (found := re.fullmatch(r"localhost:(\d+)", name)):
            return "127.0.0.1", int(found[1])
        addresses = {
            each.get("type"): each.get("ipAddress", "") for each in resource.get("ipAddresses", ())
        }
        # Without either it is reached by Private Service Connect, under its name.
        address = addresses.get("PRIVATE") or addresses.get("PRIMARY") or name.rstrip(".")
        return str(address), _POSTGRES_PORT


def _time(text: str) -> datetime:
    """Read a time as Google writes it: RFC 3339, with up to nine digits."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00"))
    return datetime.fromisoformat(text).astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
