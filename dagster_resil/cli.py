"""The ``resil`` command.

Exit codes: 0 proved / done · 1 the verdict is FAIL, and nothing else · 2 wrong usage or
configuration · 3 INCONCLUSIVE · 4 taking, keeping or restoring failed, or an unexpected error.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table as Grid
from rich.text import Text

import dagster_resil
from dagster_resil import logs
from dagster_resil.errors import ConfigurationError, ReceiptLost, ResilError, TargetRefused
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.process import DAY_S, on_stop
from dagster_resil.progress import Meter, Progress, Step, lines
from dagster_resil.records.base import format_time
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Check, Receipt, TableComparison
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups, folder

if TYPE_CHECKING:
    from dagster_resil.backup.take import Comparison
    from dagster_resil.preflight import Purpose

EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
UNEXPECTED = 4
_COLOURS = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}

_NO_TERMINAL_COLUMNS = 4096
"""A line that goes into a file or a pipe is not broken: somebody greps and copies it."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else _NO_TERMINAL_COLUMNS)
err = Console(
    stderr=True, highlight=False, width=None if sys.stderr.isatty() else _NO_TERMINAL_COLUMNS
)


class Stopped(KeyboardInterrupt):
    """A signal asked us to end; every ``finally`` runs on the way out.

    It is an interrupt because psycopg cancels a running query on those.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# ---------------------------------------------------------------------------------------------
# What every command shares


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, logs on stderr."
    )(command)


def _vault_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--vault",
        required=required,
        envvar="RESIL_VAULT",
        show_envvar=True,
        metavar="URL",
        help="Where backups are: file:///path or gs://bucket/prefix.",
    )


def _source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--url-env",
        metavar="VARIABLE",
        help="Read the URL from this environment variable, so that no password is typed.",
    )(command)
    return click.argument("url", required=False)(command)


_name_option = click.option(
    "--name",
    metavar="NAME",
    help="The protected database's name for us: small letters, digits, underscores.",
)
_jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Connections that work at a time.",
)


class _Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes with a unit: 64MB, 64MiB, 67108864."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {
        "": 1,
        **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G"))},
        **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G"), 1)},
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        units = {unit.lower(): factor for unit, factor in self._UNITS.items()}
        found = re.fullmatch(r"([0-9]+) ?([a-z]*)", str(value).strip().lower())
        if not found or found[2] not in units:
            self.fail(f"{value!r} is no size; 64MB is one", param, ctx)
        return int(found[1]) * units[found[2]]


_compare_option = click.option(
    "--compare",
    type=click.Choice(["counts", "contents", "text"]),
    default="contents",
    show_default=True,
    help="What a restore has to equal: the number of rows only; their contents; or their contents "
    "by the text of every value, which finds the same changes without relying on the hash function "
    "of any type, at several times the cost.",
)
_part_size_option = click.option(
    "--part-size",
    type=_Bytes(),
    default="64MiB",
    show_default=True,
    metavar="SIZE",
    help="How much of a large table goes into one object; memory holds one part a job.",
)
_work_dir_option = click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="RESIL_WORK_DIR",
    show_envvar=True,
    help="A folder with room for archives and scratch servers.  [default: the temporary folder]",
)


def _endpoint(url: str | None, variable: str | None, *, target: bool = False) -> Endpoint:
    """Return the database that the user names: the source, or the target of a restore."""
    option = "--to-env" if target else "--url-env"
    if (url is None) == (variable is None):
        raise ConfigurationError(
            f"give the database{' to restore into' if target else ''} by its URL, or by the "
            "environment variable that holds it",
            hint=f"{'--to ' if target else ''}postgresql://user@host/name, or {option} VARIABLE",
        )
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ConfigurationError(
                f"the environment variable {variable} is not set",
                hint=f"export {variable}=postgresql://user:password@host/name",
            )
        url = value
    endpoint = Endpoint.parse(url or "")
    if endpoint.password:
        logs.register_secret(endpoint.password)
    if endpoint.password_in_url and variable is None:
        logging.getLogger(__name__).warning(
            "a password typed in a URL stays in the shell's history and shows in the list of "
            "processes; PGPASSWORD, a passfile or %s VARIABLE do not",
            option,
        )
    return endpoint


def _name_from(endpoint: Endpoint) -> str:
    """Make a name for us out of the database's own."""
    raw = endpoint.parameters.get("dbname") or endpoint.parameters.get("user") or "database"
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in raw.lower()).strip("_")
    return kept if kept[:1].isalpha() else f"db_{kept}".rstrip("_")


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    """Show a bar on a terminal; log lines elsewhere."""
    if as_json or not err.is_terminal:
        log = logging.getLogger("dagster_resil.progress")
        yield lines(lambda text: log.info("%s", text))
        return
    meter = Meter()
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[figures]}"),
        console=err,
        transient=True,
    ) as bars:
        task = bars.add_task("starting", total=None, figures="")

        def show(step: Step) -> None:
            bars.update(
                task,
                description=step.stage,
                completed=step.done or 0,
                total=step.total,
                figures=meter.figures(step),
            )

        yield show


