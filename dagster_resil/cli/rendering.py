"""What the commands print: tables, verdicts and progress on a terminal, JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table as Grid
from rich.text import Text

from dagster_resil import logs
from dagster_resil.progress import Meter, Progress, Step, lines
from dagster_resil.records.receipt import Check, Receipt, TableComparison
from dagster_resil.records.text import size
from dagster_resil.records.verdict import Verdict

EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
_COLOURS = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}

_NO_TERMINAL_COLUMNS = 4096
"""A line that goes into a file or a pipe is not broken: somebody greps and copies it."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else _NO_TERMINAL_COLUMNS)
err = Console(
    stderr=True, highlight=False, width=None if sys.stderr.isatty() else _NO_TERMINAL_COLUMNS
)


@contextmanager
def showing_progress(as_json: bool) -> Iterator[Progress]:
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


def verdict_text(verdict: str | Verdict | None) -> Text:
    """Return a verdict in its colour; "not proved" where there is none."""
    text = str(verdict) if verdict else "not proved"
    return Text(text, style=_COLOURS.get(text, "dim"))


def plain(text: str) -> Text:
    """Return text that rich must not read as markup: names may hold brackets and newlines."""
    return Text(text.replace("\n", "\\n"))


def print_checks(checks: tuple[Check, ...]) -> None:
    """Print the checks as a table."""
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for check in checks:
        grid.add_row(verdict_text(check.verdict), Text(check.name), plain(check.summary))
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
            plain(row.title),
            "–" if row.rows_source is None else f"{row.rows_source:,}",
            "–" if row.rows_restored is None else f"{row.rows_restored:,}",
            "–" if row.bytes_source is None else size(row.bytes_source),
            verdict_text(row.verdict),
            plain(row.difference),
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
    line.append_text(verdict_text(receipt.verdict))
    line.append(
        f"  {receipt.backup_id}  {receipt.rows:,} rows, {size(receipt.bytes)} in the vault"
        + (f"; {timing}" if timing else "")
    )
    out.print(line)
    for note in receipt.isolation:
        if note.startswith("not shut off"):
            err.print(Text(f"note: of the scratch server {note}", style="dim"))


def print_error(document: dict[str, str], code: int, as_json: bool) -> int:
    """Print an error, without a secret, and return the exit code."""
    document = {key: logs.redact(value) for key, value in document.items()}
    if as_json:
        print_json({"error": document})
    err.print(Text(f"resil: {document['message']}"), soft_wrap=True)
    if document["hint"]:
        err.print(Text(f"hint: {document['hint']}"), soft_wrap=True)
    return code
