"""Running the local cloud beside another program: the demo, ``make dev``, tests, benchmarks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.api_core.client_options import ClientOptions
from google.cloud import storage
from google.oauth2 import service_account

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.identities import PROJECT
from dagster_resil.process import Child
from dagster_resil.vault.gcs_client import LOCALCLOUD_VARIABLE

_START_TIMEOUT_S = 60
_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
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
        """Return the variables that lead Google's libraries here, signed in as an account.

        Not STORAGE_EMULATOR_HOST, with which they would sign in as nobody.
        """
        return {
            LOCALCLOUD_VARIABLE: self.url,
            "API_ENDPOINT_OVERRIDE": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.keys / f"{account}.json"),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            # Nothing on a laptop answers for Google's own machines.
            "NO_GCE_CHECK": "true",
        }

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
                    hint="the words above are its own; make clean begins anew",
                )
            time.sleep(0.02)
        document = json.loads(said.splitlines()[0])
        yield LocalCloud(document["url"], document["pid"], Path(document["keys"]))
