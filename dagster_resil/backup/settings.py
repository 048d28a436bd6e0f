"""How a backup is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.fingerprints import FingerprintForm
from dagster_resil.process import DAY_S
from dagster_resil.vault.layout import check_database_name

Comparison = Literal["counts", "contents", "text"]
FORMS: dict[Comparison, FingerprintForm] = {
    "counts": "none",
    "contents": "identity",
    "text": "text",
}

PART_BYTES = 64 << 20
SMALL_TABLE_BYTES = 1 << 20
RECORDED = ("jobs", "lock_timeout_s", "compare", "part_bytes", "compress_level", "grace_s")
"""The settings that shape a backup, which its manifest tells."""


@dataclass(frozen=True)
class BackupSettings:
    """How a backup is taken.

    :param jobs: connections that read, and as many again that count and fingerprint.
    :param lock_timeout_s: how long to wait for the locks of a dump (ACCESS SHARE).
    :param attempts: how often to begin again when the schema changes under the snapshot.
    :param timeout_s: the longest that reading may take; None for no limit.
    :param compare: what a restore has to equal of the rows: their number ("counts"), their
        contents ("contents"), or their contents by the text of every value ("text").
    :param part_bytes: how much of a table, by its size on disk, goes into one object. A part
        for each job is in memory, compressed.
    :param small_table_bytes: tables that are no larger on disk are left to pg_dump, as long as they
        are not too much together: a session of their own would cost more than it gains.
    :param compress_level: gzip's level; 1 costs a third of the time of 6 for a tenth more bytes.
    :param accept_new_source: take another server or database under a name that is known.
    :param grace_s: how long after its partition's end a snapshot still counts as that
        partition's, marked late.
    """

    jobs: int = 2
    lock_timeout_s: float = 60
    attempts: int = 3
    timeout_s: float | None = DAY_S
    compare: Comparison = "contents"
    part_bytes: int = PART_BYTES
    small_table_bytes: int = SMALL_TABLE_BYTES
    compress_level: int = 1
    accept_new_source: bool = False
    grace_s: float = 0
    work_dir: Path | None = None


def check_settings(name: str, settings: BackupSettings) -> None:
    """Refuse what makes no sense.

    :param name: the protected database's name.
    :raises ConfigurationError: a name or a setting can't be.
    """
    check_database_name(name)
    for wrong, allowed in (
        (settings.jobs < 1, "setting jobs: 1 or more"),
        (settings.attempts < 1, "setting attempts: 1 or more"),
        (not 1 <= settings.compress_level <= 9, "setting compress_level: 1 to 9"),
        (settings.part_bytes < 1, "setting part_bytes: 64 MB is a good size"),
    ):
        if wrong:
            raise ConfigurationError("a setting is out of its range", hint=f"correct {allowed}")
