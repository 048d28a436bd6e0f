"""Taking a backup: one snapshot, a stock archive, and what a restore of it has to equal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psycopg

import dagster_resil
from dagster_resil.backup.agreement import check_same_source, placed
from dagster_resil.backup.instructions import restore_readme, restore_script
from dagster_resil.backup.origin import Origin
from dagster_resil.backup.permissions import as_reader, unreadable_text
from dagster_resil.backup.reading import ReadResult, SourceReader
from dagster_resil.backup.settings import RECORDED, BackupSettings, check_settings
from dagster_resil.backup.snapshot import SnapshotRaced, hold_snapshot, lock_timeout
from dagster_resil.errors import BackupFailed, LockTimeout, NoVault, VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.identity import read_identity
from dagster_resil.postgres.programs import client_for
from dagster_resil.postgres.scratch import sweep
from dagster_resil.process import DAY_S
from dagster_resil.progress import Progress, Step, silent
from dagster_resil.records.base import FORMAT, format_time
from dagster_resil.records.expected import INVENTORY_OBJECT, SCHEMA_OBJECT
from dagster_resil.records.manifest import Expectations, Manifest, Partition, StoredObject
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.vault.layout import new_backup_id
from dagster_resil.workspace import Workspace

log = logging.getLogger(__name__)

_UNREADABLE = (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter)


def take_backup(
    source: Endpoint | Origin,
    vault: Vault,
    *,
    name: str,
    partition: Partition | None = None,
    settings: BackupSettings | None = None,
    progress: Progress = silent,
    between: Callable[[], None] = lambda: None,
) -> Manifest:
    """Take one backup and write it into the vault, the manifest last.

    :param source: what is read; an endpoint is read by our own engine.
    :param name: the protected database's name, ``[a-z][a-z0-9_]*``.
    :param partition: the time window that the snapshot has to lie in.
    :param between: called between snapshot and locks; tests put a race there.
    :raises ResilError: nothing of it is listed, and the source is let go.
    """
    settings = settings or BackupSettings()
    check_settings(name, settings)
    started_at = datetime.now(UTC)
    begun = time.monotonic()
    backups = Backups(vault)
    vault.check_writable(name)
    _sweep_vault(backups, name, settings)
    sweep(settings.work_dir)
    origin = source if isinstance(source, Origin) else Origin(source)
    with Workspace(settings.work_dir) as space:
        reader = as_reader(origin.endpoint)
        programs = client_for(reader.server_version // 10000)
        attempts = _Attempts(
            SourceReader(
                replace(origin, endpoint=reader.endpoint),
                backups,
                programs,
                settings,
                space.path / "schema.sql",
                progress,
            ),
            name,
            partition,
            between,
        )
        with _discarding(backups) as begin:
            try:
                taken, backup_id = attempts.take(begin)
            except _UNREADABLE as error:
                raise unreadable_text(reader.endpoint, error) from None
            dumped_s = time.monotonic() - begun
            objects = _keep(attempts.reader, backup_id, taken)
            manifest = Manifest(
                format=FORMAT,
                backup_id=backup_id,
                name=name,
                engine=taken.engine,
                recovered=origin.recovered,
                left_out=taken.left_out,
                partition=placed(partition, taken.snapshot.taken_at, settings.grace_s),
                source=taken.source.model_copy(
                    update={"instance": origin.instance, "monetary_locale": reader.monetary_locale}
                ),
                snapshot=taken.snapshot,
                tools={
                    "pg_dump": programs.version,
                    **taken.tools,
                    "dagster_resil": dagster_resil.__version__,
                },
                started_at=started_at,
                finished_at=datetime.now(UTC),
                seconds={
                    "dump": round(dumped_s, 3),
                    "total": round(time.monotonic() - begun, 3),
                },
                tables=taken.tables,
                objects=tuple(objects),
                database_bytes=taken.database_bytes,
                expectations=Expectations(
                    fingerprint=taken.form,
                    schema_object=SCHEMA_OBJECT,
                    inventory_object=INVENTORY_OBJECT,
                ),
                settings={key: getattr(settings, key) for key in RECORDED},
            )
            backups.commit(manifest)
    log.info(
        "took backup %s",
        backup_id,
        extra={"backup_id": backup_id, "rows": manifest.rows, "bytes": manifest.bytes},
    )
    return manifest


@dataclass(frozen=True)
class _Attempts:
    """Takes snapshots until one of them could be read whole."""

    reader: SourceReader
    name: str
    partition: Partition | None
    between: Callable[[], None]

    def take(self, begin: Callable[[str], None]) -> tuple[ReadResult, str]:
        """Return what was read, and the backup's id.

        :param begin: called with the id of each attempt before anything of it is written.
        """
        settings, endpoint = self.reader.settings, self.reader.origin.endpoint
        for number in range(1, settings.attempts + 1):
            try:
                return self._attempt(begin)
            except SnapshotRaced as race:
                log.warning("a new snapshot is needed: %s (attempt %d)", race, number)
                last = str(race)
        raise BackupFailed(
            f"the schema of {endpoint.describe()} kept changing under the snapshot, last: {last}",
            hint="wait for the migration to end, or raise setting attempts",
        )

    def _attempt(self, begin: Callable[[str], None]) -> tuple[ReadResult, str]:
        settings, origin = self.reader.settings, self.reader.origin
        with hold_snapshot(
            origin.endpoint, lock_timeout_s=settings.lock_timeout_s, between=self.between
        ) as snapshot:
            identity = read_identity(snapshot.connection)
            known = self.reader.backups.last_source(self.name)
            if not settings.accept_new_source:
                check_same_source(self.name, known, identity)
            moment = origin.moment(snapshot.taken_at)
            placed(self.partition, moment, settings.grace_s)
            backup_id = new_backup_id(self.name, moment)
            begin(backup_id)
            try:
                return self.reader.read(backup_id, snapshot, identity), backup_id
            except BackupFailed as error:
                # A lost server tells its reason best through the session that held the
                # snapshot.
                snapshot.assert_held()
                if isinstance(error, LockTimeout) and not error.names_blockers:
                    # pg_dump knows the table, and not who is in the way.
                    raise lock_timeout(snapshot.connection, error.message) from None
                raise


def _sweep_vault(backups: Backups, name: str, settings: BackupSettings) -> None:
    # Nobody may be at work on it any more, with these settings or with others: one that is under
    # way writes within its timeout. Twice that, since the vault's clock may be another than ours.
    older_than_s = 2 * max(DAY_S, settings.timeout_s or DAY_S)
    try:
        backups.sweep(name, older_than_s=older_than_s)
    except NoVault:
        return  # it is made with the first object
    except VaultError as error:
        log.warning("the remains of killed backups could not be listed: %s", error.message)


@contextmanager
def _discarding(backups: Backups) -> Iterator[Callable[[str | None], None]]:
    """Yield what begins an attempt under an id; the one before it is removed from the vault.

    The last one is removed too when the ``with`` is left by an exception.
    """
    current: list[str] = []

    def begin(backup_id: str | None) -> None:
        for old in current:
            backups.discard(old)
        current[:] = [backup_id] if backup_id else []

    try:
        yield begin
    except BaseException:
        begin(None)
        raise


def _keep(reader: SourceReader, backup_id: str, taken: ReadResult) -> list[StoredObject]:
    """Write every object of the backup that is not in the vault yet, but the manifest."""
    texts = {
        "archive/toc.dat": taken.contents.to_bytes(),
        "globals.sql": taken.globals_sql.to_bytes(),
        "RESTORE.md": restore_readme(
            backup_id,
            taken.source,
            rows=sum(t.rows for t in taken.tables if t.kind == "table"),
            taken_at=format_time(taken.snapshot.taken_at),
        ).encode(),
        "restore.sh": restore_script().encode(),
        INVENTORY_OBJECT: taken.expected.model_dump_json(by_alias=True, indent=1).encode(),
        SCHEMA_OBJECT: reader.schema.read_bytes(),
    }
    total = sum(map(len, texts.values()))
    objects = list(taken.objects)
    done = 0
    for relative, text in texts.items():
        objects.append(reader.backups.put_object(backup_id, relative, [text]))
        done += len(text)
        reader.progress(Step("keeping", done, total, "bytes"))
    return sorted(objects, key=lambda item: item.name)
