"""Running pg_dump under a held snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dagster_resil.backup.snapshot import HeldSnapshot
from dagster_resil.errors import BackupFailed, PermissionMissing, ProgramMissing
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.process import Child, Completed


@dataclass(frozen=True)
class Dumper:
    """pg_dump of the right version, for one snapshot."""

    programs: Programs
    snapshot: HeldSnapshot
    lock_timeout_s: float

    def start_archive(self, folder: Path, *, jobs: int, compress_level: int) -> Child:
        """Start dumping the whole database into a directory archive."""
        return self._start(
            "--format=directory",
            f"--jobs={jobs}",
            f"--compress={compress_level}",
            f"--file={folder}",
        )

    def start_schema(self, file: Path) -> Child:
        """Start dumping the schema alone, as text to compare with."""
        return self._start(*SCHEMA_OPTIONS, f"--file={file}")

    def _start(self, *options: str) -> Child:
        endpoint = self.snapshot.endpoint
        # A setting of the role or database must not change how things print: the zone of times
        # in defaults, the encoding (the database's own, so that nothing is converted).
        env = endpoint.child_environment() | {
            "PGTZ": "UTC",
            "PGCLIENTENCODING": self.snapshot.encoding,
        }
        return Child(
            [
                *dies_with_us("TERM"),
                self.programs.path("pg_dump"),
                "--no-password",
                f"--snapshot={self.snapshot.id}",
                f"--lock-wait-timeout={int(self.lock_timeout_s * 1000)}",
                *options,
                *endpoint.child_arguments(),
            ],
            env=env,
            name="pg_dump",
        )


SCHEMA_OPTIONS = ("--schema-only", "--no-tablespaces")
"""How both sides of a comparison of schemas are written. A scratch server has no tablespaces."""


def judge(done: Completed, database: str) -> None:
    """Raise what pg_dump's ending means when it is not a good one."""
    if done.ok:
        return
    text = done.complaint
    lower = text.lower()
    if "server version mismatch" in lower:
        raise ProgramMissing(
            f"pg_dump is too old for {database}: {text}",
            hint="install the client programs of the server's version or later",
        )
    if "permission denied" in lower or "must be owner" in lower:
        raise PermissionMissing(
            f"pg_dump may not read something in {database}: {text}",
            hint="grant it to the login that takes backups (pg_read_all_data, from version 14)",
        )
    if "row-level security" in lower:
        raise PermissionMissing(
            f"row-level security would filter the dump of {database}: {text}",
            hint="ALTER ROLE … BYPASSRLS for the login that takes backups",
        )
    if "no space left" in lower or "disk quota exceeded" in lower:
        raise BackupFailed(
            f"the disk is full while dumping {database}: {text}",
            hint="free some, or name a roomier folder in RESIL_WORK_DIR",
        )
    raise BackupFailed(
        f"pg_dump of {database} failed: {text}",
        hint="the words above are pg_dump's and the server's; the server's log may say more",
    )
