"""``resil list`` and ``resil show``."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table as Grid
from rich.text import Text

from dagster_resil.cli.options import (
    json_option,
    name_option,
    vault_option,
)
from dagster_resil.cli.rendering import (
    err,
    out,
    plain,
    print_checks,
    print_json,
    verdict_text,
)
from dagster_resil.records.base import format_time
from dagster_resil.records.text import size
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.layout import folder
from dagster_resil.vault.listing import Entry


@click.command("list")
@vault_option()
@name_option
@json_option
def list_(vault: str, name: str | None, as_json: bool) -> int:
    """List the whole backups of a vault: age, size, verdict."""
    listing = Backups(open_vault(vault)).entries(name)
    log = logging.getLogger(__name__)
    for problem in listing.problems:
        log.warning("%s", problem.message)
    if as_json:
        print_json(
            {
                "backups": [_entry_json(entry) for entry in listing.backups],
                "problems": [
                    {"message": problem.message, "hint": problem.hint}
                    for problem in listing.problems
                ],
            }
        )
        return 0
    if not listing.backups and listing.problems:
        count = len(listing.problems)
        err.print(
            Text(
                f"no backup here can be read: {count:,} manifest{'' if count == 1 else 's'} "
                "damaged, out of reach or of a newer release (above)\n"
                f"hint: {listing.problems[0].hint}"
            )
        )
        return 0
    if not listing.backups:
        err.print(Text("no backups here yet; take one with: resil backup URL --vault VAULT"))
        return 0
    grid = Grid(box=None, pad_edge=False)
    for title in ("backup", "age", "database", "rows", "size", "verdict"):
        grid.add_column(title, justify="right" if title in ("rows", "size", "age") else "left")
    for entry in listing.backups:
        manifest = entry.manifest
        grid.add_row(
            manifest.backup_id,
            _age(manifest.snapshot.taken_at),
            plain(manifest.source.database),
            f"{manifest.rows:,}",
            size(manifest.bytes),
            verdict_text(entry.verdict),
        )
    out.print(grid)
    return 0


def _entry_json(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    head = manifest.head()
    return {
        "backup_id": manifest.backup_id,
        "name": manifest.name,
        "database": manifest.source.database,
        "taken_at": head["snapshot"]["taken_at"],
        "partition": head["partition"],
        "bytes": manifest.bytes,
        "rows": manifest.rows,
        "tables": manifest.table_count,
        "verdict": str(entry.verdict) if entry.verdict else None,
        "verified_at": (
            entry.verified_at.isoformat().replace("+00:00", "Z") if entry.verified_at else None
        ),
    }


def _age(moment: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


@click.command()
@click.argument("backup_id", default="latest", metavar="[ID|latest|latest-proved]")
@vault_option()
@name_option
@json_option
def show(backup_id: str, vault: str, name: str | None, as_json: bool) -> int:
    """Show one backup: what it holds, and every verification of it."""
    backups = Backups(open_vault(vault))
    manifest = backups.resolve(backup_id, name)
    receipts = backups.receipts(manifest.backup_id)
    if as_json:
        print_json(
            manifest.to_json()
            | {
                "rows": manifest.rows,
                "bytes": manifest.bytes,
                "receipts": [receipt.to_json() for receipt in receipts],
            }
        )
        return 0
    source = manifest.source
    where = f"{source.host}:{source.port}"
    facts = {
        "backup": manifest.backup_id,
        "database": f"{source.database} on {source.instance or where}, "
        f"PostgreSQL {source.server_version}",
        **(
            {"read from": f"a clone that was recovered to {format_time(manifest.recovered.moment)}"}
            if manifest.recovered
            else {}
        ),
        "read by": manifest.capabilities.title,
        "snapshot": f"{manifest.head()['snapshot']['taken_at']} at {manifest.snapshot.lsn}",
        "partition": (
            "none"
            if manifest.partition is None
            else manifest.partition.key + (" (late)" if manifest.partition.late else "")
        ),
        "size": f"{manifest.rows:,} rows, {size(manifest.database_bytes)} in the database, "
        f"{size(manifest.bytes)} in {len(manifest.objects):,} objects of the vault",
        "taken in": f"{manifest.seconds.get('total', 0):.1f} s",
        "folder": f"{vault.rstrip('/')}/{folder(manifest.backup_id)}",
        **({"left out": "; ".join(manifest.left_out)} if manifest.left_out else {}),
    }
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for key, value in facts.items():
        grid.add_row(Text(key, style="dim"), plain(value))
    out.print(grid)
    out.print()
    tables = Grid(box=None, pad_edge=False)
    for title in ("table", "rows", "bytes"):
        tables.add_column(title, justify="left" if title == "table" else "right")
    for table in sorted(manifest.tables, key=lambda table: -table.rows)[:20]:
        tables.add_row(plain(table.title), f"{table.rows:,}", size(table.bytes))
    out.print(tables)
    if len(manifest.tables) > 20:
        out.print(Text(f"… and {len(manifest.tables) - 20:,} more tables", style="dim"))
    for receipt in receipts:
        out.print()
        out.print(Text(f"verified {receipt.to_json()['verified_at']}", style="dim"))
        print_checks(receipt.checks)
    if not receipts:
        out.print(
            Text(f"\nnot proved yet: resil verify {manifest.backup_id} --vault {vault}"),
            soft_wrap=True,
        )
    return 0
