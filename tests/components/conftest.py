"""What the tests of the Dagster face share: a project with one protected database."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_resil.components import ProtectedDatabase
from dagster_resil.components.partitions import open_key
from dagster_resil.components.protected_database import Connection, VaultPlace
from dagster_resil.demo.damage import LocalBackup
from dagster_resil.demo.laptop import url_of
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.scratch import sweep
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from tests.conftest import Source

ASSET = dg.AssetKey(["app", "backup"])


@dataclass
class Project:
    """A Dagster project with one protected database."""

    defs: dg.Definitions
    instance: dg.DagsterInstance
    vault: Path
    source: Source
    endpoint: Endpoint

    def job(self, name: str) -> dg.JobDefinition:
        return self.defs.resolve_job_def(name)

    @property
    def partitions(self) -> dg.TimeWindowPartitionsDefinition:
        partitions = self.job("app_backup").partitions_def
        assert isinstance(partitions, dg.TimeWindowPartitionsDefinition)
        return partitions

    def run(self, name: str, **kwargs: Any) -> dg.ExecuteInProcessResult:
        return self.job(name).execute_in_process(
            instance=self.instance, raise_on_error=False, **kwargs
        )

    def materialize(self) -> dg.ExecuteInProcessResult:
        return self.run("app_backup", partition_key=self.open)

    @property
    def open(self) -> str:
        return open_key(self.partitions)

    def evaluations(self, check: str) -> list[tuple[bool, str, str | None]]:
        """Return (passed, severity, partition), newest first."""
        found = []
        for record in self.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(ASSET, check), limit=20
        ):
            assert record.event is not None
            assert record.event.dagster_event is not None
            data = record.event.dagster_event.asset_check_evaluation_data
            found.append((data.passed, data.severity.value, data.partition))
        return found

    def backups(self) -> Backups:
        return Backups(open_vault(self.vault.as_uri()))

    def newest(self) -> LocalBackup:
        return LocalBackup(self.vault, self.backups().latest("app"))


def failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.event_type is dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data.user_failure_data
            return (data.description if data else None) or event.message or ""
    raise AssertionError("no step failed")


def component(**more: Any) -> ProtectedDatabase:
    return ProtectedDatabase(
        **{
            "name": "app",
            "connection": Connection(url_env="APP_URL"),
            "vault": VaultPlace(url_env="APP_VAULT"),
            **more,
        }
    )


@pytest.fixture
def project(
    one_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 500) n",
    )
    monkeypatch.setenv("APP_URL", url_of(endpoint))
    monkeypatch.setenv("APP_VAULT", (tmp_path / "vault").as_uri())
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Project(
            component().build_defs(None),  # type: ignore[arg-type]
            instance,
            tmp_path / "vault",
            one_source,
            endpoint,
        )


class Webhook:
    """A local place that alerts are sent to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.received.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/a-token-in-the-path"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.received]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    hook = Webhook()
    monkeypatch.setenv("RESIL_ALERT_URLS", hook.url)
    yield hook
    hook.close()


def restored(result: dg.ExecuteInProcessResult) -> str:
    """Return the id of what a run has restored into a scratch server, which is removed."""
    assert result.success, failure(result)
    [output] = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata = output.step_output_data.metadata
    place = str(metadata["address"].value).split("passfile=")[1].strip("\"'")
    Path(place).with_name("keep_until").write_text("0")
    sweep()
    return str(metadata["backup_id"].value)
