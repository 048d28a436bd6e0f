"""Taking a backup: one snapshot, a stock archive, and what a restore of it has to equal."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import psycopg

import dagster_resil
from dagster_resil.backup.adjustments import read_adjustments
from dagster_resil.backup.data import Method, Reading, SnapshotData
from dagster_resil.backup.definitions import read_state
from dagster_resil.backup.dump import Dumper, judge
from dagster_resil.backup.expectations import ExpectationReader
from dagster_resil.backup.globals import Globals, read_globals
from dagster_resil.backup.instructions import restore_readme, restore_script
from dagster_resil.backup.permissions import as_reader, unreadable_text
from dagster_resil.backup.snapshot import (
    HeldSnapshot,
    SnapshotRaced,
    hold_snapshot,
    lock_timeout,
)
from dagster_resil.errors import (
    BackupFailed,
    ConfigurationError,
    LockTimeout,
    NoVault,
    SourceChanged,
    VaultError,
)
from dagster_resil.postgres.archive import TableOfContents, sequence_value
from dagster_resil.postgres.catalogues import comments_left_out
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.fingerprints import FingerprintForm, default_form
from dagster_resil.postgres.identity import database_bytes, read_identity
from dagster_resil.postgres.inventory import read_large_objects, read_sequences
from dagster_resil.postgres.looking import looking_tables
from dagster_resil.postgres.programs import Programs, client_for
from dagster_resil.postgres.scratch import sweep
from dagster_resil.postgres.server_inventory import take_server_inventory
from dagster_resil.postgres.session import settle
from dagster_resil.postgres.tables import Relation, read_writers
from dagster_resil.process import DAY_S
from dagster_resil.progress import Progress, Step, silent
from dagster_resil.records.base import FORMAT, NAME_PATTERN, format_time
from dagster_resil.records.expected import INVENTORY_OBJECT, SCHEMA_OBJECT, Expected, SequenceState
from dagster_resil.records.inventory import LargeObjects, SequenceValue
from dagster_resil.records.manifest import (
    Engine,
    Expectations,
    Manifest,
    Partition,
    Recovered,
    Snapshot,
    Source,
    StoredObject,
    Table,
)
from dagster_resil.vault.backups import Backups, new_backup_id
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace

log = logging.getLogger(__name__)

Comparison = Literal["counts", "contents", "text"]
_FORMS: dict[Comparison, FingerprintForm] = {
    "counts": "none",
    "contents": "identity",
    "text": "text",
}

PART_BYTES = 64 << 20
_SMALLEST_PART_BYTES = 1 << 20
_UNREADABLE = (psycopg.errors.CharacterNotInRepertoire, psycopg.errors.UntranslatableCharacter)
_COMPARING = "dagster_resil compare"
_CROWD_TABLES = 1_000
"""Above so many, dumps follow one another: each of them locks every table, and a server has room
for some 15,000 locks, unless it is told otherwise."""
LARGE_OBJECTS = ("pg_catalog", "pg_largeobject")
_TOLD = ("jobs", "lock_timeout_s", "compare", "part_bytes", "compress_level", "grace_s")
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
    compress_level: int = 1
    accept_new_source: bool = False
    grace_s: float = 0
    work_dir: Path | None = None


@dataclass(frozen=True)
class _Taken:
    """What one attempt has read; the source is no longer needed.

    :param contents: the archive's table of contents.
    :param objects: what is in the vault already.
    """

    engine: Engine
    left_out: tuple[str, ...]
    source: Source
    snapshot: Snapshot
    tables: tuple[Table, ...]
    expected: Expected
    globals_sql: Globals
    database_bytes: int
    form: FingerprintForm
    tools: dict[str, str]
    contents: TableOfContents
    objects: tuple[StoredObject, ...]


def take_backup(
    source: Endpoint,
    vault: Vault,
    *,
    name: str,
    partition: Partition | None = None,
    settings: BackupSettings | None = None,
    method: Method = SnapshotData,
    recovered: Recovered | None = None,
    instance: str | None = None,
    cloned: bool = False,
    progress: Progress = silent,
    between: Callable[[], None] = lambda: None,
) -> Manifest:
    """Take one backup and write it into the vault, the manifest last.

    :param name: the database's name for us, ``[a-z][a-z0-9_]*``.
    :param partition: the time window that the snapshot has to lie in.
    :param method: what reads the data.
    :param recovered: the past moment that the source shows, where it was recovered to it.
    :param instance: the instance that the source is, or is a clone of: ``project:region:name``.
    :param cloned: whether the source is a physical copy of the database that is to be backed up.
    :param between: called between snapshot and locks; tests put a race there.
    :raises ResilError: nothing of it is listed, and the source is let go.
    """
    settings = settings or BackupSettings()
    _check_settings(name, settings)
    started_at = datetime.now(UTC)
    begun = time.monotonic()
    backups = Backups(vault)
    vault.check_writable(name)
    _sweep_vault(backups, name, settings)
    sweep(settings.work_dir)
    with Workspace(settings.work_dir) as space:
        reader = as_reader(source)
        programs = client_for(reader.server_version // 10000)
        attempt = _Attempt(
            reader.endpoint,
            backups,
            name,
            partition,
            programs,
            settings,
            space.path,
            method,
            recovered,
            cloned,
        )
        with _discarding(backups) as begin:
            try:
                taken, backup_id = _take(attempt, begin, progress, between)
            except _UNREADABLE as error:
                raise unreadable_text(reader.endpoint, error) from None
            dumped_s = time.monotonic() - begun
            objects = _keep(attempt, backup_id, taken, progress)
            finished_at = datetime.now(UTC)
            manifest = Manifest(
                format=FORMAT,
                backup_id=backup_id,
                name=name,
                engine=taken.engine,
                recovered=recovered,
                left_out=taken.left_out,
                partition=_placed(partition, taken.snapshot.taken_at, settings.grace_s),
                source=taken.source.model_copy(
                    update={"instance": instance, "monetary_locale": reader.monetary_locale}
                ),
                snapshot=taken.snapshot,
                tools={
                    "pg_dump": programs.version,
                    **taken.tools,
                    "dagster_resil": dagster_resil.__version__,
                },
                started_at=started_at,
                finished_at=finished_at,
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
                settings={key: getattr(settings, key) for key in _TOLD},
            )
            backups.commit(manifest)
    log.info(
        "took backup %s",
        backup_id,
        extra={"backup_id": backup_id, "rows": manifest.rows, "bytes": manifest.bytes},
    )
    return manifest


@dataclass(frozen=True)
class _Attempt:
    """What every attempt of one backup has in common."""

    source: Endpoint
    backups: Backups
    name: str
    partition: Partition | None
    programs: Programs
    settings: BackupSettings
    folder: Path
    method: Method
    recovered: Recovered | None
    cloned: bool

    def moment_of(self, snapshot: HeldSnapshot) -> datetime:
        """Return the time of what is backed up: a past moment's, where it was recovered."""
        return self.recovered.moment if self.recovered else snapshot.taken_at

    @property
    def schema(self) -> Path:
        return self.folder / "schema.sql"


