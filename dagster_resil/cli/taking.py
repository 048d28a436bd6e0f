"""``resil backup`` and ``resil prove``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from dagster_resil.cli.options import (
    compare_option,
    endpoint_from,
    jobs_option,
    json_option,
    name_from,
    name_option,
    part_size_option,
    source_options,
    vault_option,
    work_dir_option,
)
from dagster_resil.cli.rendering import (
    EXIT_CODES,
    err,
    print_json,
    print_receipt,
    showing_progress,
)
from dagster_resil.process import DAY_S
from dagster_resil.records.text import size
from dagster_resil.vault import open_vault

if TYPE_CHECKING:
    from dagster_resil.backup.settings import Comparison


@click.command()
@source_options
@jobs_option
@work_dir_option
@click.option("--lock-timeout", type=float, default=60, show_default=True, help="Seconds.")
@compare_option
@part_size_option
@json_option
def prove(
    url: str | None,
    url_env: str | None,
    jobs: int,
    work_dir: Path | None,
    lock_timeout: float,
    compare: Comparison,
    part_size: int,
    as_json: bool,
) -> int:
    """Back up the database at URL into a temporary vault, restore it, compare.

    Nothing is kept and nothing is configured: it answers whether a backup of this database,
    taken now, would restore to exactly what the database holds.
    """
    from dagster_resil.backup.settings import BackupSettings
    from dagster_resil.backup.take import take_backup
    from dagster_resil.postgres.identity import database_bytes, read_identity
    from dagster_resil.verify.prove import VerifySettings, check_provable, verify_backup
    from dagster_resil.workspace import Workspace

    endpoint = endpoint_from(url, url_env)
    verify_settings = VerifySettings(jobs=jobs, work_dir=work_dir)
    with endpoint.connect(autocommit=True) as connection:
        check_provable(read_identity(connection), database_bytes(connection), verify_settings)
    with Workspace(work_dir) as space, showing_progress(as_json) as progress:
        vault = open_vault((space.path / "vault").as_uri())
        manifest = take_backup(
            endpoint,
            vault,
            name=name_from(endpoint),
            settings=BackupSettings(
                jobs=jobs,
                lock_timeout_s=lock_timeout,
                compare=compare,
                part_bytes=part_size,
                work_dir=work_dir,
            ),
            progress=progress,
        )
        receipt = verify_backup(
            vault,
            manifest,
            settings=verify_settings,
            progress=progress,
        )
    if as_json:
        document = receipt.to_json()
        document["seconds"]["backup"] = manifest.seconds["total"]
        print_json(document)
    else:
        print_receipt(receipt, with_tables=True)
    return EXIT_CODES[receipt.verdict]


@click.command()
@source_options
@vault_option()
@name_option
@jobs_option
@work_dir_option
@click.option("--lock-timeout", type=float, default=60, show_default=True, help="Seconds.")
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@compare_option
@part_size_option
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How often to begin again when the schema changes under the snapshot.",
)
@click.option(
    "--compress-level",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help="gzip's level: 1 costs a third of the time of 6 for a tenth more bytes.",
)
@click.option(
    "--accept-new-source",
    is_flag=True,
    help="The name stands for another server or database from now on.",
)
@json_option
def backup(
    url: str | None,
    url_env: str | None,
    vault: str,
    name: str | None,
    jobs: int,
    work_dir: Path | None,
    lock_timeout: float,
    timeout: float,
    compare: Comparison,
    part_size: int,
    attempts: int,
    compress_level: int,
    accept_new_source: bool,
    as_json: bool,
) -> int:
    """Take one backup of the database at URL and print its id."""
    from dagster_resil.backup.settings import BackupSettings
    from dagster_resil.backup.take import take_backup

    endpoint = endpoint_from(url, url_env)
    store = open_vault(vault)
    with showing_progress(as_json) as progress:
        manifest = take_backup(
            endpoint,
            store,
            name=name or name_from(endpoint),
            settings=BackupSettings(
                jobs=jobs,
                lock_timeout_s=lock_timeout,
                timeout_s=timeout,
                compare=compare,
                part_bytes=part_size,
                attempts=attempts,
                compress_level=compress_level,
                accept_new_source=accept_new_source,
                work_dir=work_dir,
            ),
            progress=progress,
        )
    if as_json:
        print_json(manifest.head())
    else:
        click.echo(manifest.backup_id)
        err.print(
            Text(
                f"{manifest.rows:,} rows in {manifest.table_count:,} tables, "
                f"{size(manifest.bytes)} in {manifest.seconds['total']:.1f} s; not proved yet: "
                f"resil verify {manifest.backup_id} --vault {vault}"
            )
        )
    return 0
