"""Manifests and receipts as small as they come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dagster_resil.records.base import FORMAT
from dagster_resil.records.expected import INVENTORY_OBJECT, SCHEMA_OBJECT
from dagster_resil.records.manifest import (
    Collation,
    Expectations,
    Manifest,
    Partition,
    Snapshot,
    Source,
    StoredObject,
    Table,
)
from dagster_resil.records.receipt import Check, Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.vault.layout import new_backup_id

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

COLLATION = Collation(provider="libc", collate="C.UTF-8", ctype="C.UTF-8", version="2.36")


def a_source(system_identifier: str = "7400000000000000001", database: str = "shop") -> Source:
    return Source(
        host="db.example",
        port=5432,
        database=database,
        server_version="15.18",
        system_identifier=system_identifier,
        encoding="UTF8",
        collation=COLLATION,
        bootstrap_role="postgres",
    )


def a_manifest(
    backup_id: str,
    objects: tuple[StoredObject, ...] = (),
    *,
    taken_at: datetime = NOON,
    source: Source | None = None,
    partition: Partition | None = None,
) -> Manifest:
    return Manifest(
        format=FORMAT,
        backup_id=backup_id,
        name=backup_id.split("-")[0],
        partition=partition,
        source=source or a_source(),
        snapshot=Snapshot(id="00000003-0000001B-1", lsn="0/1949E48", taken_at=taken_at),
        tools={"pg_dump": "15.18"},
        started_at=taken_at,
        finished_at=taken_at + timedelta(seconds=2),
        seconds={"total": 2.0, "dump": 1},
        tables=(
            Table(
                schema="public",
                name='naïve "table"\n',
                rows=3,
                fingerprint="-12",
                bytes=8192,
                parts=tuple(item.name for item in objects),
            ),
        ),
        objects=objects,
        database_bytes=1 << 20,
        expectations=Expectations(schema_object=SCHEMA_OBJECT, inventory_object=INVENTORY_OBJECT),
        settings={"jobs": 2, "grace_s": 0.5, "work_dir": None, "accept": False},
    )


def a_partition(day: datetime) -> Partition:
    return Partition(key=f"{day:%Y-%m-%d}", start=day, end=day + timedelta(days=1))


def committed(
    vault: Vault,
    name: str = "shop",
    *,
    taken_at: datetime = NOON,
    source: Source | None = None,
    partition: Partition | None = None,
) -> Manifest:
    """Put a small backup into a vault."""
    backups = Backups(vault)
    backup_id = new_backup_id(name, taken_at)
    item = backups.put_object(backup_id, "archive/toc.dat", [b"PGDMP"])
    manifest = a_manifest(backup_id, (item,), taken_at=taken_at, source=source, partition=partition)
    backups.commit(manifest)
    return manifest


def a_receipt(
    manifest: Manifest, verdict: Verdict, *, verified_at: datetime = NOON + timedelta(hours=1)
) -> Receipt:
    return Receipt(
        format=FORMAT,
        backup_id=manifest.backup_id,
        name=manifest.name,
        database=manifest.source.database,
        verdict=verdict,
        checks=(Check(name="archive_intact", verdict=verdict, summary="1 object"),),
        seconds={"total": 1.5},
        rows=3,
        bytes=5,
        verified_at=verified_at,
        server_version="15.18",
        tools={"pg_restore": "15.18"},
    )
