"""``resil check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from dagster_resil.cli.options import (
    endpoint_from,
    json_option,
    source_options,
    vault_option,
    work_dir_option,
)
from dagster_resil.cli.rendering import (
    out,
    print_json,
)

if TYPE_CHECKING:
    from dagster_resil.preflight import Purpose


@click.command()
@source_options
@vault_option(required=False)
@work_dir_option
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["backup", "restore"]),
    default="backup",
    show_default=True,
    help="What has to be possible: taking and proving backups, or restoring them alone, for which "
    "the vault need not be writable.",
)
@json_option
def check(
    url: str | None,
    url_env: str | None,
    vault: str | None,
    work_dir: Path | None,
    purpose: Purpose,
    as_json: bool,
) -> int:
    """Look whether this machine, a database and a vault are ready for backups and proofs."""
    from dagster_resil.preflight import preflight

    endpoint = endpoint_from(url, url_env) if url or url_env else None
    findings = preflight(endpoint, vault, work_dir, purpose)
    worst = max((finding.exit_code for finding in findings), default=0)
    if as_json:
        print_json(
            {
                "ready": worst == 0,
                "findings": [finding.to_json() for finding in findings],
            }
        )
        return worst
    for finding in findings:
        mark = Text("ok  ", "green") if finding.ok else Text("no  ", "bold red")
        if finding.ok and finding.hint:
            mark = Text("note", "yellow")
        out.print(mark.append(f" {finding.what}", "default"))
        if finding.hint:
            out.print(Text(f"     hint: {finding.hint}", style="dim"))
    return worst
