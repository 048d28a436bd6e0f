"""The ``resil`` command: where it starts and how it ends.

Exit codes: 0 proved / done · 1 the verdict is FAIL, and nothing else · 2 wrong usage or
configuration · 3 INCONCLUSIVE · 4 taking, keeping or restoring failed, or an unexpected error.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from typing import Any, NoReturn

import click

import dagster_resil
from dagster_resil import logs
from dagster_resil.cli.checking import check
from dagster_resil.cli.listing import list_, show
from dagster_resil.cli.options import SETTINGS
from dagster_resil.cli.proving import verify
from dagster_resil.cli.rendering import print_error
from dagster_resil.cli.restoring import restore
from dagster_resil.cli.taking import backup, prove
from dagster_resil.errors import ResilError, name_settings
from dagster_resil.process import on_stop

UNEXPECTED = 4


class Stopped(KeyboardInterrupt):
    """A signal asked us to end; every ``finally`` runs on the way out.

    It is an interrupt because psycopg cancels a running query on those.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dagster_resil.__version__, prog_name="resil")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def cli(verbose: bool) -> None:
    """PostgreSQL backups that have already been restored."""
    logs.configure(logging.DEBUG if verbose else logging.INFO)


for command in (prove, backup, verify, list_, show, restore, check):
    cli.add_command(command)


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
        error.hint = name_settings(error.hint, SETTINGS)
        return print_error(error.to_json(), error.exit_code, as_json)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "resil"
        return print_error(
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
        return print_error(
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
        return print_error(
            {
                "code": "unexpected",
                "message": f"an unexpected error: {type(error).__name__}: {error}",
                "hint": f"please report it; the details are in {path}",
            },
            UNEXPECTED,
            as_json,
        )
    return code if isinstance(code, int) else 0


def _write_report(error: BaseException) -> str:
    import traceback

    text = logs.redact("".join(traceback.format_exception(error)))
    with tempfile.NamedTemporaryFile(
        "w", prefix="resil-error-", suffix=".txt", delete=False
    ) as file:
        file.write(text)
    return file.name