def _sweep_vault(backups: Backups, name: str, settings: BackupSettings) -> None:
    # Nobody may be at work on it any more, with these settings or with others: one that is under
    # way writes within its timeout. Twice that, since the vault's clock may be another than ours.
    older_than_s = 2 * max(DAY_S, settings.timeout_s or DAY_S)
    try:
        backups.sweep(name, older_than_s=older_than_s)
    except NoVault:
        return  # it is made with the first object
    except VaultError as error:
        log.warning("can't look for what killed backups left: %s", error.message)


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


def _check_settings(name: str, settings: BackupSettings) -> None:
    if not re.match(NAME_PATTERN, name):
        raise ConfigurationError(
            f"{name!r} can't be a protected database's name",
            hint="use small letters, digits and underscores, a letter first",
        )
    if settings.jobs < 1 or settings.attempts < 1 or not 1 <= settings.compress_level <= 9:
        raise ConfigurationError(
            "jobs and attempts are at least 1, the compression level is 1 to 9",
            hint="see: resil backup --help",
        )
    if settings.part_bytes < _SMALLEST_PART_BYTES:
        raise ConfigurationError(
            f"a part can't be smaller than {_SMALLEST_PART_BYTES:,} bytes",
            hint="64 MB is a good size; memory holds a part for each job",
        )


