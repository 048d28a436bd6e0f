"""Cloud Storage's JSON API, version 1."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dagster_resil.localcloud.identities import Identities
from dagster_resil.localcloud.protocol import Route
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.buckets import Buckets
from dagster_resil.localcloud.storage.copies import Copies
from dagster_resil.localcloud.storage.objects import Objects
from dagster_resil.localcloud.storage.policies import Policies
from dagster_resil.localcloud.storage.store import Store
from dagster_resil.localcloud.storage.uploads import Uploads


class StorageService:
    """Buckets and objects in a folder."""

    def __init__(self, folder: Path, identities: Identities, *, durable: bool) -> None:
        self._store = Store(folder, durable=durable)
        self._access = Access(self._store, identities)
        self._buckets = Buckets(self._store, self._access)
        objects = Objects(self._store, self._access)
        self._parts = (
            self._buckets,
            objects,
            Uploads(self._store, self._access, objects),
            Copies(self._store, self._access, objects),
            Policies(self._store, self._access),
        )

    def routes(self) -> list[Route]:
        """Return the methods of the API."""
        return [route for part in self._parts for route in part.routes()]

    def close(self) -> None:
        """Close what is on disk."""
        self._store.close()

    def denying(self, permission: str | None) -> AbstractContextManager[None]:
        """Deny a permission to whoever asks in this thread."""
        return self._access.denying(permission)

    def location(self, bucket: str) -> str | None:
        """Return where a bucket is, if it is there."""
        found = self._store.bucket(bucket) if bucket else None
        return found.location if found else None

    def ensure_bucket(self, name: str, location: str, **settings: Any) -> None:
        """Make a bucket unless it is there."""
        if self._store.bucket(name) is None:
            self._buckets.create(name, {"location": location, **settings}, object_retention=True)
