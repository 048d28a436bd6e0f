"""The local cloud in tests: signing in, buckets of one's own, faults."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from google.cloud import storage

from dagster_resil.localcloud.running import LocalCloud, run_local_cloud
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.gcs_client import GcsSettings

QUICK = GcsSettings(retry_s=2, timeout_s=10)
"""Settings of a vault that gives up soon."""


@dataclass
class Cloud:
    """A local cloud that runs."""

    running: LocalCloud
    folder: Path
    _clients: dict[str, storage.Client] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.running.url

    def client(self, account: str = "owner") -> storage.Client:
        """Return a client of Google's library, signed in as an account."""
        if account not in self._clients:
            self._clients[account] = self.running.client(account)
        return self._clients[account]

    def bucket(
        self, location: str = "europe-west1", *, object_retention: bool = False, **settings: Any
    ) -> storage.Bucket:
        """Make a bucket of the test's own."""
        client = self.client()
        bucket = client.bucket(f"b-{secrets.token_hex(6)}")
        bucket.create(location=location, enable_object_retention=object_retention)
        if settings:
            # The library's properties do not cover all; what it sends is the resource.
            client._patch_resource(f"/b/{bucket.name}", settings)
            bucket.reload()
        return bucket

    def vault(
        self,
        bucket: storage.Bucket | str | None = None,
        prefix: str = "some/prefix",
        *,
        account: str = "backup",
        settings: GcsSettings = QUICK,
    ) -> GcsVault:
        """Return a vault, in a bucket of its own unless one is given."""
        if bucket is None:
            bucket = self.bucket()
        name = bucket if isinstance(bucket, str) else bucket.name
        return GcsVault(name, prefix, settings=settings, client=lambda: self.client(account))

    # -- the switch

    def fault(self, kind: str, **options: Any) -> None:
        """Turn a fault on."""
        answer = requests.post(
            f"{self.url}/localcloud/faults", json={"kind": kind, **options}, timeout=10
        )
        assert answer.status_code == 200, answer.text

    def struck(self) -> list[int]:
        """Return how often each fault has struck."""
        answer = requests.get(f"{self.url}/localcloud/faults", timeout=10)
        return [fault["struck"] for fault in answer.json()["faults"]]

    def mend(self) -> None:
        """Turn every fault off."""
        requests.delete(f"{self.url}/localcloud/faults", timeout=10)

    @contextmanager
    def failing(self, kind: str, **options: Any) -> Iterator[None]:
        """Have a fault on in a ``with``, and see that it struck."""
        self.mend()
        self.fault(kind, **options)
        try:
            yield
            assert self.struck() != [0], "the fault met no request"
        finally:
            self.mend()

    def requests(self) -> dict[str, Any]:
        """Return what was asked since the last :meth:`forget`."""
        document: dict[str, Any] = requests.get(
            f"{self.url}/localcloud/requests", timeout=10
        ).json()
        return document

    def forget(self) -> None:
        """Begin to count requests anew."""
        requests.delete(f"{self.url}/localcloud/requests", timeout=10)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = requests.get(f"{self.url}/localcloud/status", timeout=10).json()
        return document

    def data_file(self, bucket: str, name: str) -> Path:
        """Return the file that holds a live object's bytes: what a failing disk would damage."""
        import sqlite3

        with sqlite3.connect(self.folder / "storage" / "index.sqlite") as index:
            row = index.execute(
                "SELECT file FROM versions WHERE bucket = ? AND name = ? AND state = 'live'",
                (bucket, name),
            ).fetchone()
        index.close()
        file = str(row[0])
        return self.folder / "storage" / "data" / file[:2] / file

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
            client._credentials = None
        self._clients.clear()


@contextmanager
def running_cloud(folder: Path, *, durable: bool = False) -> Iterator[Cloud]:
    """Run a local cloud in a folder."""
    with run_local_cloud(folder, durable=durable) as running:
        cloud = Cloud(running, folder)
        try:
            yield cloud
        finally:
            cloud.close()


__all__ = ["QUICK", "Cloud", "running_cloud"]
