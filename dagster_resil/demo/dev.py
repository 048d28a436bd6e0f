"""``make dev``: Dagster's UI over the demo's databases, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click

from dagster_resil import logs
from dagster_resil.demo.cloudsql import PRIMARY, REPLICA
from dagster_resil.demo.laptop import (
    CLOUD_DAYS,
    CLOUD_VAULT,
    FOLDER,
    Laptop,
    run_laptop,
    workspace_file,
)
from dagster_resil.errors import ConfigurationError, ResilError
from dagster_resil.localcloud.identities import PROJECT
from dagster_resil.localcloud.running import REGIONS
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.process import Child, on_stop

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
    with run_laptop(folder, vault=CLOUD_VAULT, cloud_sql=True) as laptop:
        click.echo("starting Dagster …", err=True)
        with run_dagster(laptop, port) as check:
            click.echo(
                f"\nDagster is at http://localhost:{port}  (Ctrl-C ends it; the data stays in "
                f"{folder}, make clean removes it)",
                err=True,
            )
            if laptop.cloud is not None:
                click.echo(
                    f"backups go to {laptop.vault} in the local cloud, {laptop.cloud.url}; to "
                    "look at them with resil or gcloud, in another shell:\n"
                    f"  . {laptop.cloud.environment_file()}\n"
                    f"  .venv/bin/resil list --vault {laptop.vault}\n"
                    f"cloud_shop and exported_shop are of database shop in the local Cloud SQL: "
                    f"instance {PROJECT}:{REGIONS[0]}:{PRIMARY}, its replica {REPLICA}, "
                    f"{CLOUD_DAYS} days to backfill",
                    err=True,
                )
            while True:
                check()
                time.sleep(0.3)


@contextmanager
def run_dagster(
    laptop: Laptop, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[Callable[[], None]]:
    """Run Dagster's webserver, which answers when the ``with`` begins, and its daemon.

    The daemon starts when the webserver answers, which has made the tables of a new storage by
    then: two that make them at a time get in each other's way.

    :param environment: variables besides the laptop's own.
    :return: what raises when one of the two has ended.
    :raises ResilError: one of them ended; its words are in the message.
    """
    environment = {**os.environ, **laptop.environment, **(environment or {})}
    running: dict[str, Child] = {}

    def check() -> None:
        for name, child in running.items():
            if child.poll() is not None:
                raise ResilError(
                    f"Dagster's {name} ended: {child.errors().strip()[-1500:]}",
                    hint="the lines above are its own words; make clean begins anew",
                )

    with ExitStack() as stack:

        def start(name: str, *words: str) -> None:
            # A signal that nobody can catch would leave them at work, on the port.
            command = [*dies_with_us("TERM"), sys.executable, "-m", *words]
            command += ["-w", str(workspace_file())]
            running[name] = stack.enter_context(
                Child(command, env=environment, cwd=laptop.folder, name=name)
            )

        start("webserver", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(port):
            check()
            if time.monotonic() > deadline:
                raise ResilError(
                    f"Dagster did not answer within {_START_TIMEOUT_S} s",
                    hint=f"its words: {running['webserver'].errors().strip()[-1500:]}",
                )
            time.sleep(0.3)
        start("daemon", "dagster._daemon", "run")
        yield check


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=Path(FOLDER), show_default=True)
def main(port: int, folder: Path) -> None:
    """Run Dagster's UI over the demo's databases until Ctrl-C."""
    logs.configure(logging.INFO)
    on_stop(_end, interrupts=True)
    try:
        develop(folder, port)
    except _Ended:
        click.echo("\nended; the data stays", err=True)
    except ResilError as error:
        click.echo(f"resil: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
