"""Reading all of a database under one snapshot: its data, its definitions, what to expect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dagster_resil.backup.adjustments import read_adjustments
from dagster_resil.backup.agreement import (
    comparable_lines,
    large_objects_table,
    sequences,
    tables_of,
)
from dagster_resil.backup.data import Data, Reading
from dagster_resil.backup.definitions import State, read_state
from dagster_resil.backup.dump import Dumper, judge
from dagster_resil.backup.expectations import ExpectationReader
from dagster_resil.backup.globals import Globals, read_globals
from dagster_resil.backup.left_out import left_out
from dagster_resil.backup.origin import Origin
from dagster_resil.backup.settings import FORMS, BackupSettings
from dagster_resil.backup.snapshot import HeldSnapshot, SnapshotRaced
from dagster_resil.errors import BackupFailed
from dagster_resil.postgres.catalogues import Catalogues
from dagster_resil.postgres.fingerprints import FingerprintForm, default_form
from dagster_resil.postgres.identity import database_bytes
from dagster_resil.postgres.inventory import read_large_objects, read_sequences
from dagster_resil.postgres.looking import looking_tables
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server_inventory import take_server_inventory
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.table_of_contents import Adjustment, TableOfContents
from dagster_resil.postgres.tables import read_writers
from dagster_resil.progress import Progress, Step
from dagster_resil.records.expected import Expected
from dagster_resil.records.inventory import Inventory, Item, LargeObjects, SequenceValue
from dagster_resil.records.manifest import (
    CAPABILITIES,
    Capabilities,
    Engine,
    Snapshot,
    Source,
    StoredObject,
    Table,
)
from dagster_resil.vault.backups import Backups

_COMPARING = "dagster_resil compare"
_CROWD_TABLES = 1_000
"""Above so many, dumps follow one another: each of them locks every table, and a server has room
for some 15,000 locks, unless it is told otherwise."""


@dataclass(frozen=True)
class ReadResult:
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


@dataclass(frozen=True)
class _Definitions:
    """What was read beside the data."""

    inventory: Inventory
    large_objects: LargeObjects
    catalogues: Catalogues
    sequences: tuple[list[SequenceValue], list[SequenceValue]]
    """Before and after the dump has read them."""
    globals_sql: Globals
    adjustments: list[Adjustment]
    looking: frozenset[tuple[str, str]]
    around: tuple[Item, ...]


def _capabilities(data: Data) -> Capabilities:
    return CAPABILITIES[data.engine]


class _Watch:
    """Looks, while others read, whether all goes on as it should."""

    def __init__(
        self,
        snapshot: HeldSnapshot,
        data: Data,
        expectations: ExpectationReader,
        settings: BackupSettings,
        progress: Progress,
    ) -> None:
        self._snapshot = snapshot
        self._data = data
        self._expectations = expectations
        self._settings = settings
        self._progress = progress
        self._total_bytes = sum(table.bytes for table in snapshot.tables)
        self._deadline = (
            None if settings.timeout_s is None else time.monotonic() + settings.timeout_s
        )

    def __call__(self) -> None:
        """Look at everything once.

        :raises BackupFailed: a reader has failed, or the time is over.
        """
        lock_timeout_s = self._settings.lock_timeout_s
        self._snapshot.pulse(lock_timeout_s)
        if not _capabilities(self._data).under_snapshot:
            self._snapshot.make_way(lock_timeout_s)
        self._expectations.check()
        self._data.check()
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise BackupFailed(
                f"the backup of {self._snapshot.endpoint.describe()} took longer than "
                f"{self._settings.timeout_s:g} s",
                hint="raise setting timeout_s, or setting jobs",
            )
        # Each table is read twice: by what takes, and by what says what to expect.
        self._progress(
            Step(
                "reading",
                (self._data.done_bytes + self._expectations.done_bytes) // 2,
                self._total_bytes,
                "bytes",
                rows=self._data.done_rows,
            )
        )


@dataclass(frozen=True)
class SourceReader:
    """Reads a source under a snapshot, into the vault and into memory.

    :param schema: the file that the schema's dump is written to.
    """

    origin: Origin
    backups: Backups
    programs: Programs
    settings: BackupSettings
    schema: Path
    progress: Progress

    def read(self, backup_id: str, snapshot: HeldSnapshot, identity: Source) -> ReadResult:
        """Read everything; the data goes into the vault on the way.

        :raises SnapshotRaced: something changed meanwhile: a new snapshot is needed.
        :raises BackupFailed: it can't be read, or was not read whole.
        """
        form = FORMS[self.settings.compare]
        if form == "identity":
            form = default_form(snapshot.server_version)
        dumper = Dumper(self.programs, snapshot, self.settings.lock_timeout_s)
        state = read_state(snapshot.endpoint)
        sequences_before = read_sequences(snapshot.connection)
        # Sessions of their own read what a restore has to equal, and one of the methods the data.
        with (
            ExpectationReader(snapshot, form=form, sessions=self.settings.jobs) as expectations,
            self.origin.method(self._reading(backup_id, snapshot, dumper)) as data,
        ):
            watch = _Watch(snapshot, data, expectations, self.settings, self.progress)
            definitions = self._read_definitions(
                snapshot, dumper, data, expectations, state, sequences_before, watch
            )
            expectations.wait(watch)
            data.wait(watch)
            watch()  # tell the whole of it
            by = _capabilities(data)
            unsettled = frozenset[int]()
            if not by.under_snapshot:
                unsettled = _written_since(snapshot, definitions.large_objects)
            snapshot.assert_held()
        tables = tables_of(
            snapshot.tables,
            rows=data.rows,
            parts=data.parts,
            contents=expectations.contents,
            unsettled=unsettled,
            by=by,
        )
        return self._taken(snapshot, identity, data, definitions, tables, form)

    def _reading(self, backup_id: str, snapshot: HeldSnapshot, dumper: Dumper) -> Reading:
        return Reading(
            backup_id=backup_id,
            snapshot=snapshot,
            programs=self.programs,
            dumper=dumper,
            store=partial(self.backups.put_object, backup_id),
            store_many=partial(self.backups.put_objects, backup_id),
            jobs=self.settings.jobs,
            part_bytes=self.settings.part_bytes,
            small_table_bytes=self.settings.small_table_bytes,
            compress_level=self.settings.compress_level,
        )

    def _read_definitions(
        self,
        snapshot: HeldSnapshot,
        dumper: Dumper,
        data: Data,
        expectations: ExpectationReader,
        state: State,
        sequences_before: list[SequenceValue],
        watch: _Watch,
    ) -> _Definitions:
        """Read all but the rows.

        :raises SnapshotRaced: definitions were changed meanwhile.
        """
        holder = snapshot.connection

        def dump_schema(file: Path, *, as_of_now: bool = False) -> None:
            with dumper.start_schema(file, as_of_now=as_of_now) as child:
                judge(child.wait(watch=watch), snapshot.endpoint.describe())

        if len(snapshot.tables) > _CROWD_TABLES:
            data.wait_for_definitions(watch)
            dump_schema(self.schema)
        else:
            dump_schema(self.schema)
            data.wait_for_definitions(watch)
        inventory, large_objects, catalogues = expectations.wait_for_schema(watch)
        sequences_after = read_sequences(holder)
        # What no lock holds still, functions for one, must be as it was when all of it was read.
        if read_state(snapshot.endpoint) != state:
            again = self.schema.with_suffix(".again")
            # What does not read under the snapshot has read what is there by now.
            dump_schema(again, as_of_now=not _capabilities(data).under_snapshot)
            if comparable_lines(self.schema) != comparable_lines(again):
                raise SnapshotRaced("the schema was changed while the backup ran")
        return _Definitions(
            inventory=inventory,
            large_objects=large_objects,
            catalogues=catalogues,
            sequences=(sequences_before, sequences_after),
            globals_sql=read_globals(holder),
            adjustments=read_adjustments(holder),
            looking=looking_tables(holder),
            around=take_server_inventory(holder),
        )

    def _taken(
        self,
        snapshot: HeldSnapshot,
        identity: Source,
        data: Data,
        definitions: _Definitions,
        tables: list[Table],
        form: FingerprintForm,
    ) -> ReadResult:
        toc = data.contents
        return ReadResult(
            engine=data.engine,
            left_out=(
                *left_out(
                    snapshot,
                    toc,
                    cloned=self.origin.cloned,
                    by_own_login=_capabilities(data).by_own_login,
                ),
                *definitions.globals_sql.left_out,
            ),
            source=identity,
            snapshot=Snapshot(
                id=snapshot.id,
                lsn=snapshot.lsn,
                taken_at=self.origin.moment(snapshot.taken_at),
                in_progress=snapshot.in_progress,
            ),
            tables=(*tables, *large_objects_table(definitions.large_objects)),
            expected=Expected(
                inventory=definitions.inventory,
                sequences=sequences(toc, *definitions.sequences),
                large_objects=definitions.large_objects,
                catalogues=definitions.catalogues,
                unreadable_tables=tuple(
                    f"{t.schema}.{t.name}" for t in snapshot.tables if not t.readable
                ),
                globals=definitions.around,
            ),
            globals_sql=definitions.globals_sql,
            database_bytes=database_bytes(snapshot.connection),
            form=form,
            tools=dict(data.tools),
            contents=toc.for_server(snapshot.server_version)
            .with_session_settings()
            .with_adjustments(definitions.adjustments)
            .in_fixed_order(definitions.looking),
            objects=tuple(data.objects.values()),
        )


def _written_since(snapshot: HeldSnapshot, large_objects: LargeObjects) -> frozenset[int]:
    """Return the tables that were written to since the snapshot was taken, by their OIDs.

    :raises BackupFailed: large objects were.
    """
    tables = [table for table in snapshot.tables if table.readable]
    newest = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())"
    with snapshot.worker() as then, snapshot.endpoint.connect(application_name=_COMPARING) as now:
        prepare_session(now, gentle=True)
        begun = [session.execute(newest).fetchone() for session in (then, now)]
        if snapshot.in_progress == 0 and begun[0] == begun[1]:
            return frozenset()  # no transaction has written at all, as it is with most clones
        before, after = read_writers(then, tables), read_writers(now, tables)
        if read_large_objects(now) != large_objects:
            raise BackupFailed(
                f"large objects of {snapshot.endpoint.describe()} were written to while it was "
                "exported, so their expected contents are unknown",
                hint="export a clone (consistency: clone); if it is a clone, stop what writes "
                "large objects there by itself, for example pg_cron",
            )
    return frozenset(table.oid for table in tables if before[table.oid] != after[table.oid])
