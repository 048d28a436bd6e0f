"""``resil restore``."""

from __future__ import annotations

import logging
from pathlib import Path

import click
from rich.text import Text

from dagster_resil.cli.options import (
    endpoint_from,
    jobs_option,
    json_option,
    name_option,
    vault_option,
    work_dir_option,
)
from dagster_resil.cli.rendering import (
    EXIT_CODES,
    out,
    print_checks,
    print_json,
    print_tables,
    showing_progress,
    verdict_text,
)
from dagster_resil.errors import TargetRefused
from dagster_resil.process import DAY_S
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups


@click.command()
@click.argument("backup_id", default="latest-proved", metavar="[ID|latest-proved]")
@vault_option()
@name_option
@click.option("--to", "target_url", metavar="URL", help="The database to restore into.")
@click.option("--to-env", metavar="VARIABLE", help="The environment variable with that URL.")
@jobs_option
@work_dir_option
@click.option("--no-roles", is_flag=True, help="Create no roles, apply no database settings.")
@click.option("--no-owners", is_flag=True, help="Leave owners and grants out.")
@click.option(
    "--replace",
    metavar="DATABASE",
    help="Overwrite a target that is not empty: type its name again.",
)
@click.option("--even-failed", is_flag=True, help="Restore a backup whose verification said FAIL.")
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@json_option
def restore(
    backup_id: str,
    vault: str,
    name: str | None,
    target_url: str | None,
    to_env: str | None,
    jobs: int,
    work_dir: Path | None,
    no_roles: bool,
    no_owners: bool,
    replace: str | None,
    even_failed: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Restore a backup into the empty database at --to URL, and compare again."""
    from dagster_resil.restore import RestoreSettings, restore_backup

    target = endpoint_from(target_url, to_env, target=True)
    store = open_vault(vault)
    backups = Backups(store)
    manifest = backups.resolve(backup_id, name)
    check_proved(backups, manifest, even_failed=even_failed)
    with showing_progress(as_json) as progress:
        report = restore_backup(
            store,
            manifest,
            target,
            settings=RestoreSettings(
                jobs=jobs,
                roles=not no_roles,
                owners=not no_owners,
                replace=replace,
                timeout_s=timeout,
                work_dir=work_dir,
            ),
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
    else:
        print_tables(report.tables)
        out.print()
        print_checks(report.checks)
        line = Text("\n").append_text(verdict_text(report.verdict))
        line.append(
            f"  {report.backup_id} restored into {target.describe()}: {report.rows:,} rows "
            f"in {report.seconds['total']:.1f} s"
        )
        out.print(line)
    return EXIT_CODES[report.verdict]


def check_proved(backups: Backups, manifest: Manifest, *, even_failed: bool) -> None:
    """Refuse a backup that is known to be bad; warn of one that nobody has proved.

    :raises TargetRefused: its verification said FAIL.
    """
    verdict = backups.verdict(manifest.backup_id)
    if verdict is Verdict.FAIL and not even_failed:
        raise TargetRefused(
            f"the verification of {manifest.backup_id} said FAIL",
            hint="see what is wrong with resil show; use another backup, or --even-failed",
        )
    if verdict is not Verdict.PASS:
        logging.getLogger(__name__).warning(
            "%s is not proved (%s); the restored database is compared with the source's figures",
            manifest.backup_id,
            verdict or "never verified",
        )
