"""``make demo``: one backup taken through Dagster and proved, and two damaged copies caught."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from dagster_resil import logs
from dagster_resil.demo.damage import (
    CloudBackup,
    Damageable,
    LocalBackup,
    change_one_value,
    flip_one_byte,
)
from dagster_resil.demo.laptop import FOLDER, Laptop, run_laptop
from dagster_resil.errors import BackupFailed, ResilError
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.process import Child, on_stop
from dagster_resil.progress import Step
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.text import size
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import bucket_and_prefix, open_vault
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.verify.prove import verify_backup

_DAGSTER_TIMEOUT_S = 300
_FULL_NAME = 3
"""The place of that column in a customer's row."""

console = Console(highlight=False)


@dataclass(frozen=True)
class Proof:
    """One line of the final table."""

    what: str
    manifest: Manifest
    receipt: Receipt
    wanted: Verdict

    @property
    def as_wanted(self) -> bool:
        """Return whether the verdict is what it has to be."""
        return self.receipt.verdict is self.wanted


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _materialize(laptop: Laptop, tell: Callable[[str], None]) -> Manifest:
    """Materialize the open partition of ``shop/backup`` in Dagster, checks and all.

    :raises BackupFailed: the run failed.
    """
    with Child(
        [
            # Its storage ends with us, and without that it hears no other signal.
            *dies_with_us("KILL"),
            sys.executable,
            "-m",
            "dagster_resil.demo.materialize",
            "shop",
        ],
        env={**os.environ, **laptop.environment},
        cwd=laptop.folder,
        name="dagster",
    ) as child:
        begun = time.monotonic()

        def watch() -> None:
            tell(f"Dagster materializes shop/backup · {time.monotonic() - begun:.0f} s")

        done = child.wait(timeout_s=_DAGSTER_TIMEOUT_S, watch=watch)
    if not done.ok:
        raise BackupFailed(
            f"the run in Dagster failed: {done.complaint[-3000:]}",
            hint="the words above are Dagster's; make clean begins anew",
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Backups(open_vault(laptop.vault)).load(found["backup_id"])


@contextmanager
def _copy(laptop: Laptop, manifest: Manifest, name: str) -> Iterator[tuple[Damageable, str]]:
    """Copy one backup into a vault of its own; yield it and the vault's address."""
    if laptop.cloud is not None:
        vault = GcsVault(*bucket_and_prefix(laptop.vault))
        # The account that takes backups could neither change nor remove the copy.
        with laptop.cloud.client("owner") as client:
            original = CloudBackup(client.bucket(vault.bucket_name), vault.prefix, manifest)
            yield original.copy(name), f"gs://{vault.bucket_name}/{name}"
            original.remove(name)
        return
    copy = laptop.folder / name
    shutil.rmtree(copy, ignore_errors=True)
    local = LocalBackup(laptop.vault_folder, manifest)
    made = LocalBackup(copy, manifest)
    shutil.copytree(local.file("."), made.file("."))
    made.manifest_file.parent.mkdir(parents=True)
    shutil.copy(local.manifest_file, made.manifest_file)
    yield made, copy.as_uri()
    shutil.rmtree(copy, ignore_errors=True)


def _verify(copy: Damageable, vault: str, tell: Callable[[str], None], what: str) -> Receipt:
    def show(step: Step) -> None:
        tell(f"{what} · {step.stage}")

    return verify_backup(open_vault(vault), copy.reload(), progress=show)


def demonstrate(folder: Path, vault: str | None = None) -> list[Proof]:
    """Run the demonstration; its data stays in ``folder``.

    :param vault: the vault's address; by default it is in the folder.
    """
    with console.status("starting") as status:

        def tell(text: str) -> None:
            status.update(text)

        def done(text: str) -> None:
            console.print(Text("  ✓ ", "green").append(text, "default"), soft_wrap=True)

        begun = time.monotonic()
        tell("starting PostgreSQL and filling the database shop")
        with run_laptop(folder, databases=("shop",), vault=vault) as laptop:
            if laptop.cloud is not None:
                os.environ.update(laptop.cloud.environment())
                done(
                    f"the local cloud runs, with bucket {bucket_and_prefix(laptop.vault)[0]} "
                    "(made, unless it was there)"
                )
            done(
                f"PostgreSQL {laptop.programs.version} runs, database shop is filled "
                f"({time.monotonic() - begun:.1f} s)"
            )
            begun = time.monotonic()
            manifest = _materialize(laptop, tell)
            backups = Backups(open_vault(laptop.vault))
            receipt = backups.receipts(manifest.backup_id)[-1]
            partition = manifest.partition.key if manifest.partition else "none"
            done(
                f"Dagster materialized shop/backup, partition {partition}: taken, restored and "
                f"compared ({time.monotonic() - begun:.1f} s)"
            )
            proofs = [Proof("as taken", manifest, receipt, Verdict.PASS)]

            with _copy(laptop, manifest, "damaged-value") as (changed, place):
                change_one_value(changed, "public", "customers", *_one_value(changed))
                found = _verify(changed, place, tell, "verifying a copy with one value changed")
            proofs.append(Proof("one value changed", manifest, found, Verdict.FAIL))
            done(
                "verified a copy with one value of public.customers changed, every checksum fitting"
            )

            with _copy(laptop, manifest, "damaged-bit") as (flipped, place):
                flip_one_byte(flipped, "public", "orders")
                found = _verify(flipped, place, tell, "verifying a copy with one bit flipped")
            proofs.append(Proof("one bit flipped", manifest, found, Verdict.FAIL))
            done("verified a copy with one bit of public.orders flipped")
    return proofs


def _one_value(backup: Damageable) -> tuple[bytes, bytes]:
    """Return the first customer's row, and the same with another name in it."""
    row = backup.data_of(backup.table("public", "customers")).split(b"\n", 1)[0]
    fields = row.split(b"\t")
    fields[_FULL_NAME] += b" Jr"
    return row, b"\t".join(fields)


def print_proofs(proofs: list[Proof]) -> None:
    """Print the verdicts as a table."""
    grid = Grid(box=None, pad_edge=False)
    for title in ("backup", "tables", "rows", "in vault", "take", "restore", "compare", "verdict"):
        grid.add_column(title, justify="left" if title in ("backup", "verdict") else "right")
    for proof in proofs:
        seconds = proof.receipt.seconds
        colour = "green" if proof.receipt.verdict is Verdict.PASS else "bold red"
        grid.add_row(
            proof.what,
            f"{proof.manifest.table_count:,}",
            f"{proof.manifest.rows:,}",
            size(proof.manifest.bytes),
            f"{proof.manifest.seconds['total']:.1f} s",
            f"{seconds['restore']:.1f} s" if "restore" in seconds else "–",
            f"{seconds['compare']:.1f} s" if "compare" in seconds else "–",
            Text(str(proof.receipt.verdict), style=colour),
        )
    console.print()
    console.print(grid)
    for proof in proofs:
        for check in proof.receipt.checks:
            if check.verdict is Verdict.FAIL:
                line = Text(f"\n{proof.what}: ").append(check.name, "bold")
                console.print(line.append(f" FAIL\n  {check.summary}"), soft_wrap=True)


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path(FOLDER), show_default=True)
@click.option(
    "--vault", metavar="URL", help="gs://bucket/prefix has the local cloud keep the backup."
)
def main(folder: Path, vault: str | None) -> None:
    """Take a backup through Dagster, prove it, and catch two damaged copies of it."""
    logs.configure(logging.WARNING)
    on_stop(_end)
    console.print("PostgreSQL backups that have already been restored.\n")
    in_cloud = vault is not None and vault.lower().startswith("gs:")
    try:
        proofs = demonstrate(folder, vault)
    except ResilError as error:
        console.print(Text(f"\nresil: {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("\nended; nothing runs any more")
        sys.exit(130)
    print_proofs(proofs)
    if all(proof.as_wanted for proof in proofs):
        console.print("\nThe backup is proved; both damaged copies were refused.")
        if in_cloud:
            cloud = folder / "cloud"
            console.print(
                "The damaged copies were beside it in the bucket, below damaged-value/ and "
                "damaged-bit/; they are removed.\n"
                "Look at it again:\n"
                f"  .venv/bin/python -m dagster_resil.localcloud --folder {cloud} &"
                "   # wait for its line\n"
                f"  . {cloud / 'identities' / 'backup.env'}\n"
                f"  .venv/bin/resil show --vault {vault}",
                soft_wrap=True,
            )
        else:
            console.print(
                "Look at it again:  .venv/bin/resil show --vault "
                f"{vault or (folder / 'vault').absolute().as_uri()}",
                soft_wrap=True,
            )
        console.print("In the UI:         make dev")
        return
    console.print("\nA verdict is not what it has to be: please report this.")
    sys.exit(4)


if __name__ == "__main__":
    main()
