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
from dagster_resil.localcloud.environment import environment_file, write_environment_files
from dagster_resil.localcloud.protocol import ApiError
from dagster_resil.localcloud.server import LocalCloudServer
from dagster_resil.process import on_stop

_LOOK_S = 0.5


def _lock(folder: Path) -> int:
    """Keep a second server out of the same folder; the lock ends with the process.

    :raises ConfigurationError: there is one.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ResilError(
            f"can't keep anything in {folder}: {error.strerror}",
            hint="name a folder that can be written with --folder",
        ) from None
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


def _make_bucket(server: LocalCloudServer, given: str) -> None:
    """Make a bucket, given as NAME=LOCATION, unless it is there.

    :raises ConfigurationError: there can be none such, or it is elsewhere.
    """
    name, _, location = given.rpartition("=")
    hint = "NAME=LOCATION, for example --bucket my-vault=europe-west1"
    try:
        server.storage.ensure_bucket(name, location, versioning={"enabled": True})
    except ApiError as error:
        raise ConfigurationError(f"--bucket {given}: {error.message}", hint=hint) from None
    there = server.storage.location(name) or ""
    if there != location.upper():
        raise ConfigurationError(
            f"--bucket {given}: bucket {name} is there, in {there.lower()}",
            hint="a bucket's location never changes: name another bucket, or that location",
        )


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".resil/localcloud"),
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

    Its first line on stdout is one JSON object: its address, the folder of its accounts' key
    files, and the file that a shell sources to be led there as the account "backup".
    """
    logs.configure(logging.DEBUG if verbose else logging.INFO)
    parent = os.getppid()
    try:
        descriptor = _lock(folder)
        server = _listen(folder, port, durable=not no_sync)
        for each in buckets:
            _make_bucket(server, each)
    except ResilError as error:
        click.echo(f"localcloud: {error}", err=True)
        sys.exit(error.exit_code)

    def stop(number: int | None = None, frame: FrameType | None = None) -> None:
        # From another thread: shutdown() waits for the loop that a handler interrupts.
        threading.Thread(target=server.shutdown).start()

    on_stop(stop, interrupts=True)
    if with_parent:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(_LOOK_S)
            stop()

        threading.Thread(target=watch, daemon=True).start()
    keys = folder / "identities"
    write_environment_files(server.url, keys)
    told = {
        "url": server.url,
        "pid": os.getpid(),
        "keys": str(keys.absolute()),
        "environment": str(environment_file(keys, "backup")),
    }
    click.echo(json.dumps(told))
    sys.stdout.flush()
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
        os.close(descriptor)


if __name__ == "__main__":
    main()
