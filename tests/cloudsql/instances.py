"""Our client in tests, and what they look for at the local Cloud SQL."""

from __future__ import annotations

import time
from typing import Any

from google.cloud import storage
from google.oauth2 import service_account

from dagster_resil.cloudsql.client import CloudSql, CloudSqlSettings
from tests.localcloud.cloudsql import PROJECT
from tests.localcloud.cloudsql import CloudSql as Google

SOURCE = "orders"
SCRATCH = "scratch"
FOLDER = ("storage.objects.create", "storage.objects.list", "storage.objects.delete")
_IDLE_TIMEOUT_S = 60


def connected(sql: Google, account: str = "owner", **settings: Any) -> CloudSql:
    """Return our client, signed in as an account, that gives up soon."""
    quick: dict[str, Any] = {"timeout_s": 60, "request_timeout_s": 10, "retry_s": 3}
    quick["endpoint"] = sql.cloud.url
    credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
        str(sql.cloud.running.keys / f"{account}.json")
    )
    return CloudSql(
        CloudSqlSettings(project=PROJECT, **(quick | settings)),
        credentials=credentials,
    )


def grant(
    sql: Google, instance: str, bucket: storage.Bucket, *permissions: str, project: str = PROJECT
) -> str:
    """Give an instance's own identity permissions on a bucket, and no others."""
    email = str(sql.get(instance, project=project)["serviceAccountEmailAddress"])
    sql.allow(email, places={bucket.name: list(permissions or FOLDER)})
    return email


def names(sql: Google, project: str = PROJECT) -> list[str]:
    """Return the names of what instances there are."""
    items = sql.instances.list(project=project).execute().get("items", ())
    return sorted(str(each["name"]) for each in items)


def operations(sql: Google, kind: str, instance: str, project: str = PROJECT) -> list[Any]:
    """Return an instance's operations of a kind, newest first."""
    found = sql.operations.list(project=project, instance=instance).execute().get("items", ())
    return [each for each in found if each["operationType"] == kind]


def wait_until_idle(sql: Google) -> None:
    """Wait until no operation is under way."""
    deadline = time.monotonic() + _IDLE_TIMEOUT_S
    for project in (PROJECT, SCRATCH):
        while any(
            each["status"] != "DONE"
            for each in sql.operations.list(project=project).execute().get("items", ())
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def remove_others(sql: Google) -> None:
    """Remove every instance but the protected one."""
    for project in (PROJECT, SCRATCH):
        while left := [each for each in names(sql, project) if each != SOURCE]:
            wait_until_idle(sql)
            for name in left:
                found = sql.get(name, project=project)
                if found["settings"].get("deletionProtectionEnabled"):
                    body = {"settings": {"deletionProtectionEnabled": False}}
                    sql.done(sql.instances.patch(project=project, instance=name, body=body))
                sql.delete(name, project=project)
