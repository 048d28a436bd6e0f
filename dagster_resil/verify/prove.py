"""Proving a backup: restore it into a scratch server, compare, give a verdict."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psycopg
from psycopg import sql
from pydantic import ValidationError

import dagster_resil
from dagster_resil.errors import (
    CannotProve,
    NoServer,
    ReceiptLost,
    ResilError,
    SourceUnreachable,
    VaultError,
)
from dagster_resil.postgres.catalogues import MADE_ROW_TYPE, compare_catalogues, parts_left_out
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.fingerprints import UNSEEN
from dagster_resil.postgres.globals_file import NotAsWritten, read_globals_file
from dagster_resil.postgres.inventory import (
    EXTENSION_VERSION,
    available_extensions,
    read_sequences,
    take_inventory,
)
from dagster_resil.postgres.load import Loaded, LoadSettings, apply_globals, load_archive
from dagster_resil.postgres.programs import Programs, client_for, server_for
from dagster_resil.postgres.quoting import escaped
from dagster_resil.postgres.scratch import (
    ScratchServer,
    need_room,
    scratch_bytes,
    scratch_server,
    sweep,
)
from dagster_resil.postgres.server_inventory import (
    SERVER_KINDS,
    changed_bootstrap_role,
    compare_server_inventories,
    take_server_inventory,
)
from dagster_resil.postgres.session import settle
from dagster_resil.process import DAY_S, ProcessTimeout
from dagster_resil.progress import Progress, Step, silent
from dagster_resil.records.base import FORMAT
from dagster_resil.records.expected import Expected
from dagster_resil.records.inventory import LargeObjects
from dagster_resil.records.manifest import Manifest, Source
from dagster_resil.records.receipt import Check, Receipt
from dagster_resil.records.verdict import Verdict, worst
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify.archive import Archive
from dagster_resil.verify.compare import (
    DETAILS_SHOWN,
    compare_tables,
    contents_check,
    row_counts_check,
    to_records,
)
from dagster_resil.verify.contents import read_tables
from dagster_resil.verify.schema import (
    SchemaDifference,
    compare_inventories,
    compare_schemas,
    dump_schema,
    redumper,
)
from dagster_resil.workspace import Workspace, work_root

log = logging.getLogger(__name__)

CHECKS = (
    "archive_intact",
    "restores_cleanly",
    "row_counts_match",
    "contents_match",
    "schema_matches",
)

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
    """

    jobs: int = 2
    timeout_s: float | None = DAY_S
    work_dir: Path | None = None


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
        for name in CHECKS:
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
        findings.rest_is_open(f"the restore was given up: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        findings.rest_is_open(f"no space left to prove it on: {error.strerror}")
    except SourceUnreachable as error:
        findings.rest_is_open(f"the scratch server is gone: {error.message}")
    except psycopg.Error as error:
        # The scratch server's trouble; whatever it was, the backup is not proved.
        findings.rest_is_open(f"the comparison could not be finished: {str(error).strip()}")
    findings.rest_is_open("not reached")
    findings.seconds["total"] = time.monotonic() - begun
    checks = tuple(findings.checks[name] for name in CHECKS)
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
    archive = Archive(backups, manifest, space.path / "backup")
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
            findings.rest_is_open("the archive did not arrive whole, so there is no proof")
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
            _need_extensions(scratch, expected)
        except CannotProve:
            judge_archive()
            raise
        begun = time.monotonic()
        target, loaded = load_into_scratch(
            scratch, restorer, manifest, archive, expected, settings=settings, progress=progress
        )
        findings.seconds["restore"] = time.monotonic() - begun
        if judge_archive() is not Verdict.PASS:
            return
        restored = _restored(loaded, scratch, manifest, findings.seconds["restore"])
        if restored.verdict is Verdict.FAIL:
            restored = _unless_an_extension_is_refused(restored, scratch, manifest, expected)
        clean = findings.add(restored)
        if clean is not Verdict.PASS:
            findings.rest_is_open("the restore did not end cleanly, so there is nothing to compare")
            return
        begun = time.monotonic()
        try:
            compared = compare_database(
                target,
                manifest,
                expected,
                folder,
                scratch.programs,
                scratch_database_maker(scratch, manifest),
                jobs=settings.jobs,
                progress=progress,
            )
        finally:
            findings.seconds["compare"] = time.monotonic() - begun
        findings.comparison = compared.tables
        findings.not_checked += compared.not_checked
        for check in compared.checks:
            findings.add(_with_left_out(check, manifest))
        if expected.unreadable_tables:
            findings.not_checked.append(
                "rows of extensions' tables that the login could not read: "
                + ", ".join(expected.unreadable_tables)
            )


def _with_left_out(check: Check, manifest: Manifest) -> Check:
    """Have the check of rows say what the backup has not got."""
    if check.name != "row_counts_match" or not manifest.left_out:
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


@dataclass(frozen=True)
class Comparison:
    """What comparing a restored database with its source gave: the table, and three checks.

    :param not_checked: what was not compared, and why.
    """

    tables: pd.DataFrame
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...] = ()


