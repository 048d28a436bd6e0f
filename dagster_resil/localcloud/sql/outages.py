"""What goes wrong with instances for as long as a fault is on: lags, and a whole region gone."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from fnmatch import fnmatchcase

import psycopg

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.faults import Fault, Switch
from dagster_resil.localcloud.protocol import ApiError
from dagster_resil.localcloud.sql.clusters import Clusters, slot_name
from dagster_resil.localcloud.sql.store import Instance, Store

log = logging.getLogger(__name__)


class Outages:
    """Has the instances be as the faults say that are on."""

    def __init__(self, store: Store, clusters: Clusters, switch: Switch) -> None:
        self._store = store
        self._clusters = clusters
        self._switch = switch
        self._lock = threading.Lock()
        self._down: set[str] = set()
        switch.listen(self.apply)

    def gone(self, region: str) -> bool:
        """Return whether a region is gone."""
        return any(
            fault.kind == "region_gone" and fault.location.lower() == region
            for fault in self._switch.armed()
        )

    def check(self, region: str) -> None:
        """Refuse what would happen in a region that is gone.

        :raises ApiError: it is.
        """
        if self.gone(region):
            raise ApiError(503, "backendError", "Backend Error")

    def apply(self) -> None:
        """Have every instance as the faults say."""
        with self._lock:
            self._clusters.each(self.apply_to, self._store.instances())

    def apply_to(self, instance: Instance) -> None:
        """Have an instance as the faults say."""
        if instance.state != "RUNNABLE":
            return
        faults = self._switch.armed()
        try:
            self._apply_region(instance)
            self._hold(instance, hold=_strikes(faults, "archive_lag", instance))
            if instance.primary is not None:
                self._pause(instance, pause=_strikes(faults, "replica_lag", instance))
        except (ResilError, psycopg.Error):
            log.exception("instance %s", instance.name)

    def _apply_region(self, instance: Instance) -> None:
        gone = self.gone(instance.region)
        if gone and self._clusters.alive(instance):
            self._down.add(instance.uid)
            self._clusters.stop(instance, how=signal.SIGQUIT)
        elif not gone and instance.uid in self._down:
            self._down.discard(instance.uid)
            if instance.is_on and not self._clusters.alive(instance):
                self._clusters.start(instance)

    def _hold(self, instance: Instance, *, hold: bool) -> None:
        file = self._clusters.hold_file(instance)
        if hold == file.exists():
            return
        if hold:
            file.touch()
            return
        file.unlink()
        if self._clusters.alive(instance) and instance.primary is None:
            # The archiver sleeps for a minute after a failure, unless a segment is full.
            with self._clusters.admin(instance) as connection:
                connection.execute("SELECT pg_current_xact_id()")
                connection.execute("SELECT pg_switch_wal()")

    def _pause(self, instance: Instance, *, pause: bool) -> None:
        if not self._clusters.alive(instance):
            return
        with self._clusters.admin(instance) as connection:
            row = connection.execute(
                "SELECT pg_is_in_recovery() AND pg_is_wal_replay_paused(), pg_is_in_recovery()"
            ).fetchone()
            if row is None or not row[1] or bool(row[0]) == pause:
                return
            word = "pause" if pause else "resume"
            connection.execute(f"SELECT pg_wal_replay_{word}()")

    def drop_slot(self, replica: Instance) -> None:
        """Have a primary keep no more WAL for a replica that is one no longer."""
        primary = self._store.instance(replica.project, replica.primary or "")
        if primary is None or not self._clusters.alive(primary):
            return
        with contextlib.suppress(psycopg.Error), self._clusters.admin(primary) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid, 2000) FROM pg_replication_slots "
                "WHERE slot_name = %s AND active",
                [slot_name(replica)],
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                "WHERE slot_name = %s",
                [slot_name(replica)],
            )


def _strikes(faults: list[Fault], kind: str, instance: Instance) -> bool:
    return any(
        fault.kind == kind
        and fnmatchcase(instance.name, fault.instance)
        and fnmatchcase(instance.project, fault.project)
        for fault in faults
    )
