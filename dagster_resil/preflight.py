"""Looking, before anything is needed, whether all that backups and proofs need is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster_resil.backup.permissions import as_reader, check_permissions
from dagster_resil.errors import NoSpace, NoVault, ResilError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.identity import database_bytes, read_identity
from dagster_resil.postgres.programs import client_for, find_all, server_for
from dagster_resil.postgres.scratch import scratch_bytes, scratch_server
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import list_tables
from dagster_resil.records.manifest import Source
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.schemes import preflight as preflight_vault
from dagster_resil.workspace import work_root

Purpose = Literal["backup", "restore"]
"""Taking and proving backups, or restoring them alone."""
_SMALL_WORK_DIR_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    :param exit_code: 0 when it is well, otherwise what a command that needs it would exit with.
    """

    what: str
    exit_code: int = 0
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Return whether it is well."""
        return self.exit_code == 0

    def to_json(self) -> dict[str, str | bool]:
        """Return it as JSON's own types."""
        return {"what": self.what, "ok": self.ok, "hint": self.hint}


def _wrong(error: ResilError) -> Finding:
    return Finding(error.message, error.exit_code, error.hint)


def preflight(
    endpoint: Endpoint | None, vault: str | None, work_dir: Path | None, purpose: Purpose = "backup"
) -> list[Finding]:
    """Look at this machine, and at a database and a vault where they are named.

    :param purpose: what they are looked at for; a restore's database is its target.
    """
    findings = list(_machine(work_dir))
    if endpoint is not None:
        findings += _database(endpoint, work_dir, purpose)
    else:
        findings += _scratch(None, work_dir)
    if vault is not None:
        findings += _vault(vault, purpose)
    return findings


def _machine(work_dir: Path | None) -> Iterator[Finding]:
    try:
        installed = find_all()
    except ResilError as error:
        yield _wrong(error)
        return
    for programs in installed:
        kind = "server and client" if programs.has_server else "client"
        if programs.client_dir is not None:
            kind = "server"
        bundled = ", bundled" if programs.bundled else ""
        yield Finding(
            f"PostgreSQL {programs.version} {kind} programs in {programs.bin_dir}{bundled}"
        )
    if not installed:
        yield Finding(
            "no PostgreSQL programs on this machine",
            4,
            "install them (Debian: apt install postgresql)",
        )
    try:
        root = work_root(work_dir)
    except ResilError as error:
        yield _wrong(error)
        return
    free_bytes = shutil.disk_usage(root).free
    yield Finding(
        f"{free_bytes / 1e6:,.0f} MB free for archives and scratch servers in {root}",
        0,
        "" if free_bytes > _SMALL_WORK_DIR_BYTES else "name a roomier folder in RESIL_WORK_DIR",
    )


def _scratch(source: Source | None, work_dir: Path | None) -> Iterator[Finding]:
    """Start a scratch server for real: that is what a proof will do."""
    try:
        if source is None:
            servers = [programs for programs in find_all() if programs.has_server]
            if not servers:
                return
            programs = servers[0]
        else:
            programs = server_for(source.major)
        with scratch_server(programs, work_dir=work_dir) as scratch:
            if source is not None:
                scratch.create_database(
                    source.database, encoding=source.encoding, collation=source.collation
                )
            notes = "; ".join(scratch.isolation)
            open_notes = [note for note in scratch.isolation if note.startswith("not shut off")]
            yield Finding(
                f"a scratch server of version {scratch.version} starts: {notes}",
                0,
                "a restored function could reach what is not shut off" if open_notes else "",
            )
    except ResilError as error:
        yield _wrong(error)


def _database(endpoint: Endpoint, work_dir: Path | None, purpose: Purpose) -> Iterator[Finding]:
    try:
        if purpose == "backup":
            endpoint = as_reader(endpoint).endpoint
        with endpoint.connect(autocommit=True) as connection:
            prepare_session(connection, gentle=True)
            source = read_identity(connection)
            size_bytes = database_bytes(connection)
            yield Finding(
                f"{endpoint.describe()} answers: PostgreSQL {source.server_version}, database "
                f"{source.database}, {size_bytes / 1e6:,.1f} MB"
            )
            if purpose == "backup":
                tables = list_tables(connection)
                check_permissions(connection, tables)
                yield Finding(f"user {connection.info.user} may read all {len(tables):,} tables")
        programs = client_for(source.major)
        can = "pg_dump {} can read it" if purpose == "backup" else "pg_restore {} can fill it"
        yield Finding(can.format(programs.version))
        need_bytes = 2 * scratch_bytes(size_bytes)
        free_bytes = shutil.disk_usage(work_root(work_dir)).free
        if free_bytes < need_bytes:
            raise NoSpace(
                f"a proof needs up to {need_bytes / 1e6:,.0f} MB, {free_bytes / 1e6:,.0f} MB are "
                "free",
                hint="free some, or name a roomier folder in RESIL_WORK_DIR",
            )
    except ResilError as error:
        yield _wrong(error)
        return
    yield from _scratch(source, work_dir)


def _vault(url: str, purpose: Purpose) -> Iterator[Finding]:
    try:
        vault = open_vault(url)
        for found in preflight_vault(url, writes=purpose == "backup"):
            yield Finding(found.what, 0 if found.ok else 4, found.hint)
        if purpose == "backup":
            vault.check_writable()
            yield Finding(f"vault {vault.url} can be written")
        try:
            listing = Backups(vault).entries()
        except NoVault as error:
            yield Finding(f"{error.message} yet", 0, error.hint)
            return
        count = len(listing.backups)
        yield Finding(f"vault {vault.url} holds {count:,} backup{'' if count == 1 else 's'}")
        for problem in listing.problems:
            yield Finding(problem.message, 4, problem.hint)
        unfinished = [each for name in vault.folders() for each in Backups(vault).unfinished(name)]
        if unfinished:
            yield Finding(
                f"vault {vault.url} holds objects of backups without a manifest "
                f"({len(unfinished):,}), which are running or were killed",
                0,
                "a backup of the same database removes what is older than two days"
                if vault.may_discard()
                else "this account can't delete: retention removes what is left",
            )
    except ResilError as error:
        yield _wrong(error)