def _placed(partition: Partition | None, taken_at: datetime, grace_s: float) -> Partition | None:
    """Return the partition with ``late`` as the snapshot's time has it.

    :raises BackupFailed: the snapshot does not lie in the partition nor in its grace.
    """
    if partition is None:
        return None
    if not partition.start <= taken_at < partition.end + timedelta(seconds=grace_s):
        raise BackupFailed(
            f"the snapshot's time, {format_time(taken_at)}, is not in partition "
            f"{partition.key} ({format_time(partition.start)} to {format_time(partition.end)})",
            hint="is the database server's clock right? is a replica behind its primary? a live "
            "backup belongs to the window that is open",
        )
    return partition.model_copy(update={"late": taken_at >= partition.end})


def _take(
    attempt: _Attempt,
    begin: Callable[[str], None],
    progress: Progress,
    between: Callable[[], None],
) -> tuple[_Taken, str]:
    settings = attempt.settings
    for number in range(1, settings.attempts + 1):
        try:
            with hold_snapshot(
                attempt.source, lock_timeout_s=settings.lock_timeout_s, between=between
            ) as snapshot:
                identity = read_identity(snapshot.connection)
                _check_same_source(attempt.backups, attempt.name, identity, settings)
                moment = attempt.moment_of(snapshot)
                _placed(attempt.partition, moment, settings.grace_s)
                backup_id = new_backup_id(attempt.name, moment)
                begin(backup_id)
                try:
                    return _read(attempt, backup_id, snapshot, identity, progress), backup_id
                except BackupFailed as error:
                    # A lost server tells its reason best through the session that held the
                    # snapshot.
                    snapshot.assert_held()
                    if isinstance(error, LockTimeout) and not error.names_blockers:
                        # pg_dump knows the table, and not who is in the way.
                        raise lock_timeout(snapshot.connection, error.message) from None
                    raise
        except SnapshotRaced as race:
            log.warning("a new snapshot is needed: %s (attempt %d)", race, number)
            last = str(race)
    raise BackupFailed(
        f"the schema of {attempt.source.describe()} kept changing under the snapshot, last: {last}",
        hint="wait for the migration to end, or allow more attempts",
    )


def _check_same_source(
    backups: Backups, name: str, identity: Source, settings: BackupSettings
) -> None:
    known = backups.last_source(name)
    if known is None or settings.accept_new_source:
        return
    same_server = (
        known.system_identifier is None
        or identity.system_identifier is None
        or known.system_identifier == identity.system_identifier
    )
    if not same_server or known.database != identity.database:
        raise SourceChanged(
            f"{name} was database {known.database!r} on {known.host} (system identifier "
            f"{known.system_identifier}) so far; now it is {identity.database!r} on "
            f"{identity.host} ({identity.system_identifier})",
            hint="if the change is meant, run once with --accept-new-source; otherwise correct "
            "the address, or use another name",
        )


