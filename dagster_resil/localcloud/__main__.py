"""``python -m dagster_resil.localcloud``: the local cloud alone, until a signal."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import click

from dagster_resil import logs
from dagster_resil.errors import ConfigurationError, ResilError
from dagster_resil.localcloud.server import LocalCloudServer
from dagster_resil.process import on_stop

_LOOK_S = 0.5


def _lock(folder: Path) -> int:
    """Keep a second server out of the same folder; the lock ends with the process.

    :raises ConfigurationError: there is one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"another local cloud uses {folder}", hint="end that one first, or use another --folder"
        ) from None
    return descriptor


def _listen(folder: Path, port: int, *, durable: bool) -> LocalCloudServer:
    try:
        return LocalCloudServer(folder, port=port, durable=durable)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigurationError(
            f"port {port} of this machine is taken", hint="end what uses it, or use another --port"
        ) from None


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".resil/cloud"),
    show_default=True,
    help="Where everything is kept.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 takes any that is free.")
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    metavar="NAME=LOCATION",
    help="Make a bucket unless it is there: europe-west1 or us-east1.",
)
@click.option("--no-sync", is_flag=True, help="Do not wait for the disk; for tests.")
@click.option("--with-parent", is_flag=True, help="End when the process that started this ends.")
@click.option("-v", "--verbose", is_flag=True, help="Log every request.")
def main(
    folder: Path,
    port: int,
    buckets: tuple[str, ...],
    no_sync: bool,
    with_parent: bool,
    verbose: bool,
) -> None:
    """Run a strict stand-in for Google Cloud on this machine, until a signal.

    Its first line on stdout is one JSON object with its address and its accounts' key files.
    """
    logs.configure(logging.DEBUG if verbose else logging.INFO)
    parent = os.getppid()
    try:
        descriptor = _lock(folder)
        server = _listen(folder, port, durable=not no_sync)
        for each in buckets:
            name, _, location = each.partition("=")
            server.storage.ensure_bucket(name, location, versioning={"enabled": True})
    except ResilError as error:
        click.echo(f"localcloud: {error}", err=True)
        sys.exit(error.exit_code)

    def stop(number: int | None = None, frame: FrameType | None = None) -> None:
        # From another thread: shutdown() waits for the loop that a handler interrupts.
        threading.Thread(target=server.shutdown).start()

    on_stop(stop)
    if with_parent:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(_LOOK_S)
            stop()

        threading.Thread(target=watch, daemon=True).start()
    keys = folder / "identities"
    click.echo(json.dumps({"url": server.url, "pid": os.getpid(), "keys": str(keys.absolute())}))
    sys.stdout.flush()
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        os.close(descriptor)


if __name__ == "__main__":
    main()
