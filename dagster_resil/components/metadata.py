"""What the UI shows of a backup, a proof, a restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from dagster_resil.cloudsql.drill import DrillResult
from dagster_resil.records.base import format_time
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Check, Receipt, TableComparison
from dagster_resil.verify.checks import kind_of

_ROWS_SHOWN = 200
"""A table in the UI is a part of the event: thousands of rows would weigh on every page."""


def describe_backup(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    """Return the metadata of a materialization; the numbers can be plotted."""
    seconds = manifest.seconds.get("total", 0.0)
    tables = sorted(manifest.tables, key=lambda table: -table.rows)
    recovered: dict[str, dg.MetadataValue] = {}
    if manifest.left_out:
        recovered["left_out"] = dg.MetadataValue.text("; ".join(manifest.left_out))
    if manifest.recovered is not None:
        recovered["recovered_from"] = dg.MetadataValue.text(
            f"{manifest.recovered.instance}, recovered to its state of "
            f"{format_time(manifest.recovered.moment)}"
        )
    return recovered | {
        "backup_id": dg.MetadataValue.text(manifest.backup_id),
        "dagster/row_count": dg.MetadataValue.int(manifest.rows),
        "rows": dg.MetadataValue.int(manifest.rows),
        "tables_count": dg.MetadataValue.int(manifest.table_count),
        "bytes": dg.MetadataValue.int(manifest.bytes),
        "database_bytes": dg.MetadataValue.int(manifest.database_bytes),
        "seconds": dg.MetadataValue.float(seconds),
        "bytes_per_second": dg.MetadataValue.float(
            round(manifest.database_bytes / seconds, 1) if seconds else 0.0
        ),
        "snapshot_at": dg.MetadataValue.timestamp(manifest.snapshot.taken_at),
        "lsn": dg.MetadataValue.text(manifest.snapshot.lsn),
        "late": dg.MetadataValue.bool(bool(manifest.partition and manifest.partition.late)),
        "server_version": dg.MetadataValue.text(manifest.source.server_version),
        "engine": dg.MetadataValue.text(manifest.engine),
        "tables": dg.MetadataValue.table(
            records=[
                dg.TableRecord(
                    {
                        "table": table.title,
                        "rows": table.rows,
                        "bytes": table.bytes,
                        "fingerprint": table.fingerprint,
                    }
                )
                for table in tables[:_ROWS_SHOWN]
            ],
            schema=_schema(table="string", rows="int", bytes="int", fingerprint="string"),
        ),
    }


def describe_check(check: Check, receipt: Receipt) -> dict[str, dg.MetadataValue]:
    """Return the metadata of one check's evaluation."""
    metadata: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(str(check.verdict)),
        "summary": dg.MetadataValue.text(check.summary),
        "backup_id": dg.MetadataValue.text(receipt.backup_id),
    }
    if check.details:
        text = "\n".join(f"    {line}" for item in check.details for line in item.split("\n"))
        metadata["details"] = dg.MetadataValue.md(text)
    kind = kind_of(check.name)
    shows = kind.shows if kind is not None else None
    if shows == "tables" and receipt.tables:
        metadata["tables"] = describe_comparison(receipt.tables)
    if shows == "restore":
        metadata |= describe_seconds(receipt.seconds)
        if receipt.isolation:
            metadata["isolation"] = dg.MetadataValue.text("; ".join(receipt.isolation))
        metadata["not_checked"] = dg.MetadataValue.text("; ".join(receipt.not_checked))
    return metadata


def describe_drill(drilled: DrillResult) -> dict[str, dg.MetadataValue]:
    """Return the metadata of a point-in-time drill's evaluation."""
    metadata: dict[str, dg.MetadataValue] = {
        "verdict": dg.MetadataValue.text(str(drilled.check.verdict)),
        "summary": dg.MetadataValue.text(drilled.check.summary),
        "recoverable_from": dg.MetadataValue.timestamp(drilled.window.earliest),
        "recoverable_to": dg.MetadataValue.timestamp(drilled.window.latest),
        "recovery_point_seconds": dg.MetadataValue.float(round(drilled.lag_s, 1)),
    }
    if drilled.failure is not None:
        metadata["failure"] = dg.MetadataValue.text(drilled.failure.message)
    receipt = drilled.receipt
    if receipt is not None:
        metadata |= describe_seconds(receipt.seconds)
        metadata["tables"] = describe_comparison(receipt.tables)
        metadata["not_checked"] = dg.MetadataValue.text("; ".join(receipt.not_checked))
        metadata["backup_id"] = dg.MetadataValue.text(receipt.backup_id)
        if receipt.recovered is not None:
            metadata["moment"] = dg.MetadataValue.timestamp(receipt.recovered.moment)
    return metadata


def describe_seconds(seconds: Mapping[str, float]) -> dict[str, dg.MetadataValue]:
    """Return the durations, each a number that can be plotted."""
    return {
        f"{stage}_seconds": dg.MetadataValue.float(float(value)) for stage, value in seconds.items()
    }


def describe_comparison(tables: Sequence[TableComparison]) -> dg.MetadataValue:
    """Return source and restored tables side by side, those that differ first."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "table": row.title,
                    "rows_source": _number(row.rows_source),
                    "rows_restored": _number(row.rows_restored),
                    "bytes_source": _number(row.bytes_source),
                    "verdict": str(row.verdict),
                    "difference": row.difference,
                }
            )
            for row in tables[:_ROWS_SHOWN]
        ],
        schema=_schema(
            table="string",
            rows_source="string",
            rows_restored="string",
            bytes_source="string",
            verdict="string",
            difference="string",
        ),
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _schema(**columns: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(name=name, type=kind) for name, kind in columns.items()]
    )