def _read(
    attempt: _Attempt,
    backup_id: str,
    snapshot: HeldSnapshot,
    identity: Source,
    progress: Progress,
) -> _Taken:
    settings = attempt.settings
    schema = attempt.schema
    holder = snapshot.connection
    form = _FORMS[settings.compare]
    if form == "identity":
        form = default_form(snapshot.server_version)
    dumper = Dumper(attempt.programs, snapshot, settings.lock_timeout_s)
    definitions = read_state(snapshot.endpoint)
    sequences_before = read_sequences(holder)
    deadline = None if settings.timeout_s is None else time.monotonic() + settings.timeout_s
    where = snapshot.endpoint.describe()
    total_bytes = sum(table.bytes for table in snapshot.tables)
    crowded = len(snapshot.tables) > _CROWD_TABLES
    reading = Reading(
        backup_id=backup_id,
        snapshot=snapshot,
        programs=attempt.programs,
        dumper=dumper,
        store=partial(attempt.backups.put_object, backup_id),
        store_many=partial(attempt.backups.put_objects, backup_id),
        jobs=settings.jobs,
        part_bytes=settings.part_bytes,
        compress_level=settings.compress_level,
    )
    with (
        ExpectationReader(snapshot, form=form, sessions=settings.jobs) as expectations,
        attempt.method(reading) as data,
    ):

        def watch() -> None:
            snapshot.pulse(settings.lock_timeout_s)
            if not data.under_snapshot:
                snapshot.make_way(settings.lock_timeout_s)
            expectations.check()
            data.check()
            if deadline is not None and time.monotonic() > deadline:
                raise BackupFailed(
                    f"the backup of {where} took longer than {settings.timeout_s:g} s",
                    hint="raise --timeout, or use more --jobs",
                )
            # Each table is read twice: by what takes, and by what says what to expect.
            progress(
                Step(
                    "reading",
                    (data.done_bytes + expectations.done_bytes) // 2,
                    total_bytes,
                    "bytes",
                    rows=data.done_rows,
                )
            )

        def dump_schema(file: Path, *, as_of_now: bool = False) -> None:
            with dumper.start_schema(file, as_of_now=as_of_now) as child:
                judge(child.wait(watch=watch), where)

        if crowded:
            data.wait_for_definitions(watch)
            dump_schema(schema)
        else:
            dump_schema(schema)
            data.wait_for_definitions(watch)
        inventory, large_objects, catalogues = expectations.wait_for_schema(watch)
        sequences_after = read_sequences(holder)
        # What no lock holds still, functions for one, must be as it was when all of it was read.
        if read_state(snapshot.endpoint) != definitions:
            again = schema.with_suffix(".again")
            # What does not read under the snapshot has read what is there by now.
            dump_schema(again, as_of_now=not data.under_snapshot)
            if _settled_text(schema) != _settled_text(again):
                raise SnapshotRaced("the schema was changed while the backup ran")
        globals_sql = read_globals(holder)
        adjustments = read_adjustments(holder)
        looking = looking_tables(holder)
        around = take_server_inventory(holder)
        expectations.wait(watch)
        data.wait(watch)
        watch()  # tell the whole of it
        unsettled = frozenset[int]()
        if not data.under_snapshot:
            unsettled = _written_since(snapshot, large_objects)
        snapshot.assert_held()

    contents = expectations.contents
    rows, parts = data.rows, data.parts
    if new := rows.keys() - {(table.schema, table.name) for table in snapshot.tables}:
        raise SnapshotRaced(f"table {'.'.join(min(new))} was made while the backup ran")
    found = []
    for relation in snapshot.tables:
        key = (relation.schema, relation.name)
        settled = relation.oid not in unsettled
        # The rows of an extension's tables come with it.
        if relation.extension is None:
            counted = contents[relation.oid].rows if settled else None
            _check_rows(relation, rows.get(key), counted, data.engine)
        if relation.readable:
            content = contents[relation.oid]
            found.append(
                Table(
                    schema=relation.schema,
                    name=relation.name,
                    rows=content.rows if settled else rows.get(key, content.rows),
                    fingerprint=content.fingerprint,
                    bytes=relation.bytes,
                    parts=parts.get(key, ()),
                    settled=settled,
                )
            )
    if large_objects.count:
        found.append(
            Table(
                schema=LARGE_OBJECTS[0],
                name=LARGE_OBJECTS[1],
                kind="large_objects",
                rows=large_objects.count,
                fingerprint=large_objects.fingerprint,
                bytes=large_objects.bytes,
            )
        )
    toc = data.contents
    return _Taken(
        engine=data.engine,
        left_out=(
            *_left_out(snapshot, toc, cloned=attempt.cloned, by_us=data.engine == "pg_dump"),
            *globals_sql.left_out,
        ),
        source=identity,
        snapshot=Snapshot(
            id=snapshot.id,
            lsn=snapshot.lsn,
            taken_at=attempt.moment_of(snapshot),
            in_progress=snapshot.in_progress,
        ),
        tables=tuple(found),
        expected=Expected(
            inventory=inventory,
            sequences=_sequences(toc, sequences_before, sequences_after),
            large_objects=large_objects,
            catalogues=catalogues,
            unreadable_tables=tuple(
                f"{t.schema}.{t.name}" for t in snapshot.tables if not t.readable
            ),
            globals=around,
        ),
        globals_sql=globals_sql,
        database_bytes=database_bytes(holder),
        form=form,
        tools=dict(data.tools),
        contents=toc.with_session_settings().with_adjustments(adjustments).in_fixed_order(looking),
        objects=tuple(data.objects.values()),
    )


