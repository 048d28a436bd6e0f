"""What a backup is read from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dagster_resil.backup.data import Method, SnapshotData
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.manifest import Recovered


@dataclass(frozen=True)
class Origin:
    """The database that a backup is read from, and how.

    :param method: what reads the data.
    :param recovered: the past moment that it shows, where it was recovered to it.
    :param instance: the instance that it is, or is a clone of: ``project:region:name``.
    :param cloned: whether it is a physical copy of the database that is to be backed up.
    """

    endpoint: Endpoint
    method: Method = SnapshotData
    recovered: Recovered | None = None
    instance: str | None = None
    cloned: bool = False

    def moment(self, taken_at: datetime) -> datetime:
        """Return the time of what is backed up: a past moment's, where it was recovered.

        :param taken_at: the snapshot's time.
        """
        return self.recovered.moment if self.recovered else taken_at
