"""``resil verify``."""

from __future__ import annotations

from pathlib import Path

import click

from dagster_resil.cli.options import (
    jobs_option,
    json_option,
    name_option,
    vault_option,
    work_dir_option,
)
from dagster_resil.cli.rendering import (
    EXIT_CODES,
    print_error,
    print_json,
    print_receipt,
    showing_progress,
)
from dagster_resil.errors import ReceiptLost
from dagster_resil.process import DAY_S
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups


@click.command()
@click.argument("backup_id", default="latest", metavar="[ID|latest]")
@vault_option()
@name_option
@jobs_option
@work_dir_option
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@json_option
def verify(
    backup_id: str,
    vault: str,
    name: str | None,
    jobs: int,
    work_dir: Path | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Prove one backup: restore it into a scratch server and compare."""
    from dagster_resil.verify.prove import VerifySettings, verify_backup

    store = open_vault(vault)
    manifest = Backups(store).resolve(backup_id, name)
    try:
        with showing_progress(as_json) as progress:
            receipt = verify_backup(
                store,
                manifest,
                settings=VerifySettings(jobs=jobs, timeout_s=timeout, work_dir=work_dir),
                progress=progress,
            )
    except ReceiptLost as error:
        # What was found is the user's all the same.
        if as_json:
            print_json(error.receipt.to_json() | {"error": error.to_json()})
        else:
            print_receipt(error.receipt)
        return print_error(error.to_json(), error.exit_code, as_json=False)
    if as_json:
        print_json(receipt.to_json())
    else:
        print_receipt(receipt)
    return EXIT_CODES[receipt.verdict]