_REPORT_HINT = "this should not happen: please report it with the versions of server and pg_dump"


# What a login that is no superuser is not shown, as PostgreSQL decides it.
_HIDDEN_MAPPINGS = """
SELECT pg_catalog.count(*) FROM pg_catalog.pg_user_mappings m
  JOIN pg_catalog.pg_foreign_server s ON s.oid = m.srvid
 WHERE m.umoptions IS NULL AND pg_catalog.current_setting('is_superuser') = 'off'
   AND NOT CASE WHEN m.umuser = 0 THEN pg_catalog.pg_has_role(s.srvowner, 'USAGE')
     ELSE m.usename = CURRENT_USER AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE')
       OR pg_catalog.has_server_privilege(s.oid, 'USAGE')) END
"""
_HIDDEN_SUBSCRIPTIONS = """
SELECT pg_catalog.count(subname) FROM pg_catalog.pg_subscription
 WHERE pg_catalog.current_setting('is_superuser') = 'off' AND subdbid =
   (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


def _left_out(
    snapshot: HeldSnapshot, toc: TableOfContents, *, cloned: bool, by_us: bool
) -> tuple[str, ...]:
    """Return what the database has, or may have, and the backup has not, or has unseen.

    :param toc: the archive's table of contents.
    :param cloned: whether it is a physical copy, without the rows of unlogged tables.
    :param by_us: whether what our login is not shown is not in the archive either.
    """
    found = []
    unlogged = [f"{t.schema}.{t.name}" for t in snapshot.tables if t.is_unlogged]
    if cloned and unlogged:
        found.append(f"rows of unlogged tables, which no clone has: {', '.join(unlogged)}")
    if count := _count(snapshot, _HIDDEN_MAPPINGS):
        found.append(
            f"options of user mappings ({count:,}), a password for example, if they have any: "
            "PostgreSQL shows them to superusers and to the user itself alone"
            + ("" if by_us else "; the export may have them")
        )
    count = _count(snapshot, _HIDDEN_SUBSCRIPTIONS) - len(list(toc.of_kind("SUBSCRIPTION")))
    if count > 0:
        found.append(f"subscriptions ({count:,}): PostgreSQL shows them to superusers alone")
    if commented := comments_left_out(snapshot.connection):
        shown = ", ".join(commented[:3]) + (", …" if len(commented) > 3 else "")
        found.append(f"comments that no statement puts back ({len(commented):,}): {shown}")
    return tuple(found)


def _count(snapshot: HeldSnapshot, query: str) -> int:
    row = snapshot.connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _written_since(snapshot: HeldSnapshot, large_objects: LargeObjects) -> frozenset[int]:
    """Return the tables that were written to since the snapshot was taken, by their OIDs.

    :raises BackupFailed: large objects were.
    """
    tables = [table for table in snapshot.tables if table.readable]
    newest = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())"
    with snapshot.worker() as then, snapshot.endpoint.connect(application_name=_COMPARING) as now:
        settle(now, gentle=True)
        begun = [session.execute(newest).fetchone() for session in (then, now)]
        if snapshot.in_progress == 0 and begun[0] == begun[1]:
            return frozenset()  # no transaction has written at all, as it is with most clones
        before, after = read_writers(then, tables), read_writers(now, tables)
        if read_large_objects(now) != large_objects:
            raise BackupFailed(
                f"large objects of {snapshot.endpoint.describe()} were written to while it was "
                "exported, so what they have to equal is not known",
                hint="export a clone (consistency: clone); where it is one, what writes there by "
                "itself (pg_cron?) has to stay away from large objects",
            )
    return frozenset(table.oid for table in tables if before[table.oid] != after[table.oid])


def _check_rows(table: Relation, read: int | None, counted: int | None, engine: Engine) -> None:
    """Compare what was counted of the rows that were read with what a query of its own says.

    :param counted: None where no query can say.
    :raises BackupFailed: they differ, or the rows were not read.
    """
    what, hint = "dump", _REPORT_HINT
    if engine == "cloudsql_export":
        # What lands is in other hands in between.
        what, hint = "export", "nothing of it was kept; run the backup again"
    if read is None:
        raise BackupFailed(
            f"the {what} left out the data of table {table.schema}.{table.name}", hint=hint
        )
    if counted is not None and read != counted:
        raise BackupFailed(
            f"the {what} of table {table.schema}.{table.name} has {read:,} rows, the snapshot "
            f"{counted:,}",
            hint=hint,
        )


def _settled_text(file: Path) -> list[bytes]:
    # pg_dump guards its text with \restrict and a token that is new each time.
    return [
        line
        for line in file.read_bytes().split(b"\n")
        if not line.startswith((b"\\restrict ", b"\\unrestrict "))
    ]


def _sequences(
    toc: TableOfContents, before: list[SequenceValue], after: list[SequenceValue]
) -> tuple[SequenceState, ...]:
    """Return what the archive sets each sequence to, which has to lie between the two looks.

    A sequence is no part of a snapshot: it is read as of now.
    """
    first = {(s.schema_name, s.name): s for s in before}
    last = {(s.schema_name, s.name): s for s in after}
    states = []
    for entry in toc.of_kind("SEQUENCE SET"):
        key = (entry.schema or "", entry.tag)
        value, used = sequence_value(entry)
        if key not in first or key not in last:
            raise SnapshotRaced(f"sequence {'.'.join(key)} came or went")
        bounds = sorted((first[key].last_value, last[key].last_value))
        if not first[key].cycle and not bounds[0] <= value <= bounds[1]:
            raise SnapshotRaced(f"sequence {'.'.join(key)} was set back while the backup ran")
        states.append(
            SequenceState(schema_name=key[0], name=key[1], last_value=value, is_called=used)
        )
    left_out = first.keys() - {(state.schema_name, state.name) for state in states}
    if left_out:
        raise BackupFailed(
            f"pg_dump left out the value of sequence {'.'.join(min(left_out))}",
            hint="this should not happen: please report it with the versions of server and pg_dump",
        )
    return tuple(states)


def _keep(
    attempt: _Attempt, backup_id: str, taken: _Taken, progress: Progress
) -> list[StoredObject]:
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
        SCHEMA_OBJECT: attempt.schema.read_bytes(),
    }
    total = sum(map(len, texts.values()))
    objects = list(taken.objects)
    done = 0
    for relative, text in texts.items():
        objects.append(attempt.backups.put_object(backup_id, relative, [text]))
        done += len(text)
        progress(Step("keeping", done, total, "bytes"))
    return sorted(objects, key=lambda item: item.name)


__all__ = ["BackupSettings", "take_backup"]
