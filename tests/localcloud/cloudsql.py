"""Cloud SQL in tests: Google's own client, signed in to the local cloud."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any

import psycopg
import pytest
import requests
from googleapiclient.errors import HttpError

from dagster_resil.localcloud.sql.discovery import document
from dagster_resil.postgres.connection import Connection
from tests.localcloud.cloud import Cloud

PROJECT = "local"
PASSWORD = "an-ordinary-secret"
RECOVERABLE = {"enabled": True, "pointInTimeRecoveryEnabled": True}
_OPERATION_TIMEOUT_S = 60


class CloudSql:
    """The Admin API, and what tests do with instances."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._apis: dict[str, Any] = {}

    def __enter__(self) -> CloudSql:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for api in self._apis.values():
            api.close()

    def api(self, account: str = "owner") -> Any:
        """Return Google's client, signed in as an account."""
        if account not in self._apis:
            self._apis[account] = self.cloud.running.sql_client(account)
        return self._apis[account]

    @property
    def instances(self) -> Any:
        return self.api().instances()

    @property
    def operations(self) -> Any:
        return self.api().operations()

    # -- operations

    def wait(self, operation: dict[str, Any], *, status: str = "DONE") -> dict[str, Any]:
        """Wait until an operation has a status, by default for its end, and return it."""
        deadline = time.monotonic() + _OPERATION_TIMEOUT_S
        while operation["status"] != status:
            assert operation["status"] != "DONE", operation
            assert time.monotonic() < deadline, operation
            time.sleep(0.01)
            operation = self.operations.get(
                project=operation["targetProject"], operation=operation["name"]
            ).execute()
        fits("Operation", operation)
        return operation

    def done(self, request: Any) -> dict[str, Any]:
        """Send a request, wait for the end of its operation, and see that it went well."""
        operation = self.wait(request.execute())
        assert "error" not in operation, operation
        return operation

    def failed(self, request: Any) -> dict[str, str]:
        """Send a request, and return the error of its operation."""
        operation = self.wait(request.execute())
        errors = operation.get("error", {}).get("errors", [])
        assert errors, operation
        error: dict[str, str] = errors[0]
        return error

    # -- instances

    def body(self, name: str | None = None, **fields: Any) -> dict[str, Any]:
        """Return the body that makes an instance."""
        settings = {"tier": "db-custom-1-3840", **fields.pop("settings", {})}
        return {
            "name": name or f"i-{secrets.token_hex(3)}",
            "region": "europe-west1",
            "databaseVersion": f"POSTGRES_{fields.pop('major', self.major)}",
            "rootPassword": PASSWORD,
            "settings": settings,
            **fields,
        }

    major = 15

    def make(self, name: str | None = None, *, project: str = PROJECT, **fields: Any) -> str:
        """Make an instance; return its name."""
        body = self.body(name, **fields)
        self.done(self.instances.insert(project=project, body=body))
        return str(body["name"])

    def make_recoverable(self, name: str | None = None, **fields: Any) -> str:
        """Make an instance with point-in-time recovery."""
        return self.make(name, settings={"backupConfiguration": RECOVERABLE}, **fields)

    def make_replica(self, primary: str, name: str | None = None, **fields: Any) -> str:
        """Make a replica in the other region."""
        body = self.body(name, **{"region": "us-east1", "masterInstanceName": primary, **fields})
        self.done(self.instances.insert(project=PROJECT, body=body))
        return str(body["name"])

    def get(self, name: str, *, project: str = PROJECT) -> dict[str, Any]:
        """Return an instance."""
        found: dict[str, Any] = self.instances.get(project=project, instance=name).execute()
        fits("DatabaseInstance", found)
        return found

    def patch(self, name: str, **settings: Any) -> dict[str, Any]:
        """Change settings of an instance."""
        return self.done(
            self.instances.patch(project=PROJECT, instance=name, body={"settings": settings})
        )

    def delete(self, name: str, *, project: str = PROJECT) -> dict[str, Any]:
        """Delete an instance."""
        return self.done(self.instances.delete(project=project, instance=name))

    def clone(
        self,
        source: str,
        name: str | None = None,
        *,
        at: datetime | str | None = None,
        project: str | None = None,
    ) -> Any:
        """Return the request that clones an instance."""
        context: dict[str, Any] = {"destinationInstanceName": name or f"c-{secrets.token_hex(3)}"}
        if at is not None:
            text = at if isinstance(at, str) else at.isoformat().replace("+00:00", "Z")
            context["pointInTime"] = text
        if project is not None:
            context["destinationProject"] = project
        return self.instances.clone(
            project=PROJECT, instance=source, body={"cloneContext": context}
        )

    def state(self, name: str, *, project: str = PROJECT) -> dict[str, Any]:
        """Return what the switch tells of an instance: its port, its process, its folder."""
        answer = requests.get(f"{self.cloud.url}/localcloud/instances", timeout=10).json()
        for each in answer["instances"]:
            if (each["project"], each["name"]) == (project, name):
                return dict(each)
        raise AssertionError(f"no instance {name}")

    def remove_all(self) -> None:
        """Remove every instance."""
        answer = requests.delete(f"{self.cloud.url}/localcloud/instances", timeout=60)
        assert answer.status_code == 204, answer.text

    # -- databases

    @contextmanager
    def connect(
        self,
        name: str,
        database: str = "postgres",
        *,
        project: str = PROJECT,
        user: str = "postgres",
        password: str = PASSWORD,
    ) -> Iterator[Connection]:
        """Connect as a client does: by TCP, to where the instance says."""
        host, port = self.get(name, project=project)["dnsName"].split(":")
        with contextlib.closing(
            psycopg.connect(
                host="127.0.0.1" if host == "localhost" else host,
                port=port,
                user=user,
                password=password,
                dbname=database,
                autocommit=True,
                connect_timeout=10,
            )
        ) as connection:
            yield connection

    def execute(self, name: str, *statements: str, database: str = "postgres", **who: str) -> None:
        """Execute statements in an instance's database."""
        with self.connect(name, database, **who) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, name: str, query: str, *, database: str = "postgres", **who: str) -> list[Any]:
        """Return a query's rows."""
        with self.connect(name, database, **who) as connection:
            return connection.execute(query).fetchall()

    # -- the switch

    def tell(self, instance: str, now: str, *, project: str = PROJECT) -> None:
        """Set an instance's clock."""
        answer = requests.post(
            f"{self.cloud.url}/localcloud/clock",
            json={"project": project, "instance": instance, "now": now},
            timeout=10,
        )
        assert answer.status_code == 200, answer.text

    def allow(self, name: str, **permissions: Any) -> str:
        """Give an account permissions, and no others; return its address.

        :param permissions: ``places``: place → list of permissions.
        """
        self._apis.pop(name, None)
        return self.cloud.running.allow(name, permissions["places"])


def fits(schema: str, body: Any) -> None:
    """See that a body is as the discovery document says."""
    assert document().violations(schema, body) == []


def reason(refused: pytest.ExceptionInfo[HttpError]) -> tuple[int, str]:
    """Return a refusal's status and reason, in Google's envelope."""
    error = json.loads(refused.value.content)["error"]
    assert error["code"] == int(refused.value.resp.status)
    assert error["message"]
    assert error["errors"][0]["domain"] == "global"
    return error["code"], error["errors"][0]["reason"]
