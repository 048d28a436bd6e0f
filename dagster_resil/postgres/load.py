"""Loading a backup's files into a database with psql and pg_restore."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.process import Child, Completed

_ERRORS_SHOWN = 20
_GLOBALS_TIMEOUT_S = 600
"""A few statements a role; what takes longer waits for a lock."""

# What a machine lacks, in the words of PostgreSQL: no fault of the backup.
_ENVIRONMENT = re.compile(
    r"No space left on device|Disk quota exceeded|out of memory|out of shared memory"
    r"|could not resize shared memory|server closed the connection unexpectedly"
    r"|terminating connection|the database system is (shutting down|in recovery mode)"
    r"|connection to server .* failed|could not connect"
    r"|extension .* is not available|could not open extension control file"
    r"|could not access file|must be loaded via .?shared_preload_libraries"
    r"|can only be loaded via shared_preload_libraries|could not load library"
    r"|could not create locale|ICU is not supported|unsupported XML feature"
    r"|compression method .* not supported"
    r"|could not open (dictionary|stop-word|thesaurus|affix) file",
    re.IGNORECASE,
)
# A pg_restore of version 17 sets it also on older servers, which do not know it.
_HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'


@dataclass(frozen=True)
class Loaded:
    """How loading ended.

    :param errors: every error, in PostgreSQL's words, the first twenty.
    :param environment: whether each of them is about this machine, not about the backup.
    """

    errors: tuple[str, ...]
    environment: bool

    @property
    def clean(self) -> bool:
        """Return whether there was no error at all."""
        return not self.errors


def _judge(done: Completed) -> Loaded:
    pieces = re.split(r"^(?=pg_restore: |psql:|psql: )", done.stderr, flags=re.MULTILINE)
    errors = [
        piece.strip()
        for piece in pieces
        if re.match(r"(pg_restore|psql)[^\n]*?(error|ERROR|FATAL|fatal|PANIC)\b", piece)
        and _HARMLESS not in piece
    ]
    harmless = _HARMLESS in done.stderr and not errors
    if not done.ok and not errors and not harmless:
        errors = [done.complaint]
    return Loaded(
        tuple(errors[:_ERRORS_SHOWN]),
        bool(errors) and all(_ENVIRONMENT.search(error) for error in errors),
    )


def apply_globals(
    programs: Programs,
    target: Endpoint,
    file: Path,
    *,
    part: str,
    timeout_s: float = _GLOBALS_TIMEOUT_S,
) -> Loaded:
    """Run one half of a ``globals.sql``: "roles" before the data, "settings" after it."""
    other = "settings" if part == "roles" else "roles"
    with Child(
        [
            *dies_with_us("TERM"),
            programs.path("psql"),
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            f"--set={other}=off",
            "--set=ON_ERROR_STOP=1",
            f"--file={file}",
            "--output=/dev/null",
            *target.child_arguments(),
        ],
        env=target.child_environment(),
        name="psql",
    ) as child:
        return _judge(child.wait(timeout_s=timeout_s))


def load_archive(
    programs: Programs,
    target: Endpoint,
    archive: Path,
    *,
    jobs: int,
    options: tuple[str, ...] = (),
    timeout_s: float | None = None,
    watch: Callable[[], None] | None = None,
) -> Loaded:
    """Restore a directory archive with pg_restore, all of it, and gather every error.

    :raises ProcessTimeout: it took longer than ``timeout_s``.
    """
    with Child(
        [
            *dies_with_us("TERM"),
            programs.path("pg_restore"),
            "--no-password",
            "--no-tablespaces",
            f"--jobs={jobs}",
            *options,
            *target.child_arguments(),
            archive,
        ],
        env=target.child_environment(),
        name="pg_restore",
    ) as child:
        return _judge(child.wait(timeout_s=timeout_s, watch=watch))
