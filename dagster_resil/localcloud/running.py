"""Running the local cloud beside another program: the demo, ``make dev``, tests, benchmarks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from google.api_core.client_options import ClientOptions
from google.cloud import storage
from google.oauth2 import service_account

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.environment import environment_file, environment_of
from dagster_resil.localcloud.identities import PROJECT
from dagster_resil.process import Child

_START_TIMEOUT_S = 60
_TIMEOUT_S = 30
_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
_PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
REGIONS = ("europe-west1", "us-east1")


@dataclass(frozen=True)
class LocalCloud:
    """A local cloud that runs.

    :param keys: the folder of its accounts' key files.
    """

    url: str
    pid: int
    keys: Path

    def environment(self, account: str = "backup") -> dict[str, str]:
        """Return the variables that lead Google's libraries here, signed in as an account."""
        return environment_of(self.url, self.keys, account)

    def environment_file(self, account: str = "backup") -> Path:
        """Return the file of those variables, for a shell to source."""
        return environment_file(self.keys, account)

    def client(self, account: str) -> storage.Client:
        """Return a client of Google's library that is signed in as an account."""
        credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
            str(self.keys / f"{account}.json"), scopes=[_SCOPE]
        )
        return storage.Client(
            project=PROJECT,
            credentials=credentials,
            client_options=ClientOptions(api_endpoint=self.url),
        )

    def sql_client(self, account: str) -> Any:
        """Return a client of Google's library for Cloud SQL's Admin API, signed in as an account.

        It is as one of Google's own would be but for its address; close it when it has done.
        """
        # Loaded only now: vaults do without it.
        from googleapiclient.discovery import build

        credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
            str(self.keys / f"{account}.json"), scopes=[_PLATFORM_SCOPE]
        )
        return build(
            "sqladmin",
            "v1",
            static_discovery=True,
            cache_discovery=False,
            credentials=credentials,
            client_options={"api_endpoint": self.url},
        )

    def allow(self, account: str, permissions: Mapping[str, Sequence[str]]) -> str:
        """Give an account permissions, and no others; return its address.

        :param account: a name, of a new one too, or an instance's service account's address.
        :param permissions: place → patterns of permissions: a bucket's name, ``projects/P``,
            ``projects/P/instances/I``, or ``*``.
        """
        body: dict[str, Any] = {"name": account, "permissions": permissions}
        answer = requests.post(f"{self.url}/localcloud/accounts", json=body, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json()["email"])

    def set_clock(self, instance: str, now: datetime, *, project: str = PROJECT) -> None:
        """Tell an instance what time it is, also one that is not made yet; never back."""
        body = {"project": project, "instance": instance, "now": now.isoformat()}
        answer = requests.post(f"{self.url}/localcloud/clock", json=body, timeout=_TIMEOUT_S)
        answer.raise_for_status()


@contextmanager
def run_local_cloud(
    folder: Path,
    *,
    buckets: Sequence[str] = (),
    durable: bool = True,
    before: Sequence[str] = (),
) -> Iterator[LocalCloud]:
    """Run a local cloud as a process of its own; it ends with the ``with``, or with us.

    :param buckets: ``NAME=LOCATION`` of what is to be there.
    :param before: words before the command, for example ``taskset``.
    :raises ResilError: it did not start; its words are in the message.
    """
    command = [*before, sys.executable, "-m", "dagster_resil.localcloud"]
    command += ["--folder", str(folder), "--with-parent"]
    command += [f"--bucket={each}" for each in buckets]
    if not durable:
        command.append("--no-sync")
    with Child(command, name="localcloud") as child:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "\n" not in (said := child.output()):
            if child.poll() is not None or time.monotonic() > deadline:
                raise ResilError(
                    f"the local cloud did not start: {child.errors().strip()[-1500:]}",
                    hint="the words above are its own",
                )
            time.sleep(0.02)
        document = json.loads(said.splitlines()[0])
        yield LocalCloud(document["url"], document["pid"], Path(document["keys"]))
