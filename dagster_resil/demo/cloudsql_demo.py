"""``make demo-cloudsql``: both ways to back up a database in Cloud SQL, its past, and a drill."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from dagster_resil import logs
from dagster_resil.demo.laptop import CLOUD_DAYS, CLOUD_VAULT, FOLDER, Laptop, run_laptop
from dagster_resil.errors import BackupFailed, ResilError
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.process import Child, on_stop
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups

_DAGSTER_TIMEOUT_S = 300

console = Console(highlight=False)


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(laptop: Laptop, *words: str) -> dict[str, str]:
    """Have Dagster materialize something; return what it says of it.

    :raises BackupFailed: the run failed.
    """
    with Child(
        [
            # Its storage ends with us, and without that it hears no other signal.
            *dies_with_us("KILL"),
            sys.executable,
            "-m",
            "dagster_resil.demo.materialize",
            *words,
        ],
        env={**os.environ, **laptop.environment},
        cwd=laptop.folder,
        name="dagster",
    ) as child:
        done = child.wait(timeout_s=_DAGSTER_TIMEOUT_S)
    if not done.ok:
        raise BackupFailed(
            f"the run in Dagster failed: {done.complaint[-3000:]}",
            hint="the words above are Dagster's; make clean begins anew",
        )
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def demonstrate(folder: Path) -> bool:
    """Run the demonstration; return whether every verdict is PASS."""
    grid = Grid(box=None, pad_edge=False)
    for title in ("what", "state of", "rows", "seconds", "verdict"):
        grid.add_column(title, justify="right" if title in ("rows", "seconds") else "left")
    all_passed = True

    def note(what: str, moment: str, rows: str, begun: float, verdict: str) -> None:
        nonlocal all_passed
        all_passed = all_passed and verdict == "PASS"
        colour = "green" if verdict == "PASS" else "bold red"
        seconds = f"{time.monotonic() - begun:.1f}"
        grid.add_row(what, moment, rows, seconds, Text(verdict, style=colour))
        console.print(Text("  ✓ ", "green").append(what, "default"), soft_wrap=True)

    begun = time.monotonic()
    with (
        console.status("starting two regions of a local Cloud SQL") as status,
        run_laptop(folder, databases=(), vault=CLOUD_VAULT, cloud_sql=True) as laptop,
    ):
        if laptop.cloud is not None:
            os.environ.update(laptop.cloud.environment())
        backups = Backups(open_vault(laptop.vault))
        console.print(
            Text("  ✓ ", "green").append(
                "Cloud SQL runs: shop in europe-west1, its replica in us-east1, "
                f"with {CLOUD_DAYS} days of a past ({time.monotonic() - begun:.1f} s)",
                "default",
            ),
            soft_wrap=True,
        )

        def back_up(what: str, name: str, *partition: str) -> None:
            status.update(what)
            begun = time.monotonic()
            found = _run(laptop, name, *partition)
            manifest = backups.load(found["backup_id"])
            receipt = backups.receipts(manifest.backup_id)[-1]
            moment = f"{manifest.snapshot.taken_at:%Y-%m-%d %H:%M:%S}"
            note(what, moment, f"{manifest.rows:,}", begun, str(receipt.verdict))

        back_up("a backup by a snapshot", "cloud_shop")
        today = datetime.now(UTC).date()
        for days in range(CLOUD_DAYS, 0, -1):
            day = f"{today - timedelta(days=days)}"
            back_up(f"{day}, recovered in a clone", "cloud_shop", day)
        back_up("an export of a clone", "exported_shop")
        status.update("recovering a clone to a moment that a backup knows")
        begun = time.monotonic()
        drilled = _run(laptop, "cloud_shop", "drill")
        note("a drill of recovery", "", "", begun, drilled["verdict"])
    console.print()
    console.print(grid)
    console.print(f"\nThe drill: {drilled['summary']}", soft_wrap=True)
    return all_passed


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path(FOLDER), show_default=True)
def main(folder: Path) -> None:
    """Back up a database in a local Cloud SQL in both ways, its past, and try its recovery."""
    logs.configure(logging.WARNING)
    on_stop(_end)
    console.print("Cloud SQL on a laptop: backups that have already been restored.\n")
    try:
        passed = demonstrate(folder)
    except ResilError as error:
        console.print(Text(f"\nresil: {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("\nended; nothing runs any more")
        sys.exit(130)
    if passed:
        console.print("\nEverything is proved. In the UI: make dev")
        return
    console.print("\nA verdict is not what it has to be: please report this.")
    sys.exit(4)


if __name__ == "__main__":
    main()