def scratch_database_maker(scratch: ScratchServer, manifest: Manifest) -> Callable[[str], Endpoint]:
    """Return what makes empty databases like the source's in a scratch server."""

    def make(name: str) -> Endpoint:
        return scratch.create_database(
            name, encoding=manifest.source.encoding, collation=manifest.source.collation
        )

    return make


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


def _need_extensions(scratch: ScratchServer, expected: Expected) -> None:
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


def load_into_scratch(
    scratch: ScratchServer,
    restorer: Programs,
    manifest: Manifest,
    archive: Archive,
    expected: Expected,
    *,
    settings: VerifySettings,
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
        settings=LoadSettings(jobs=settings.jobs, unlogged=not kept, timeout_s=settings.timeout_s),
        progress=progress,
    )


def _restored(
    loaded: Loaded, scratch: ScratchServer, manifest: Manifest, restore_s: float
) -> Check:
    if loaded.clean:
        return Check(
            name="restores_cleanly",
            verdict=Verdict.PASS,
            summary=f"restored into PostgreSQL {scratch.version} in {restore_s:.1f} s "
            "without an error",
        )
    outside = loaded.environment or not scratch.alive
    count = len(loaded.errors)
    first = loaded.errors[0].split("\n", 1)[0]
    return Check(
        name="restores_cleanly",
        verdict=Verdict.INCONCLUSIVE if outside else Verdict.FAIL,
        summary=first + (f" (and {count - 1} more errors)" if count > 1 else ""),
        details=loaded.errors,
    )


