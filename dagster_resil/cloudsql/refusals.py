"""What Cloud SQL refuses, and what to do: which permission, setting or right is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dagster_resil.cloudsql.api import Refusal
from dagster_resil.errors import CloudSqlError, InstanceMissing

PERMISSIONS: Mapping[str, tuple[str, str]] = {
    "see": ("cloudsql.instances.get", "roles/cloudsql.viewer"),
    "list": ("cloudsql.instances.list", "roles/cloudsql.viewer"),
    "databases": ("cloudsql.databases.list", "roles/cloudsql.viewer"),
    "authorities": ("cloudsql.instances.listServerCas", "roles/cloudsql.viewer"),
    "export": ("cloudsql.instances.export", "roles/cloudsql.viewer"),
    "clone": ("cloudsql.instances.clone", "roles/cloudsql.admin"),
    "change": ("cloudsql.instances.update", "roles/cloudsql.editor"),
    "delete": ("cloudsql.instances.delete", "roles/cloudsql.admin"),
}
"""What we do → the permission that it takes, and the smallest predefined role that has it."""

_RIGHTS = re.compile(
    r"permissions missing are:?\s*\[?\s*(storage\.[\w.]+(?:\s*,\s*storage\.[\w.]+)*)"
)
_ACCOUNT = re.compile(r"service account ([\w.-]+@[\w.-]+\w)")
_RECOVERY_OFF = re.compile(r"point-in-time recovery is not enabled|pointInTimeRecovery", re.I)


def refused(
    refusal: Refusal,
    *,
    doing: str,
    what: str,
    project: str,
    instance: str,
    account: str,
    destination_project: str | None = None,
) -> CloudSqlError:
    """Return the error that a refusal is to a user.

    :param doing: a key of :data:`PERMISSIONS`.
    :param what: what was wanted, for the message: "clone instance orders to x".
    :param account: whom we are signed in as.
    :param destination_project: where a clone was to be made, if elsewhere.
    """
    message = f"can't {what} in project {project}: {refusal.message}"
    text = f"{refusal.reason} {refusal.message}"
    kind = CloudSqlError
    hint = ""
    if refusal.is_throttled:
        hint = (
            "too many requests a minute: let fewer jobs run at a time, or ask for a higher quota "
            "of the Cloud SQL Admin API"
        )
    elif refusal.status == 401:
        hint = "the credentials were not accepted: gcloud auth application-default login"
    elif "accessNotConfigured" in text or "SERVICE_DISABLED" in text:
        hint = (
            f"turn the API on: gcloud services enable sqladmin.googleapis.com --project={project}"
        )
    elif refusal.status == 403:
        hint = _permission(doing, project, account, destination_project)
    elif refusal.status == 404 and doing != "databases":
        kind = InstanceMissing
        hint = f"see what there is: gcloud sql instances list --project={project}"
    elif refusal.reason == "instanceAlreadyExists":
        hint = "there is an instance of that name: use another name"
    elif _RECOVERY_OFF.search(text):
        hint = recovery_hint(project, instance)
    elif "recovery window" in text:
        hint = "use a moment within the window of point-in-time recovery"
    elif "protect" in refusal.message:
        hint = (
            "it is protected against deletion, which this tool removes only from temporary "
            f"instances: gcloud sql instances patch {instance} --project={project} "
            "--no-deletion-protection"
        )
    elif refusal.reason in ("instanceHasReplicas", "invalidState", "invalidOperation"):
        hint = f"see its state: gcloud sql instances describe {instance} --project={project}"
    return kind(message, hint=hint, reason=refusal.reason)


def _permission(
    doing: str, project: str, account: str, destination_project: str | None = None
) -> str:
    permission, role = PERMISSIONS[doing]
    text = f"grant {permission} on project {project} to {account}"
    if doing == "clone" and destination_project and destination_project != project:
        text += f", and cloudsql.instances.create on project {destination_project}"
    return f"{text} (in a custom role, or with {role}); is the instance's name right?"


def recovery_hint(project: str, instance: str) -> str:
    """Say how point-in-time recovery is turned on."""
    return (
        f"point-in-time recovery is off: gcloud sql instances patch {instance} "
        f"--project={project} --enable-point-in-time-recovery"
    )


def failed(
    code: str, message: str, *, what: str, project: str, instance: str, uri: str | None
) -> CloudSqlError:
    """Return the error that a failed operation is to a user.

    :param code: the operation's; the set is open.
    :param uri: where an export was to go.
    """
    bucket = (uri or "").removeprefix("gs://").partition("/")[0]
    hint = ""
    lower = message.lower()
    if rights := _RIGHTS.search(message):
        found = _ACCOUNT.search(message)
        account = found[1] if found else "the instance's own service account"
        hint = (
            f"grant {rights[1]} on gs://{bucket} to {account}: gcloud storage buckets "
            f"add-iam-policy-binding gs://{bucket} --member=serviceAccount:{account} "
            "--role=roles/storage.objectUser"
        )
    elif uri and "already exists" in lower:
        hint = f"something is at {uri} already, and is not replaced: use a new URI for each export"
    elif uri and ("not found" in lower or "bucket does not exist" in lower):
        hint = f"is there a bucket gs://{bucket}?"
    else:
        hint = (
            f"see the operation: gcloud sql operations list --project={project} "
            f"--instance={instance}"
        )
    return CloudSqlError(f"can't {what}: {message} ({code})", hint=hint, reason=code)
