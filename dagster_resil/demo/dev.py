"""``make dev``: Dagster's UI over the demo's databases, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from dagster_resil import logs
from dagster_resil.demo.laptop import FOLDER, run_laptop, workspace_file
from dagster_resil.errors import ConfigurationError, ResilError
from dagster_resil.process import Child

_START_TIMEOUT_S = 90


class _Ended(Exception):
    """Somebody asked us to end."""


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def develop(folder: Path, port: int) -> None:
    """Run databases, webserver and daemon until a signal.

    :raises ConfigurationError: the port is taken.
    """
    if not _port_is_free(port):
        raise ConfigurationError(
            f"port {port} of this machine is taken",
            hint="end what uses it, or: make dev PORT=3001",
        )
    click.echo("starting two PostgreSQL servers and filling the demo's databases …", err=True)
    with run_laptop(folder) as laptop, ExitStack() as stack:
        environment = {**os.environ, **laptop.environment}
        workspace = str(workspace_file())
        programs = {
            "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port)],
            "daemon": ["dagster._daemon", "run"],
        }
        children = {
            name: stack.enter_context(
                Child(
                    [sys.executable, "-m", *words, "-w", workspace],
                    env=environment,
                    cwd=laptop.folder,
                    name=name,
                )
            )
            for name, words in programs.items()
        }
        click.echo("starting Dagster …", err=True)
        deadline = time.monotonic() + _START_TIMEOUT_S
        told = False
        while True:
            for name, child in children.items():
                if child.poll() is not None:
                    raise ResilError(
                        f"Dagster's {name} ended: {child.errors().strip()[-1500:]}",
                        hint="the lines above are its own words; make clean begins anew",
                    )
            if not told and _answers(port):
                told = True
                click.echo(
                    f"\nDagster is at http://localhost:{port}  (Ctrl-C ends it; the data stays in "
                    f"{folder}, make clean removes it)",
                    err=True,
                )
            if not told and time.monotonic() > deadline:
                raise ResilError(
                    f"Dagster did not answer within {_START_TIMEOUT_S} s",
                    hint=f"its words: {children['webserver'].errors().strip()[-1500:]}",
                )
            time.sleep(0.3)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path(FOLDER), show_default=True)
def main(port: int, folder: Path) -> None:
    """Run Dagster's UI over the demo's databases until Ctrl-C."""
    logs.configure(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        develop(folder, port)
    except _Ended:
        click.echo("\nended; the data stays", err=True)
    except ResilError as error:
        click.echo(f"resil: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
