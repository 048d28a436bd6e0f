"""Using a backup: into an empty database, or into a scratch server that stays for a while."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster_resil.errors import NoSpace, RestoreFailed, SourceUnreachable, VaultUnreachable
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.load import Loaded, LoadSettings, apply_globals, load_archive
from dagster_resil.postgres.programs import Programs, client_for, server_for
from dagster_resil.postgres.scratch import keep, need_room, scratch_bytes, scratch_server, sweep
from dagster_resil.postgres.session import FOR_RESTORES, differing, without_login_triggers
from dagster_resil.process import DAY_S, ProcessTimeout
from dagster_resil.progress import Progress, silent
from dagster_resil.records.expected import Expected
from dagster_resil.records.inventory import Item
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Check, TableComparison
from dagster_resil.records.verdict import Verdict, worst
from dagster_resil.restore.guard import check_target
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify.checks import Circumstance, judge, kind_of
from dagster_resil.verify.compare import to_records
from dagster_resil.verify.fetching import STREAMED_BYTES, Archive
from dagster_resil.verify.loading import (
    CannotRead,
    archive_programs,
    keep_extension_versions,
    load_into_scratch,
    read_expected,
    restores_cleanly,
    scratch_database_maker,
)
from dagster_resil.verify.restored import RestoredBackup
from dagster_resil.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestoreSettings:
    """How a backup is restored.

    :param roles: create the roles that are missing, without passwords, and apply the database's
        settings and grants.
    :param owners: restore owners and grants; a login that is no superuser may have to do without.
    :param replace: the name of a target database that is not empty, typed again.
    :param streamed_bytes: as in :class:`~dagster_resil.verify.prove.VerifySettings`.
    """

    jobs: int = 2
    roles: bool = True
    owners: bool = True
    replace: str | None = None
    timeout_s: float | None = DAY_S
    work_dir: Path | None = None
    streamed_bytes: int = STREAMED_BYTES


@dataclass(frozen=True)
class RestoreReport:
    """What was restored, and how it compares with the source."""

    backup_id: str
    database: str
    verdict: Verdict
    checks: tuple[Check, ...]
    seconds: dict[str, float]
    rows: int
    bytes: int
    tables: tuple[TableComparison, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        return {
            "backup_id": self.backup_id,
            "database": self.database,
            "verdict": str(self.verdict),
            "checks": [check.to_json() for check in self.checks],
            "seconds": self.seconds,
            "rows": self.rows,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class KeptScratch:
    """A restored database in a scratch server that stays until a set time.

    :param address: libpq's ``key=value`` address; it names a passfile and holds no secret.
    """

    report: RestoreReport
    address: str
    expires_at: datetime

    @property
    def verdict(self) -> Verdict:
        """Return how the restored database compares with the source."""
        return self.report.verdict

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return the checks of the comparison."""
        return self.report.checks

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        return self.report.to_json() | {
            "address": self.address,
            "expires_at": self.expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace(
            f"the disk is full: {error.strerror}",
            hint="free some, or name a roomier folder in RESIL_WORK_DIR",
        ) from error
    except ProcessTimeout as error:
        raise RestoreFailed(
            f"the restore was stopped: {error}",
            hint=f"{_PART_OF_THE_DATA}; then raise setting timeout_s",
        ) from error


def _fetched(
    backups: Backups,
    manifest: Manifest,
    space: Workspace,
    scratch_too: int,
    settings: RestoreSettings,
    progress: Progress,
) -> tuple[Archive, Expected]:
    """Bring what a restore needs at hand, and see that nothing of the backup is missing.

    :param scratch_too: the room that a scratch server needs beside it, in bytes.
    """
    archive = Archive(
        backups, manifest, space.path / "backup", streamed_bytes=settings.streamed_bytes
    )
    need_room(space.path, archive.local_bytes + scratch_too, f"to restore {manifest.backup_id}")
    intact = archive.fetch(jobs=settings.jobs, progress=progress)
    if not intact or settings.replace is not None:
        # What is there is dropped only for a backup of which every byte was looked at.
        check = archive.check(jobs=settings.jobs, progress=progress)
        if check.verdict is not Verdict.PASS:
            raise _not_whole(manifest, check, "nothing was restored")
    try:
        return archive, read_expected(manifest, archive.folder)
    except CannotRead as error:
        raise RestoreFailed(
            f"backup {manifest.backup_id} is damaged: {error}", hint="use another one (resil list)"
        ) from error


def _intact(
    archive: Archive, manifest: Manifest, settings: RestoreSettings, progress: Progress, left: str
) -> Check:
    """Return ``archive_intact`` after the restore.

    :param left: what a restore that failed has left behind, and what to do about it.
    :raises RestoreFailed: it is not.
    :raises VaultUnreachable: nobody can tell.
    """
    check = archive.check(jobs=settings.jobs, progress=progress)
    if check.verdict is not Verdict.PASS:
        raise _not_whole(manifest, check, left)
    return check


_PART_OF_THE_DATA = "the target holds a part of the data: drop it"


def _not_whole(manifest: Manifest, check: Check, left: str) -> RestoreFailed | VaultUnreachable:
    """Return what to raise for ``archive_intact`` that is no PASS."""
    if check.verdict is Verdict.FAIL:
        return RestoreFailed(
            f"backup {manifest.backup_id} is damaged: {check.summary}",
            hint=f"{left}; use another backup (resil list), and inspect this one with resil verify",
        )
    return VaultUnreachable(
        f"backup {manifest.backup_id} can't be read whole: {check.summary}",
        hint=f"{left}; try again when the vault can be reached",
    )


def restore_backup(
    vault: Vault,
    manifest: Manifest,
    target: Endpoint,
    *,
    settings: RestoreSettings | None = None,
    progress: Progress = silent,
) -> RestoreReport:
    """Restore a backup into an empty database, and compare the two.

    :raises TargetRefused: the target holds something, or is the source itself.
    :raises NoServer: no pg_restore here reads the archive.
    :raises RestoreFailed: pg_restore met an error, or the backup is damaged.
    :raises VaultUnreachable: the backup can't be read whole.
    """
    settings = settings or RestoreSettings()
    sweep(settings.work_dir)
    target = replace(target, ascii_encoding=manifest.source.client_encoding)
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    with _explained(), ExitStack() as stack:
        with _reached(target) as connection:
            identity = check_target(connection, manifest, replace=settings.replace)
            no_triggers = without_login_triggers(connection, soon=True)
            has_login_triggers = bool(without_login_triggers(connection))
            wanted = differing(connection, FOR_RESTORES)
            unwatched = target.with_settings(connection, wanted | no_triggers)
            target = target.with_settings(connection, wanted)
        dumped_by = int(manifest.tools["pg_dump"].split(".")[0])
        programs = client_for(max(dumped_by, manifest.source.major))
        restorer = archive_programs(manifest, programs)
        space = stack.enter_context(Workspace(settings.work_dir))
        archive, expected = _fetched(Backups(vault), manifest, space, 0, settings, progress)
        folder = archive.folder
        seconds["fetch"] = round(time.monotonic() - begun, 3)
        if has_login_triggers or any(map(_is_login_trigger, expected.inventory.items)):
            # Otherwise our sessions, and pg_restore's, may write into what is compared.
            target = unwatched
        if identity.major == manifest.source.major:
            with _reached(target) as connection:
                keep_extension_versions(archive, expected, connection)
        began = time.monotonic()
        loaded = _load(restorer, target, manifest, archive, settings, progress)
        seconds["restore"] = round(time.monotonic() - began, 3)
        intact = _intact(archive, manifest, settings, progress, _PART_OF_THE_DATA)
        checks = [intact, restores_cleanly(identity.server_version, seconds["restore"], loaded)]
        began = time.monotonic()
        compared = RestoredBackup(
            manifest,
            expected,
            folder,
            target,
            programs,
            _lazy_scratch(stack, manifest, folder, settings),
            own_server=False,
            with_settings=settings.roles and settings.owners,
        ).compare(jobs=settings.jobs, progress=progress)
        seconds["compare"] = round(time.monotonic() - began, 3)
        checks += [
            _softened(check, manifest, identity.major, settings) for check in judge(compared)
        ]
    seconds["total"] = round(time.monotonic() - begun, 3)
    return RestoreReport(
        backup_id=manifest.backup_id,
        database=identity.database,
        verdict=worst(check.verdict for check in checks),
        checks=tuple(checks),
        seconds=seconds,
        rows=manifest.rows,
        bytes=manifest.bytes,
        tables=to_records(compared.tables),
    )


@contextmanager
def _reached(target: Endpoint) -> Iterator[Any]:
    try:
        connection = target.connect(autocommit=True)
    except SourceUnreachable as error:
        raise RestoreFailed(f"the target: {error.message}", hint=error.hint) from error
    with connection:
        yield connection


def _is_login_trigger(item: Item) -> bool:
    return item.kind == "EVENT TRIGGER" and ", on login, " in item.properties


def _load(
    programs: Programs,
    target: Endpoint,
    manifest: Manifest,
    archive: Archive,
    settings: RestoreSettings,
    progress: Progress,
) -> Loaded:
    """Restore into the target; the end of a damaged archive is left to be looked at.

    :raises RestoreFailed: it met an error.
    """
    if settings.roles:
        made = apply_globals(target, archive.folder / "globals.sql", part="roles")
        if not made.clean:
            raise RestoreFailed(
                f"creating the roles in {target.describe()} failed: {made.errors[0]}",
                hint="log in as a superuser (or one with CREATEROLE), or use setting roles=False "
                "when the roles are there already",
            )
    loaded = load_archive(
        programs,
        target,
        archive,
        encoding=manifest.source.encoding,
        settings=LoadSettings(
            jobs=settings.jobs,
            options=() if settings.owners else ("--no-owner", "--no-acl"),
            clean=settings.replace is not None,
            timeout_s=settings.timeout_s,
        ),
        progress=progress,
    )
    # Damage is looked at next, and is the better reason.
    if not loaded.clean and not loaded.damaged:
        more = len(loaded.errors) - 1
        raise RestoreFailed(
            f"restoring into {target.describe()} met an error: {loaded.errors[0]}"
            + (f" (and {more} more)" if more else ""),
            hint=f"{_PART_OF_THE_DATA} and begin with a new database; "
            "a login that is not a superuser may need setting owners=False",
        )
    return loaded


def _lazy_scratch(
    stack: ExitStack, manifest: Manifest, folder: Path, settings: RestoreSettings
) -> Callable[[str], Endpoint]:
    """Return what makes scratch databases, in a server that starts when the first is wanted."""
    makers: list[Callable[[str], Endpoint]] = []

    def make(name: str) -> Endpoint:
        if not makers:
            scratch = stack.enter_context(
                scratch_server(
                    server_for(manifest.source.major),
                    superuser=manifest.source.bootstrap_role,
                    work_dir=settings.work_dir,
                )
            )
            # Definitions name owners and grantees.
            apply_globals(scratch.endpoint(), folder / "globals.sql", part="roles")
            makers.append(scratch_database_maker(scratch, manifest))
        return makers[0](name)

    return make


def _softened(
    check: Check, manifest: Manifest, target_major: int, settings: RestoreSettings
) -> Check:
    """Make a difference INCONCLUSIVE where it may come from what was asked for."""
    if check.verdict is not Verdict.FAIL:
        return check
    reasons: dict[Circumstance, str] = {}
    if target_major != manifest.source.major:
        reasons["other_version"] = (
            f"the target is version {target_major}, the source {manifest.source.major}"
        )
    if not (settings.roles and settings.owners):
        reasons["left_out"] = "roles, owners or grants were left out as asked"
    kind = kind_of(check.name)
    reason = next(
        (reasons[each] for each in reasons if kind is not None and each in kind.softened_by), ""
    )
    if not reason:
        return check
    return check.model_copy(
        update={"verdict": Verdict.INCONCLUSIVE, "summary": f"{reason}; {check.summary}"}
    )


def restore_to_scratch(
    vault: Vault,
    manifest: Manifest,
    *,
    keep_s: float,
    settings: RestoreSettings | None = None,
    progress: Progress = silent,
) -> KeptScratch:
    """Restore a backup into a scratch server of its own that stays until a set time.

    The janitor removes it when the time is over.

    :raises CannotProve: no server, or no room, for it on this machine.
    :raises RestoreFailed: the restore did not end cleanly.
    """
    settings = settings or RestoreSettings()
    sweep(settings.work_dir)
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    with _explained(), Workspace(settings.work_dir) as space:
        archive, expected = _fetched(
            Backups(vault),
            manifest,
            space,
            scratch_bytes(manifest.database_bytes),
            settings,
            progress,
        )
        folder = archive.folder
        seconds["fetch"] = round(time.monotonic() - begun, 3)
        programs = server_for(manifest.source.major)
        with scratch_server(
            programs,
            superuser=manifest.source.bootstrap_role,
            need_bytes=manifest.database_bytes,
            work_dir=settings.work_dir,
            space=space,
        ) as scratch:
            began = time.monotonic()
            target, loaded = load_into_scratch(
                scratch,
                archive_programs(manifest, programs),
                manifest,
                archive,
                expected,
                jobs=settings.jobs,
                timeout_s=settings.timeout_s,
                progress=progress,
                kept=True,
            )
            intact = _intact(archive, manifest, settings, progress, "nothing was kept")
            if not loaded.clean:
                raise RestoreFailed(
                    f"restoring {manifest.backup_id} met an error: {loaded.errors[0]}",
                    hint="inspect this backup with resil verify",
                )
            seconds["restore"] = round(time.monotonic() - began, 3)
            checks = [intact, restores_cleanly(scratch.version, seconds["restore"], loaded)]
            began = time.monotonic()
            compared = RestoredBackup(
                manifest,
                expected,
                folder,
                target,
                scratch.programs,
                scratch_database_maker(scratch, manifest),
            ).compare(jobs=settings.jobs, progress=progress)
            seconds["compare"] = round(time.monotonic() - began, 3)
            checks += judge(compared)
            seconds["total"] = round(time.monotonic() - begun, 3)
            shutil.rmtree(folder)
            address, until = keep(scratch, keep_s, manifest.source.database)
    return KeptScratch(
        RestoreReport(
            backup_id=manifest.backup_id,
            database=manifest.source.database,
            verdict=worst(check.verdict for check in checks),
            checks=tuple(checks),
            seconds=seconds,
            rows=manifest.rows,
            bytes=manifest.bytes,
            tables=to_records(compared.tables),
        ),
        address,
        datetime.fromtimestamp(until, UTC),
    )
