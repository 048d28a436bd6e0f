"""Restoring a fetched backup into a scratch server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import ValidationError

from dagster_resil.errors import (
    NoServer,
    ResilError,
)
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.inventory import (
    available_extensions,
)
from dagster_resil.postgres.load import Loaded, LoadSettings, apply_globals, load_archive
from dagster_resil.postgres.programs import Programs, client_for
from dagster_resil.postgres.scratch import (
    ScratchServer,
)
from dagster_resil.progress import Progress
from dagster_resil.records.expected import Expected
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Check
from dagster_resil.records.verdict import Verdict
from dagster_resil.verify.fetching import Archive


class CannotRead(Exception):
    """The backup's own expectations can't be read, though every checksum fits."""


def read_expected(manifest: Manifest, folder: Path) -> Expected:
    """Read what a restore has to equal from a fetched backup.

    :raises CannotRead: it can't be read.
    """
    name = manifest.expectations.inventory_object
    try:
        return Expected.model_validate_json((folder / name).read_bytes())
    except (OSError, ValidationError) as error:
        raise CannotRead(f"object {name} can't be read: {type(error).__name__}") from error


def archive_programs(manifest: Manifest, server: Programs) -> Programs:
    """Return the programs whose pg_restore reads the archive.

    :raises NoServer: there are none.
    """
    # An export's archive is of a program of its own.
    dumper = manifest.tools.get("archive", manifest.tools["pg_dump"])
    dumped_by = int(dumper.split(".")[0])
    if dumped_by <= server.major:
        return server
    try:
        return client_for(dumped_by)
    except ResilError as error:
        raise NoServer(error.message, hint=error.hint) from error


def need_extensions(scratch: ScratchServer, expected: Expected) -> None:
    """Look whether a scratch server can create the extensions of the source.

    :raises NoServer: it lacks one, or its version.
    """
    with scratch.endpoint("template1").connect(autocommit=True) as connection:
        available = available_extensions(connection)
    missing = []
    for name, version in sorted(expected.inventory.extensions().items()):
        if name not in available:
            missing.append(f"{name} {version}")
        elif version not in available[name].versions:
            missing.append(f"{name} {version} (it has {available[name].default})")
    if missing:
        raise NoServer(
            f"the PostgreSQL {scratch.version} server here lacks the extensions "
            + ", ".join(missing),
            hint="install their packages on this machine (Debian: postgresql-contrib, or "
            "postgresql-MAJOR-NAME), of a release that has these versions",
        )


def keep_extension_versions(archive: Archive, expected: Expected, connection: Connection) -> None:
    """Have extensions restored in the source's versions, as far as the server can create them."""
    available = available_extensions(connection)
    archive.extension_versions = {
        name: version
        for name, version in expected.inventory.extensions().items()
        if name in available
        and version in available[name].versions
        and version != available[name].default
    }


def scratch_database_maker(scratch: ScratchServer, manifest: Manifest) -> Callable[[str], Endpoint]:
    """Return what makes empty databases like the source's in a scratch server."""

    def make(name: str) -> Endpoint:
        return scratch.create_database(
            name, encoding=manifest.source.encoding, collation=manifest.source.collation
        )

    return make


def load_into_scratch(
    scratch: ScratchServer,
    restorer: Programs,
    manifest: Manifest,
    archive: Archive,
    expected: Expected,
    *,
    jobs: int,
    timeout_s: float | None,
    progress: Progress,
    kept: bool = False,
) -> tuple[Endpoint, Loaded]:
    """Make the roles and the database in a scratch server, and restore the archive into it.

    :param kept: whether the server is to be used by others afterwards.
    """
    target = scratch.create_database(
        manifest.source.database,
        encoding=manifest.source.encoding,
        collation=manifest.source.collation,
    )
    target = replace(target, ascii_encoding=manifest.source.client_encoding)
    roles = archive.folder / "globals.sql"
    loaded = apply_globals(target, roles, part="roles")
    if not loaded.clean:
        return target, loaded
    with target.connect(autocommit=True) as connection:
        keep_extension_versions(archive, expected, connection)
    return target, load_archive(
        restorer,
        target,
        archive,
        encoding=manifest.source.encoding,
        settings=LoadSettings(jobs=jobs, unlogged=not kept, timeout_s=timeout_s),
        progress=progress,
    )


def restores_cleanly(
    server_version: str, restore_s: float, loaded: Loaded, *, alive: bool = True
) -> Check:
    """Return ``restores_cleanly``.

    :param alive: whether the server is; what one that is gone has not done says nothing.
    """
    if loaded.clean:
        return Check(
            name="restores_cleanly",
            verdict=Verdict.PASS,
            summary=f"restored into PostgreSQL {server_version} in {restore_s:.1f} s "
            "without an error",
        )
    count = len(loaded.errors)
    first = loaded.errors[0].split("\n", 1)[0]
    return Check(
        name="restores_cleanly",
        verdict=Verdict.INCONCLUSIVE if loaded.environment or not alive else Verdict.FAIL,
        summary=first + (f" (and {count - 1} more errors)" if count > 1 else ""),
        details=loaded.errors,
    )


def unless_an_extension_is_refused(
    check: Check, scratch: ScratchServer, manifest: Manifest, expected: Expected
) -> Check:
    """Make a FAIL of ``restores_cleanly`` INCONCLUSIVE where the machine may be to blame.

    One that a database with nothing in it can't have either (pg_cron, which has to be preloaded
    and then wants a database of its own choice) is missing here, and what follows may be for that.
    """
    empty = scratch_database_maker(scratch, manifest)("resil_extensions")
    with empty.connect() as connection:
        for name, version in sorted(expected.inventory.extensions().items()):
            try:
                connection.execute("SET search_path = public")  # what is made needs a place
                connection.execute(
                    sql.SQL("CREATE EXTENSION IF NOT EXISTS {} VERSION {} CASCADE").format(
                        sql.Identifier(name), sql.Literal(version)
                    )
                )
            except psycopg.Error as error:
                words = str(error).strip().split("\n", 1)[0]
                return check.model_copy(
                    update={
                        "verdict": Verdict.INCONCLUSIVE,
                        "summary": f"the PostgreSQL {scratch.version} server here can't create "
                        f"extension {name} {version}: {words}",
                    }
                )
            connection.rollback()  # the next may be in the way of this one
    return check
