"""Whether what was read agrees with what the source says of itself: rules, without a server.

What reads the data counts the rows as they pass; queries of their own count them in the source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from dagster_resil.backup.data import Key
from dagster_resil.backup.snapshot import SnapshotRaced
from dagster_resil.errors import BackupFailed, SourceChanged
from dagster_resil.postgres.fingerprints import Content
from dagster_resil.postgres.table_of_contents import TableOfContents, sequence_value
from dagster_resil.postgres.tables import Relation
from dagster_resil.records.base import format_time
from dagster_resil.records.expected import SequenceState
from dagster_resil.records.inventory import LargeObjects, SequenceValue
from dagster_resil.records.manifest import Capabilities, Partition, Source, Table

LARGE_OBJECTS = ("pg_catalog", "pg_largeobject")
_REPORT_HINT = "this should not happen: please report it with the versions of server and pg_dump"


def placed(partition: Partition | None, taken_at: datetime, grace_s: float) -> Partition | None:
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


def check_same_source(name: str, known: Source | None, identity: Source) -> None:
    """Compare the source with the one that the name has stood for so far.

    :param known: of the newest backup; None where there is none.
    :raises SourceChanged: it is another server, or another database of the same.
    """
    if known is None:
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
            hint="if the change is meant, run once with setting accept_new_source=True; otherwise "
            "correct the address, or use another name",
        )


def tables_of(
    relations: Collection[Relation],
    *,
    rows: Mapping[Key, int],
    parts: Mapping[Key, tuple[str, ...]],
    contents: Mapping[int, Content],
    unsettled: frozenset[int],
    by: Capabilities,
) -> list[Table]:
    """Return the tables as the manifest has them, each read and counted to the same number.

    :param rows: how many rows of each table were read.
    :param parts: the objects that they are in.
    :param contents: what queries of their own say of the tables, by their OIDs.
    :param unsettled: the tables that were written to meanwhile, so that no query can say.
    :param by: what read the rows.
    :raises BackupFailed: a table was not read, or not whole.
    :raises SnapshotRaced: a table was read that was not there.
    """
    if new := rows.keys() - {(table.schema, table.name) for table in relations}:
        raise SnapshotRaced(f"table {'.'.join(min(new))} was created while the backup ran")
    found = []
    for relation in relations:
        key = (relation.schema, relation.name)
        settled = relation.oid not in unsettled
        # The rows of an extension's tables come with it.
        if relation.extension is None:
            counted = contents[relation.oid].rows if settled else None
            check_rows(relation, rows.get(key), counted, by)
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
    return found


def large_objects_table(large_objects: LargeObjects) -> list[Table]:
    """Return the table that stands for all large objects; none where there are none."""
    if not large_objects.count:
        return []
    return [
        Table(
            schema=LARGE_OBJECTS[0],
            name=LARGE_OBJECTS[1],
            kind="large_objects",
            rows=large_objects.count,
            fingerprint=large_objects.fingerprint,
            bytes=large_objects.bytes,
        )
    ]


def check_rows(table: Relation, read: int | None, counted: int | None, by: Capabilities) -> None:
    """Compare what was counted of the rows that were read with what a query of its own says.

    :param counted: None where no query can say.
    :raises BackupFailed: they differ, or the rows were not read.
    """
    hint = "nothing of it was kept; run the backup again"
    if by.straight_into_vault:
        # Nobody else can have changed it.
        hint = _REPORT_HINT
    if read is None:
        raise BackupFailed(
            f"the {by.product} left out the data of table {table.schema}.{table.name}", hint=hint
        )
    if counted is not None and read != counted:
        raise BackupFailed(
            f"the {by.product} of table {table.schema}.{table.name} has {read:,} rows, the "
            f"snapshot {counted:,}",
            hint=hint,
        )


def comparable_lines(file: Path) -> list[bytes]:
    """Return the lines of a schema's dump that are the same each time it is made."""
    # pg_dump guards its text with \restrict and a token that is new each time.
    return [
        line
        for line in file.read_bytes().split(b"\n")
        if not line.startswith((b"\\restrict ", b"\\unrestrict "))
    ]


def sequences(
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
            raise SnapshotRaced(f"sequence {'.'.join(key)} was created or dropped")
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
            hint=_REPORT_HINT,
        )
    return tuple(states)
