"""Proving a backup: restore it into a scratch server, compare, give a verdict."""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psycopg

import dagster_resil
from dagster_resil.errors import (
    CannotProve,
    ReceiptLost,
    ResilError,
    SourceUnreachable,
    VaultError,
)
from dagster_resil.postgres.fingerprints import UNSEEN
from dagster_resil.postgres.programs import server_for
from dagster_resil.postgres.scratch import (
    need_room,
    scratch_bytes,
    scratch_server,
    sweep,
)
from dagster_resil.process import DAY_S, ProcessTimeout
from dagster_resil.progress import Progress, silent
from dagster_resil.records.base import FORMAT
from dagster_resil.records.manifest import Manifest, Source
from dagster_resil.records.receipt import Check, Receipt
from dagster_resil.records.verdict import Verdict, worst
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify.checks import judge, kind_of, names
from dagster_resil.verify.compare import (
    to_records,
)
from dagster_resil.verify.fetching import STREAMED_BYTES, Archive
from dagster_resil.verify.loading import (
    CannotRead,
    archive_programs,
    load_into_scratch,
    need_extensions,
    read_expected,
    restores_cleanly,
    scratch_database_maker,
    unless_an_extension_is_refused,
)
from dagster_resil.verify.restored import RestoredBackup
from dagster_resil.workspace import Workspace, work_root

log = logging.getLogger(__name__)


_NEVER_CHECKED = (
    "contents of materialized views (a restore computes them anew)",
    "contents of foreign tables (they are in another database)",
    "passwords of roles (they are not in a backup)",
    "planner statistics (ANALYZE makes them anew)",
    "placement in tablespaces (the scratch server has them, but puts everything in one)",
)


@dataclass(frozen=True)
class VerifySettings:
    """How a backup is proved.

    :param jobs: connections that restore, and that compare.
    :param timeout_s: the longest that the restore may take; None for no limit.
    :param work_dir: where the scratch server is; it needs room for the archive and the database.
    :param streamed_bytes: a table of which the backup has as much goes from the vault straight into
        the scratch server, a smaller one by way of ``work_dir``.
    """

    jobs: int = 2
    timeout_s: float | None = DAY_S
    work_dir: Path | None = None
    streamed_bytes: int = STREAMED_BYTES


class _Findings:
    """The checks so far, and what the receipt tells besides."""

    def __init__(self) -> None:
        self.checks: dict[str, Check] = {}
        self.comparison: pd.DataFrame | None = None
        self.server_version: str | None = None
        self.isolation: tuple[str, ...] = ()
        self.tools = {"dagster_resil": dagster_resil.__version__}
        self.seconds: dict[str, float] = {}
        self.not_checked = list(_NEVER_CHECKED)

    def add(self, check: Check) -> Verdict:
        self.checks[check.name] = check
        return check.verdict

    def rest_is_open(self, reason: str, details: tuple[str, ...] = ()) -> None:
        """Make every check that was not reached INCONCLUSIVE, with the reason."""
        for name in names():
            if name not in self.checks:
                self.checks[name] = Check(
                    name=name, verdict=Verdict.INCONCLUSIVE, summary=reason, details=details
                )


