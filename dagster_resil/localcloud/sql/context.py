"""What every group of the Admin API's methods works with."""

from __future__ import annotations

from dataclasses import dataclass

from dagster_resil.localcloud.identities import Identities
from dagster_resil.localcloud.sql.access import Access
from dagster_resil.localcloud.sql.clusters import Clusters
from dagster_resil.localcloud.sql.operation_log import Operations
from dagster_resil.localcloud.sql.outages import Outages
from dagster_resil.localcloud.sql.store import Store
from dagster_resil.localcloud.sql.wal_archive import Archive


@dataclass(frozen=True)
class Context:
    """The parts of one service: its records, permissions, operations, servers and archives."""

    store: Store
    access: Access
    operations: Operations
    clusters: Clusters
    archive: Archive
    identities: Identities
    outages: Outages


class MethodGroup:
    """A group of the API's methods, ``sql.users.…`` for example."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._access = context.access
        self._operations = context.operations
        self._clusters = context.clusters
        self._archive = context.archive
        self._identities = context.identities
        self._outages = context.outages
