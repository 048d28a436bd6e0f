"""A vault's backups as a list shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from dagster_resil.errors import ResilError
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.layout import is_backup_id


@dataclass(frozen=True)
class Entry:
    """A whole backup.

    :param verdict: that of the newest receipt that says PASS or FAIL; INCONCLUSIVE when every
        receipt says so, or when one newer than a PASS can't be read, since it may say FAIL; None
        when there is no receipt that can be read.
    :param verified_at: when that receipt, or the newest that can be read, was written.
    :param receipts: how many there are, readable or not.
    """

    manifest: Manifest
    verdict: Verdict | None
    verified_at: datetime | None
    receipts: int


@dataclass(frozen=True)
class Problem:
    """A manifest or receipt that can't be read.

    A backup whose manifest can't be read is not listed, one with such a receipt is.
    """

    backup_id: str
    error: ResilError

    @property
    def message(self) -> str:
        """Return what is wrong."""
        return self.error.message

    @property
    def hint(self) -> str:
        """Return what to do about it."""
        return self.error.hint


@dataclass(frozen=True)
class Listing:
    """What a vault holds, newest first."""

    backups: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def age(manifest: Manifest) -> tuple[datetime, datetime, str]:
    """Return what sorts backups, the oldest first; all backfills of a partition show one moment."""
    return manifest.snapshot.taken_at, manifest.started_at, manifest.backup_id


def may_be_newer(problem: Problem, manifest: Manifest) -> bool:
    """Return whether a problem is of what may be newer than a backup, as far as ids tell.

    Ids of one second, which all backfills of a partition have, can't be ordered.
    """

    def to_the_second(backup_id: str) -> str:
        return backup_id.rpartition("-")[0] if is_backup_id(backup_id) else backup_id

    return problem.backup_id != manifest.backup_id and (
        to_the_second(problem.backup_id) >= to_the_second(manifest.backup_id)
    )


def passed_over(manifest: Manifest, problems: Iterable[Problem]) -> Iterator[str]:
    """Yield a warning of each that might have been chosen in the place of a backup."""
    for problem in problems:
        if may_be_newer(problem, manifest):
            yield f"chose {manifest.backup_id}, although there is a newer one: {problem.message}"
