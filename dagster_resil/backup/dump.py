"""Running pg_dump under a held snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from dagster_resil.backup.snapshot import LOCK_HINT, HeldSnapshot
from dagster_resil.errors import BackupFailed, LockTimeout, PermissionMissing, ProgramMissing
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.postgres.table_of_contents import codec
from dagster_resil.postgres.tables import Relation
from dagster_resil.process import Child, Completed

_PATTERN_CHARACTERS = 8_000


@dataclass(frozen=True)
class Dumper:
    """pg_dump of the right version, for one snapshot."""

    programs: Programs
    snapshot: HeldSnapshot
    lock_timeout_s: float

    def start_archive(self, *, compress_level: int, without: Sequence[Relation] = ()) -> Child:
        """Start dumping the database into a pipe, in the custom format.

        :param without: the tables whose rows are read by others.
        """
        return self._start(
            "--format=custom",
            f"--compress={compress_level}",
            *(
                b"--exclude-table-data="
                + pattern.encode(codec(self.snapshot.encoding), "surrogateescape")
                for pattern in _patterns(without)
            ),
            pipes=True,
        )

    def start_schema(self, file: Path, *, as_of_now: bool = False) -> Child:
        """Start dumping the schema alone, as text to compare with.

        :param as_of_now: not as of the snapshot.
        """
        return self._start(*SCHEMA_OPTIONS, f"--file={file}", as_of_now=as_of_now)

    def _start(self, *options: str | bytes, pipes: bool = False, as_of_now: bool = False) -> Child:
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
                "--no-sync",  # what lasts is what the vault has
                *([] if as_of_now else [f"--snapshot={self.snapshot.id}"]),
                f"--lock-wait-timeout={int(self.lock_timeout_s * 1000)}",
                *options,
                *endpoint.child_arguments(),
            ],
            env=env,
            name="pg_dump",
            pipes=pipes,
        )


def _patterns(tables: Sequence[Relation]) -> Iterator[str]:
    """Yield patterns of pg_dump for some tables and no others.

    Each table is named: ``*.*`` would leave out sequences' values too. What is between double
    quotes is literal; bar and parentheses outside of them are a regular expression's. Several
    names go into one pattern, because an argument list has a limit, and each pattern is a query.
    """
    for schema, group in groupby(sorted(tables, key=_by_name), key=lambda table: table.schema):
        names: list[str] = []
        for table in group:
            names.append(_quoted(table.name))
            if sum(map(len, names)) > _PATTERN_CHARACTERS:
                yield f"{_quoted(schema)}.({'|'.join(names)})"
                names = []
        if names:
            yield f"{_quoted(schema)}.({'|'.join(names)})"


def _by_name(table: Relation) -> tuple[str, str]:
    return table.schema, table.name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


SCHEMA_OPTIONS = ("--schema-only", "--no-tablespaces")
"""How both sides of a comparison of schemas are written. A scratch server has no tablespaces."""


def judge(done: Completed, database: str) -> None:
    """Raise what pg_dump's ending means when it is not a good one."""
    if not done.ok:
        raise source_error("pg_dump", done.complaint, database)


def source_error(program: str, text: str, database: str) -> BackupFailed:
    """Return the error that a program's words about the source mean."""
    lower = text.lower()
    if "server version mismatch" in lower:
        return ProgramMissing(
            f"{program} is too old for {database}: {text}",
            hint="install the client programs of the server's version or later",
        )
    if "permission denied" in lower or "must be owner" in lower:
        return PermissionMissing(
            f"{program} may not read something in {database}: {text}",
            hint="grant it to the login that takes backups (pg_read_all_data, from version 14)",
        )
    if "row-level security" in lower:
        return PermissionMissing(
            f"row-level security would filter the dump of {database}: {text}",
            hint="ALTER ROLE … BYPASSRLS for the login that takes backups",
        )
    if "conflict with recovery" in lower:
        return BackupFailed(
            f"the replica {database} ended a query that its recovery had to wait for: {text}",
            hint=CONFLICT_HINT,
        )
    if "could not obtain lock" in lower:
        return LockTimeout(
            f"{program} could not lock a table of {database}: {text}", hint=LOCK_HINT
        )
    if program == "pg_dump" and "statement timeout" in lower and "lock table" in lower:
        # --lock-wait-timeout is a statement timeout while it locks, and none afterwards.
        return LockTimeout(
            f"pg_dump waited for too long to lock a table of {database}: {text}", hint=LOCK_HINT
        )
    if program == "pg_dump" and ("no space left" in lower or "disk quota exceeded" in lower):
        return BackupFailed(
            f"the disk is full while dumping {database}: {text}",
            hint="free some, or name a roomier folder in RESIL_WORK_DIR",
        )
    return BackupFailed(
        f"{program} of {database} failed: {text}",
        hint=f"the words above are {program}'s and the server's; the server's log may say more",
    )


CONFLICT_HINT = (
    "set hot_standby_feedback = on there, or a longer max_standby_streaming_delay; or back up the "
    "primary"
)
