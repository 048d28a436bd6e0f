"""Archived WAL and the bases that a recovery begins with: what can be recovered, and up to when."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from dagster_resil.localcloud.sql.clusters import ADMIN, Clusters
from dagster_resil.localcloud.sql.store import Base, Instance, Store

_SEGMENT = re.compile(r"[0-9A-F]{24}")
_COMMIT = re.compile(r"desc: COMMIT(?: PREPARED)? .*?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,6}) UTC")
_MARK_TIMEOUT_S = 15
_STEP_S = 0.005
_DEFAULT_RETENTION_DAYS = 7


class Archive:
    """The archives of every instance."""

    def __init__(self, store: Store, clusters: Clusters) -> None:
        self._store = store
        self._clusters = clusters

    def take_base(
        self, instance: Instance, folder: str, *, watch: Callable[[], None] | None = None
    ) -> Base:
        """Copy a running cluster as a base."""
        target = self._clusters.backups(instance.uid) / folder
        self._clusters.base_backup(instance, target, packed=True, watch=watch)
        base = Base(
            uid=instance.uid,
            folder=folder,
            archive=instance.archive,
            timeline=self._clusters.timeline(target),
            real=datetime.now(UTC),
        )
        self._store.put_base(base)
        return base

    def forget_earlier(self, instance: Instance) -> None:
        """Remove what belonged to earlier archives of an instance, but for its backups."""
        kept = {backup.folder for backup in self._store.backups(instance.uid)}
        for base in self._store.bases(instance.uid):
            if base.archive == instance.archive:
                continue
            self._store.remove_base(base)
            if base.folder not in kept:
                shutil.rmtree(
                    self._clusters.backups(instance.uid) / base.folder, ignore_errors=True
                )
        for number in range(1, instance.archive):
            shutil.rmtree(
                self._clusters.archive(replace(instance, archive=number)), ignore_errors=True
            )

    def base_for(self, instance: Instance, real: datetime) -> Base | None:
        """Return the base that a recovery to a real time begins with."""
        fitting = [base for base in self._bases(instance) if base.real <= real]
        return fitting[-1] if fitting else None

    def _bases(self, instance: Instance) -> list[Base]:
        return [
            base for base in self._store.bases(instance.uid) if base.archive == instance.archive
        ]

    def mark(self, instance: Instance, *, timeout_s: float = _MARK_TIMEOUT_S) -> bool:
        """Commit something and have everything up to it archived.

        PostgreSQL refuses a recovery target behind the last commit that it finds, so a recovery to
        this moment needs a commit after it.

        :return: whether it is archived; not so when the server is down, or the archiver held back.
        """
        if not self._clusters.alive(instance) or self._clusters.hold_file(instance).exists():
            return False
        with self._clusters.admin(instance, ADMIN) as connection:
            connection.execute("UPDATE public.heartbeat SET at = clock_timestamp()")
            row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        segment = self._clusters.archive(instance) / str(row[0] if row else "")
        deadline = time.monotonic() + timeout_s
        while not segment.exists():
            if time.monotonic() > deadline or not self._clusters.alive(instance):
                return False
            time.sleep(_STEP_S)
        return True

    def can_be_read(self, major: int) -> bool:
        """Return whether pg_waldump of a version is here, which some servers come without."""
        return (self._clusters.programs(major).bin_dir / "pg_waldump").is_file()

    def latest(self, instance: Instance) -> datetime | None:
        """Return the real time of the last commit that is archived, as the WAL itself says it."""
        archive = self._clusters.archive(instance)
        segments = sorted(
            (each for each in archive.iterdir() if _SEGMENT.fullmatch(each.name)),
            key=lambda each: each.name,
            reverse=True,
        )
        for segment in segments:
            found = self._last_commit(segment, instance.major)
            if found is not None:
                return found
        return None

    def _last_commit(self, segment: Path, major: int) -> datetime | None:
        return _last_commit(self._clusters, segment, major)

    def window(self, instance: Instance) -> tuple[datetime, datetime] | None:
        """Return the earliest and the latest time to recover to, as the instance's clock told them.

        :return: None when nothing can be recovered.
        """
        bases = self._bases(instance)
        self.mark(instance)
        latest = self.latest(instance)
        if not bases or latest is None or not instance.has_recovery:
            return None
        clock = self._store.clock(instance.clock)
        configuration = instance.settings["backupConfiguration"]
        days = configuration.get("transactionLogRetentionDays", _DEFAULT_RETENTION_DAYS)
        earliest = max(clock.told(bases[0].real), clock.now() - timedelta(days=days))
        told_latest = clock.told(latest)
        return min(earliest, told_latest), told_latest


@lru_cache(maxsize=4096)
def _last_commit(clusters: Clusters, segment: Path, major: int) -> datetime | None:
    # It exits with 1 where the segment ends before it is full; what it printed counts.
    read = clusters.run(major, "pg_waldump", "--rmgr=Transaction", segment)
    times = _COMMIT.findall(read.stdout)
    return datetime.fromisoformat(f"{times[-1]}+00:00") if times else None