def _unless_an_extension_is_refused(
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


def compare_database(
    target: Endpoint,
    manifest: Manifest,
    expected: Expected,
    folder: Path,
    programs: Programs,
    create_database: Callable[[str], Endpoint],
    *,
    jobs: int,
    progress: Progress,
    settings_too: bool = True,
    own_server: bool = True,
) -> Comparison:
    """Compare a restored database with what the source held.

    The database's settings are applied on the way, when its data has been looked at: one of
    them may keep anybody from connecting.

    :param programs: where pg_dump is, if the one that made the source's schema is not there.
    :param own_server: whether the server holds nothing else; on a shared one the roles of others
        are not compared.
    :param create_database: makes an empty scratch database like the source's, for schemas whose
        dumps differ in nothing but their wording.
    """
    restored = read_tables(
        target,
        form=manifest.expectations.fingerprint,
        jobs=jobs,
        leave_out=frozenset(expected.unreadable_tables),
        progress=progress,
    )
    comparison = compare_tables(manifest.tables, restored.tables, moving=restored.moving)
    progress(Step("comparing the schema"))
    with target.connect(autocommit=True) as connection:
        settle(connection)
        dumper = _same_dumper(manifest, programs)
        restored_dump = dump_schema(dumper, target)
        source_dump = (folder / manifest.expectations.schema_object).read_text(
            encoding="utf-8", errors="surrogateescape"
        )
        differences: list[SchemaDifference] = []
        unsettled = ""
        try:
            differences += compare_schemas(
                source_dump,
                restored_dump,
                redump=redumper(dumper, create_database),
                # By another login than the one that has dumped the source's schema.
                mappings_hidden=manifest.engine == "cloudsql_export",
            )
        except CannotProve as error:
            unsettled = error.message
        globals_file = folder / "globals.sql"
        applied: list[Loaded] = []
        # Before the settings, which could be in its way.
        with_tablespaces = own_server and expected.globals is not None and _in_place(connection)
        if with_tablespaces:
            applied.append(apply_globals(target, globals_file, part="tablespaces", in_place=True))
        if settings_too:
            applied.append(apply_globals(target, globals_file, part="settings"))
        differences += [
            SchemaDifference(kind="globals.sql", identity="", what="different", detail=error)
            for each in applied
            for error in each.errors
            if not each.environment
        ]
        lacking = [error for each in applied if each.environment for error in each.errors]
        if lacking:
            unsettled = unsettled or f"globals.sql could not be applied here: {lacking[0]}"
        # What it did not come to is not there, for a reason that is the machine's.
        ignored = _IN_GLOBALS if lacking else frozenset[str]()
        differences += [
            difference
            for difference in [
                *compare_state(connection, expected, restored.large_objects),
                *_compare_globals(
                    connection, manifest, expected, globals_file if with_tablespaces else None
                ),
            ]
            if (own_server or not is_about_the_server(difference))
            and difference.kind not in ignored
        ]
        # It is the server that lacks the source's extension, or a function's own affair what it
        # makes of columns in another order: that says nothing about the backup.
        unsure = [each for each in differences if each.kind in (EXTENSION_VERSION, MADE_ROW_TYPE)]
        if unsure and len(unsure) == len(differences):
            words = {EXTENSION_VERSION: "extension", MADE_ROW_TYPE: "row type"}[unsure[0].kind]
            unsettled = unsettled or (
                f"{words} {unsure[0].identity} {unsure[0].detail or unsure[0].what}"
            )
            differences = []
        contents = _with_money(contents_check(comparison), connection, manifest.source)
    return Comparison(
        comparison,
        (
            row_counts_check(comparison),
            contents,
            schema_check(differences, expected, unsettled=unsettled),
        ),
        (
            *_catalogues_not_compared(expected),
            *_globals_not_compared(
                manifest, expected, own_server=own_server, with_tablespaces=with_tablespaces
            ),
        ),
    )


def _with_money(check: Check, connection: Connection, source: Source) -> Check:
    """Make a PASS INCONCLUSIVE where values of type money can't be seen as the source shows them.

    The numbers of cents are equal then; how many decimals they have depends on the locale.
    """
    locale = source.monetary_locale
    if check.verdict is not Verdict.PASS or locale is None:
        return check
    try:
        connection.execute("SELECT pg_catalog.set_config('lc_monetary', %s, true)", [locale])
    except psycopg.errors.InvalidParameterValue:
        return check.model_copy(
            update={
                "verdict": Verdict.INCONCLUSIVE,
                "summary": f"the source writes values of type money by locale {locale!r}, which is "
                "not on this machine (Debian: apt install locales; localedef -i "
                f"{locale.split('.')[0]} -f UTF-8 {locale}); the numbers in it are equal",
            }
        )
    return check


def _in_place(connection: Connection) -> bool:
    """Return whether the server makes tablespaces in its own data folder."""
    setting = "pg_catalog.current_setting('allow_in_place_tablespaces', true)"
    return connection.execute(f"SELECT WHERE {setting} IS NOT NULL").fetchone() is not None


def _compare_globals(
    connection: Connection, manifest: Manifest, expected: Expected, tablespaces: Path | None
) -> list[SchemaDifference]:
    """Compare what lies around the database with what the source had.

    :param tablespaces: the ``globals.sql`` of which the tablespaces were made; None for none.
    """
    if expected.globals is None:
        return []
    locations = None
    if tablespaces is not None:
        try:
            locations = read_globals_file(tablespaces.read_bytes()).locations
        except NotAsWritten:
            locations = {}  # which was found out before, and is a difference
    return compare_server_inventories(
        expected.globals,
        take_server_inventory(connection),
        bootstrap_role=manifest.source.bootstrap_role,
        locations=locations,
    )


def _catalogues_not_compared(expected: Expected) -> Iterator[str]:
    if missing := parts_left_out(expected.catalogues):
        yield (
            "what pg_dump does not write of PostgreSQL's own objects and extensions (the backup, "
            f"of an earlier release, does not say what it was): {', '.join(missing)}"
        )


def _globals_not_compared(
    manifest: Manifest, expected: Expected, *, own_server: bool, with_tablespaces: bool
) -> tuple[str, ...]:
    found = []
    if not own_server:
        return ()
    if expected.globals is None:
        found.append(
            "attributes of roles, tablespaces and grants on parameters (the backup, of an earlier "
            "release, does not say what they were)"
        )
    elif not with_tablespaces:
        found.append("tablespaces (the scratch server makes none in its own folder)")
    role = manifest.source.bootstrap_role
    if changed_bootstrap_role(expected.globals or (), role):
        found.append(f"attributes of role {escaped(role)} (a server has it before a restore)")
    return tuple(found)


def _same_dumper(manifest: Manifest, fallback: Programs) -> Programs:
    with suppress(ResilError):
        found = client_for(int(manifest.tools["pg_dump"].split(".")[0]))
        if found.version == manifest.tools["pg_dump"]:
            return found
    return fallback


_IN_GLOBALS = SERVER_KINDS | {"ROLE MEMBERSHIP", "ROLE SETTING", "DATABASE SETTING", "DATABASE"}


def is_about_the_server(difference: SchemaDifference) -> bool:
    """Return whether a difference is of roles and the like, which a server's databases share."""
    return difference.kind in {"ROLE MEMBERSHIP", *SERVER_KINDS} or (
        difference.kind == "ROLE SETTING" and " here " not in difference.identity
    )


def compare_state(
    connection: Connection, expected: Expected, large_objects: LargeObjects
) -> list[SchemaDifference]:
    """Compare what a schema's dump does not show: inventory, sequences, large objects."""
    differences = compare_inventories(expected.inventory, take_inventory(connection))
    differences += compare_catalogues(expected.catalogues, connection)
    found = {
        (s.schema_name, s.name): (s.last_value, s.is_called) for s in read_sequences(connection)
    }
    for sequence in expected.sequences:
        name = f"{sequence.schema_name}.{sequence.name}"
        wanted = (sequence.last_value, sequence.is_called)
        have = found.get((sequence.schema_name, sequence.name))
        if have is None:
            differences.append(SchemaDifference(kind="SEQUENCE", identity=name, what="missing"))
        elif have != wanted:
            differences.append(
                SchemaDifference(
                    kind="SEQUENCE SET",
                    identity=name,
                    what="different",
                    detail=f"stands at {have[0]}, the backup's at {wanted[0]}",
                )
            )
    sizes = dict(expected.large_objects.sizes)
    restored = dict(large_objects.sizes)
    for oid in sorted(sizes.keys() | restored.keys()):
        if sizes.get(oid) == restored.get(oid):
            continue
        what = (
            "missing"
            if oid not in restored
            else ("unexpected" if oid not in sizes else "different")
        )
        differences.append(
            SchemaDifference(
                kind="LARGE OBJECT",
                identity=str(oid),
                what=what,
                detail=f"{restored.get(oid)} bytes, the source's {sizes.get(oid)}",
            )
        )
    return differences


def schema_check(
    differences: list[SchemaDifference], expected: Expected, *, unsettled: str = ""
) -> Check:
    """Return ``schema_matches``.

    :param unsettled: why the definitions could not be compared to the end; empty when they were.
    """
    if unsettled and not differences:
        return Check(
            name="schema_matches", verdict=Verdict.INCONCLUSIVE, summary=unsettled.split("\n", 1)[0]
        )
    if not differences:
        definitions = len(expected.inventory.items) + len(expected.globals or ())
        return Check(
            name="schema_matches",
            verdict=Verdict.PASS,
            summary=f"{definitions:,} definitions, grants and settings and "
            f"{len(expected.sequences):,} sequences' values as in the source",
        )
    lines = [str(difference) for difference in differences]
    more = f" (and {len(lines) - 1:,} more)" if len(lines) > 1 else ""
    return Check(
        name="schema_matches",
        verdict=Verdict.FAIL,
        summary=lines[0].split("\n", 1)[0] + more,
        details=tuple(lines[:DETAILS_SHOWN]),
    )