def verify_backup(
    vault: Vault,
    manifest: Manifest,
    *,
    settings: VerifySettings | None = None,
    progress: Progress = silent,
) -> Receipt:
    """Prove one backup: restore it once, run the five checks, write a receipt.

    What keeps a proof from being possible makes checks INCONCLUSIVE; it is not raised.

    :raises VaultError: no receipt could be written; nothing was done.
    :raises ReceiptLost: the receipt, which comes with it, can't be written after all.
    """
    settings = settings or VerifySettings()
    begun = time.monotonic()
    backups = Backups(vault)
    vault.check_writable(manifest.name)
    findings = _Findings()
    findings.not_checked += manifest.left_out
    if unseen := UNSEEN.get(manifest.expectations.fingerprint):
        findings.not_checked.append(unseen)
    sweep(settings.work_dir)
    try:
        with Workspace(settings.work_dir) as space:
            _prove(backups, manifest, space, settings, findings, progress)
    except CannotProve as error:
        findings.rest_is_open(_in_one_line(error))
    except ProcessTimeout as error:
        findings.rest_is_open(f"the restore was stopped: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        findings.rest_is_open(f"no disk space is left for the scratch server: {error.strerror}")
    except SourceUnreachable as error:
        findings.rest_is_open(f"the scratch server is gone: {error.message}")
    except psycopg.Error as error:
        # The scratch server's trouble; whatever it was, the backup is not proved.
        findings.rest_is_open(f"the comparison could not be finished: {str(error).strip()}")
    findings.rest_is_open("not reached")
    findings.seconds["total"] = time.monotonic() - begun
    checks = tuple(findings.checks[name] for name in names())
    receipt = Receipt(
        format=FORMAT,
        backup_id=manifest.backup_id,
        name=manifest.name,
        database=manifest.source.database,
        verdict=worst(check.verdict for check in checks),
        checks=checks,
        seconds={key: round(value, 3) for key, value in findings.seconds.items()},
        rows=manifest.rows,
        bytes=manifest.bytes,
        verified_at=datetime.now(UTC),
        server_version=findings.server_version,
        tools=findings.tools,
        isolation=findings.isolation,
        not_checked=tuple(findings.not_checked),
        tables=() if findings.comparison is None else to_records(findings.comparison),
    )
    try:
        backups.put_receipt(receipt)
    except VaultError as error:
        raise ReceiptLost(receipt, error) from error
    log.info(
        "verified backup %s: %s",
        receipt.backup_id,
        receipt.verdict,
        extra={"backup_id": receipt.backup_id, "verdict": str(receipt.verdict)},
    )
    return receipt


def _in_one_line(error: ResilError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message


def _prove(
    backups: Backups,
    manifest: Manifest,
    space: Workspace,
    settings: VerifySettings,
    findings: _Findings,
    progress: Progress,
) -> None:
    archive = Archive(
        backups, manifest, space.path / "backup", streamed_bytes=settings.streamed_bytes
    )
    try:
        need_room(
            space.path,
            archive.local_bytes + scratch_bytes(manifest.database_bytes),
            f"to restore {manifest.backup_id}",
        )
    except CannotProve:
        findings.add(archive.check(jobs=settings.jobs, progress=progress))  # it takes no room
        raise
    folder = archive.folder
    begun = time.monotonic()
    fetched = archive.fetch(jobs=settings.jobs, progress=progress)
    findings.seconds["fetch"] = time.monotonic() - begun

    def judge_archive() -> Verdict:
        verdict = findings.add(archive.check(jobs=settings.jobs, progress=progress))
        if verdict is Verdict.FAIL:
            findings.rest_is_open("the archive is damaged, so it was not restored")
        elif verdict is not Verdict.PASS:
            findings.rest_is_open("the archive could not be read completely, so nothing is proved")
        return verdict

    if not fetched:
        judge_archive()
        return
    try:
        expected = read_expected(manifest, folder)
    except CannotRead as error:
        findings.add(Check(name="archive_intact", verdict=Verdict.FAIL, summary=str(error)))
        findings.rest_is_open("the archive is damaged, so it was not restored")
        return
    try:
        programs = server_for(manifest.source.major)
        restorer = archive_programs(manifest, programs)
    except CannotProve:
        judge_archive()  # that much can be said without a server
        raise
    findings.tools |= {"pg_restore": restorer.version}
    with scratch_server(
        programs,
        superuser=manifest.source.bootstrap_role,
        need_bytes=manifest.database_bytes,
        work_dir=settings.work_dir,
        space=space,
    ) as scratch:
        findings.server_version = scratch.version
        findings.isolation = scratch.isolation
        try:
            need_extensions(scratch, expected)
        except CannotProve:
            judge_archive()
            raise
        begun = time.monotonic()
        target, loaded = load_into_scratch(
            scratch,
            restorer,
            manifest,
            archive,
            expected,
            jobs=settings.jobs,
            timeout_s=settings.timeout_s,
            progress=progress,
        )
        findings.seconds["restore"] = time.monotonic() - begun
        if judge_archive() is not Verdict.PASS:
            return
        restored = restores_cleanly(
            scratch.version, findings.seconds["restore"], loaded, alive=scratch.alive
        )
        if restored.verdict is Verdict.FAIL:
            restored = unless_an_extension_is_refused(restored, scratch, manifest, expected)
        clean = findings.add(restored)
        if clean is not Verdict.PASS:
            findings.rest_is_open("the restore did not end cleanly, so there is nothing to compare")
            return
        begun = time.monotonic()
        try:
            compared = RestoredBackup(
                manifest,
                expected,
                folder,
                target,
                scratch.programs,
                scratch_database_maker(scratch, manifest),
            ).compare(jobs=settings.jobs, progress=progress)
        finally:
            findings.seconds["compare"] = time.monotonic() - begun
        findings.comparison = compared.tables
        findings.not_checked += compared.not_checked
        for check in judge(compared):
            findings.add(_with_left_out(check, manifest))
        if expected.unreadable_tables:
            findings.not_checked.append(
                "rows of extensions' tables that the login could not read: "
                + ", ".join(expected.unreadable_tables)
            )


def _with_left_out(check: Check, manifest: Manifest) -> Check:
    """Have the check of rows say what the backup has not got."""
    kind = kind_of(check.name)
    if kind is None or not kind.names_left_out or not manifest.left_out:
        return check
    left_out = "; ".join(manifest.left_out)
    return check.model_copy(update={"summary": f"{check.summary}; left out: {left_out}"})


def check_provable(source: Source, database_bytes: int, settings: VerifySettings) -> None:
    """Look whether a backup of a database could be proved here, before it is taken.

    :raises CannotProve: there is no server of its version, or no room for it.
    """
    server_for(source.major)
    need_room(
        work_root(settings.work_dir),
        scratch_bytes(database_bytes),
        f"to restore database {source.database}",
    )