def print_json(document: Any) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def size(count: int) -> str:
    """Return bytes as a person reads them: decimal units, three figures."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _verdict(verdict: str | Verdict | None) -> Text:
    text = str(verdict) if verdict else "not proved"
    return Text(text, style=_COLOURS.get(text, "dim"))


def _plain(text: str) -> Text:
    """Return text that rich must not read as markup: names may hold brackets and newlines."""
    return Text(text.replace("\n", "\\n"))


def print_checks(checks: tuple[Check, ...]) -> None:
    """Print the checks as a table."""
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for check in checks:
        grid.add_row(_verdict(check.verdict), Text(check.name), _plain(check.summary))
    out.print(grid)
    for check in checks:
        if check.verdict is not Verdict.PASS and len(check.details) > 1:
            out.print(Text(f"\n{check.name}:"))
            for line in check.details:
                out.print(Text("  " + line.replace("\n", "\n  ")))


def print_tables(tables: tuple[TableComparison, ...], *, most: int = 20) -> None:
    """Print the comparison, the differing tables first."""
    if not tables:
        return
    grid = Grid(box=None, pad_edge=False)
    for title, justify in (
        ("table", "left"),
        ("rows in source", "right"),
        ("restored", "right"),
        ("bytes", "right"),
        ("", "left"),
        ("", "left"),
    ):
        grid.add_column(title, justify=justify)  # type: ignore[arg-type]
    for row in tables[:most]:
        grid.add_row(
            _plain(row.title),
            "–" if row.rows_source is None else f"{row.rows_source:,}",
            "–" if row.rows_restored is None else f"{row.rows_restored:,}",
            "–" if row.bytes_source is None else size(row.bytes_source),
            _verdict(row.verdict),
            _plain(row.difference),
        )
    out.print(grid)
    if len(tables) > most:
        out.print(Text(f"… and {len(tables) - most:,} more tables", style="dim"))


def print_receipt(receipt: Receipt, *, with_tables: bool = False) -> None:
    """Print what a verification found."""
    if with_tables:
        print_tables(receipt.tables)
        out.print()
    print_checks(receipt.checks)
    seconds = receipt.seconds
    timing = ", ".join(
        f"{stage} {seconds[stage]:.1f} s" for stage in ("restore", "compare") if stage in seconds
    )
    line = Text("\n")
    line.append_text(_verdict(receipt.verdict))
    line.append(
        f"  {receipt.backup_id}  {receipt.rows:,} rows, {size(receipt.bytes)} in the vault"
        + (f"; {timing}" if timing else "")
    )
    out.print(line)
    for note in receipt.isolation:
        if note.startswith("not shut off"):
            err.print(Text(f"note: of the scratch server {note}", style="dim"))


# ---------------------------------------------------------------------------------------------
# The commands


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dagster_resil.__version__, prog_name="resil")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def cli(verbose: bool) -> None:
    """PostgreSQL backups that have already been restored."""
    logs.configure(logging.DEBUG if verbose else logging.INFO)


@cli.command()
@_source_options
@_jobs_option
@_work_dir_option
@click.option("--lock-timeout", type=float, default=60, show_default=True, help="Seconds.")
@_compare_option
@_part_size_option
@_json_option
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
    from dagster_resil.backup.take import BackupSettings, take_backup
    from dagster_resil.postgres.identity import database_bytes, read_identity
    from dagster_resil.verify.prove import VerifySettings, check_provable, verify_backup
    from dagster_resil.workspace import Workspace

    endpoint = _endpoint(url, url_env)
    verify_settings = VerifySettings(jobs=jobs, work_dir=work_dir)
    with endpoint.connect(autocommit=True) as connection:
        check_provable(read_identity(connection), database_bytes(connection), verify_settings)
    with Workspace(work_dir) as space, _progress(as_json) as progress:
        vault = open_vault((space.path / "vault").as_uri())
        manifest = take_backup(
            endpoint,
            vault,
            name=_name_from(endpoint),
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


@cli.command()
@_source_options
@_vault_option()
@_name_option
@_jobs_option
@_work_dir_option
@click.option("--lock-timeout", type=float, default=60, show_default=True, help="Seconds.")
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@_compare_option
@_part_size_option
@click.option(
    "--accept-new-source",
    is_flag=True,
    help="The name stands for another server or database from now on.",
)
@_json_option
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
    accept_new_source: bool,
    as_json: bool,
) -> int:
    """Take one backup of the database at URL and print its id."""
    from dagster_resil.backup.take import BackupSettings, take_backup

    endpoint = _endpoint(url, url_env)
    store = open_vault(vault)
    with _progress(as_json) as progress:
        manifest = take_backup(
            endpoint,
            store,
            name=name or _name_from(endpoint),
            settings=BackupSettings(
                jobs=jobs,
                lock_timeout_s=lock_timeout,
                timeout_s=timeout,
                compare=compare,
                part_bytes=part_size,
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


@cli.command()
@click.argument("backup_id", default="latest", metavar="[ID|latest]")
@_vault_option()
@_name_option
@_jobs_option
@_work_dir_option
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@_json_option
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
        with _progress(as_json) as progress:
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
        return _fail(error.to_json(), error.exit_code, as_json=False)
    if as_json:
        print_json(receipt.to_json())
    else:
        print_receipt(receipt)
    return EXIT_CODES[receipt.verdict]


@cli.command("list")
@_vault_option()
@_name_option
@_json_option
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
            _plain(manifest.source.database),
            f"{manifest.rows:,}",
            size(manifest.bytes),
            _verdict(entry.verdict),
        )
    out.print(grid)
    return 0


def _entry_json(entry: Any) -> dict[str, Any]:
    manifest: Manifest = entry.manifest
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


@cli.command()
@click.argument("backup_id", default="latest", metavar="[ID|latest|latest-proved]")
@_vault_option()
@_name_option
@_json_option
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
        **({"read by": "Cloud SQL's export"} if manifest.engine == "cloudsql_export" else {}),
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
        grid.add_row(Text(key, style="dim"), _plain(value))
    out.print(grid)
    out.print()
    tables = Grid(box=None, pad_edge=False)
    for title in ("table", "rows", "bytes"):
        tables.add_column(title, justify="left" if title == "table" else "right")
    for table in sorted(manifest.tables, key=lambda table: -table.rows)[:20]:
        tables.add_row(_plain(table.title), f"{table.rows:,}", size(table.bytes))
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


@cli.command()
@click.argument("backup_id", default="latest-proved", metavar="[ID|latest-proved]")
@_vault_option()
@_name_option
@click.option("--to", "target_url", metavar="URL", help="The database to restore into.")
@click.option("--to-env", metavar="VARIABLE", help="The environment variable with that URL.")
@_jobs_option
@_work_dir_option
@click.option("--no-roles", is_flag=True, help="Create no roles, apply no database settings.")
@click.option("--no-owners", is_flag=True, help="Leave owners and grants out.")
@click.option(
    "--replace",
    metavar="DATABASE",
    help="Overwrite a target that is not empty: type its name again.",
)
@click.option("--even-failed", is_flag=True, help="Restore a backup whose verification said FAIL.")
@click.option("--timeout", type=float, default=DAY_S, help="Seconds.  [default: a day]")
@_json_option
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

    target = _endpoint(target_url, to_env, target=True)
    store = open_vault(vault)
    backups = Backups(store)
    manifest = backups.resolve(backup_id, name)
    check_proved(backups, manifest, even_failed=even_failed)
    with _progress(as_json) as progress:
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
        line = Text("\n").append_text(_verdict(report.verdict))
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


@cli.command()
@_source_options
@_vault_option(required=False)
@_work_dir_option
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["backup", "restore"]),
    default="backup",
    show_default=True,
    help="What has to be possible: taking and proving backups, or restoring them alone, for which "
    "the vault need not be writable.",
)
@_json_option
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

    endpoint = _endpoint(url, url_env) if url or url_env else None
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


# ---------------------------------------------------------------------------------------------
# Starting and ending


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped(number)


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    """Ask again when the stop was raised where Python drops what is raised (in a finalizer)."""
    if isinstance(problem.exc_value, Stopped):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        number = problem.exc_value.number
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(problem)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    on_stop(_stop)
    sys.unraisablehook = _unraisable
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(words, as_json="--json" in words))


def run(words: list[str], *, as_json: bool) -> int:
    """Run one command; turn every ending into its exit code."""
    try:
        code = cli.main(words, prog_name="resil", standalone_mode=False)
        sys.stdout.flush()
    except ResilError as error:
        return _fail(error.to_json(), error.exit_code, as_json)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "resil"
        return _fail(
            {
                "code": "usage",
                "message": error.format_message(),
                "hint": f"see: {where} --help",
            },
            2,
            as_json,
        )
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Stopped) else error.__cause__
        name = signal.Signals(stop.number).name if isinstance(stop, Stopped) else "an interrupt"
        return _fail(
            {"code": "stopped", "message": f"stopped by {name}", "hint": "nothing is left behind"},
            UNEXPECTED,
            as_json,
        )
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNEXPECTED
    except Exception as error:  # noqa: BLE001 - a traceback's exit status 1 would read as FAIL
        path = _write_report(error)
        return _fail(
            {
                "code": "unexpected",
                "message": f"an unexpected error: {type(error).__name__}: {error}",
                "hint": f"please report it; the details are in {path}",
            },
            UNEXPECTED,
            as_json,
        )
    return code if isinstance(code, int) else 0


def _fail(document: dict[str, str], code: int, as_json: bool) -> int:
    document = {key: logs.redact(value) for key, value in document.items()}
    if as_json:
        print_json({"error": document})
    err.print(Text(f"resil: {document['message']}"), soft_wrap=True)
    if document["hint"]:
        err.print(Text(f"hint: {document['hint']}"), soft_wrap=True)
    return code


def _write_report(error: BaseException) -> str:
    import traceback

    text = logs.redact("".join(traceback.format_exception(error)))
    with tempfile.NamedTemporaryFile(
        "w", prefix="resil-error-", suffix=".txt", delete=False
    ) as file:
        file.write(text)
    return file.name


if __name__ == "__main__":
    main()
