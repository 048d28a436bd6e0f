"""``python -m benchmarks.cloud_storage``: a vault in the local cloud beside one in a folder.

First the vaults alone: parts of a backup's usual size, up and down, beside the client library's own
transfer_manager. Then whole backups and proofs of the demo's shop. Each figure is the best of the
rounds, taken by turns; memory is the peak of the process that does the work, and of the server.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import requests
from rich.console import Console
from rich.table import Table

from dagster_resil.demo.databases import create_database, load
from dagster_resil.demo.laptop import demo_programs, url_of
from dagster_resil.localcloud.running import LocalCloud, run_local_cloud
from dagster_resil.localcloud.server import peak_memory_bytes
from dagster_resil.postgres.server import Server, hand_over, reachable_programs
from dagster_resil.vault import bucket_and_prefix, open_vault
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.workspace import Workspace

console = Console(highlight=False, width=110)

MIB = 1 << 20
_BUCKET = "resil-bench"
_SERVER_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Measured:
    """One line of the result."""

    what: str
    seconds: float
    peak_bytes: int
    requests: int | None = None


# -- what runs in a process of its own


def _chunks(size: int) -> list[bytes]:
    """Return a part as the reader has it: in chunks of some 64 KiB that do not compress."""
    return [os.urandom(1 << 16) for _ in range(size >> 16)]


def _up(url: str, count: int, size: int, jobs: int) -> float:
    vault, chunks = open_vault(url), _chunks(size)
    vault.check_writable()
    begun = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda n: vault.put(f"bench/parts/{n}", chunks), range(count)))
    return time.monotonic() - begun


def _down(url: str, count: int, size: int, jobs: int) -> float:
    vault = open_vault(url)

    def read(number: int) -> int:
        with vault.open(f"bench/parts/{number}") as chunks:
            return sum(map(len, chunks))

    begun = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        total = sum(pool.map(read, range(count)))
    seconds = time.monotonic() - begun
    if total != count * size:
        raise RuntimeError(f"{total} bytes were read")
    return seconds


def _google_up(url: str, count: int, size: int, jobs: int) -> float:
    from google.cloud.storage import transfer_manager

    vault = GcsVault(*bucket_and_prefix(url))
    data = b"".join(_chunks(size))
    pairs = [(io.BytesIO(data), vault.bucket.blob(f"google/{n}")) for n in range(count)]
    begun = time.monotonic()
    transfer_manager.upload_many(
        pairs,
        worker_type=transfer_manager.THREAD,
        max_workers=jobs,
        skip_if_exists=True,
        raise_exception=True,
    )
    return time.monotonic() - begun


def _google_down(url: str, count: int, size: int, jobs: int) -> float:
    from google.cloud.storage import transfer_manager

    vault = GcsVault(*bucket_and_prefix(url))
    files = [io.BytesIO() for _ in range(count)]
    pairs = [(vault.bucket.blob(f"google/{n}"), file) for n, file in enumerate(files)]
    begun = time.monotonic()
    transfer_manager.download_many(
        pairs,
        worker_type=transfer_manager.THREAD,
        max_workers=jobs,
        download_kwargs={"raw_download": True},
        raise_exception=True,
    )
    seconds = time.monotonic() - begun
    if sum(file.tell() for file in files) != count * size:
        raise RuntimeError("not all of it was read")
    return seconds


_TRANSFERS: dict[str, Callable[[str, int, int, int], float]] = {
    "up": _up,
    "down": _down,
    "google-up": _google_up,
    "google-down": _google_down,
}


# -- the measurements


def _measured(what: str, words: Sequence[str], env: dict[str, str]) -> Measured:
    """Run a command; its memory is the largest process's, its children's included."""
    script = (
        "import resource, subprocess, sys, time; t = time.monotonic(); "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(time.monotonic() - t, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); "
        "sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr[-2000:]}")
    seconds, kilobytes = done.stderr.strip().splitlines()[-1].split()
    return Measured(what, float(seconds), int(kilobytes) * 1024)


def _transferred(
    what: str, kind: str, url: str, count: int, size: int, jobs: int, env: dict[str, str]
) -> Measured:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.cloud_storage", "--transfer", kind, "--url", url),
            *(f"--count={count}", f"--part-bytes={size}", f"--jobs={jobs}"),
        ],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr[-2000:]}")
    document = json.loads(done.stdout)
    return Measured(what, document["seconds"], document["peak_bytes"])


def _best(rounds: list[Measured]) -> Measured:
    best = min(rounds, key=lambda each: each.seconds)
    return Measured(best.what, best.seconds, max(each.peak_bytes for each in rounds), best.requests)


def bench_vaults(
    cloud: LocalCloud, folder: Path, *, count: int, size: int, jobs: int, rounds: int
) -> None:
    """Measure parts on their way into a vault and out of it."""
    env = dict(os.environ) | cloud.environment("owner")
    lines: dict[str, list[Measured]] = {}
    for number in range(rounds):
        local = (folder / f"vault-{number}").as_uri()
        bucket = f"gs://{_BUCKET}/vault-{number}"
        for what, kind, url in (
            ("up, folder", "up", local),
            ("up, local cloud", "up", bucket),
            ("up, transfer_manager", "google-up", f"gs://{_BUCKET}/google-{number}"),
            ("down, folder", "down", local),
            ("down, local cloud", "down", bucket),
            ("down, transfer_manager", "google-down", f"gs://{_BUCKET}/google-{number}"),
        ):
            lines.setdefault(what, []).append(_transferred(what, kind, url, count, size, jobs, env))
        _empty(cloud)
    table = Table(title=f"{count} parts of {size / 1e6:,.0f} MB, {jobs} at a time", box=None)
    for title in ("", "seconds", "MB/s", "peak MB"):
        table.add_column(title, justify="left" if not title else "right")
    for rows in lines.values():
        best = _best(rows)
        table.add_row(
            best.what,
            f"{best.seconds:.2f}",
            f"{count * size / 1e6 / best.seconds:,.0f}",
            f"{best.peak_bytes / 1e6:,.0f}",
        )
    console.print(table)


def _empty(cloud: LocalCloud) -> None:
    with cloud.client("owner") as client:
        for blob in list(client.list_blobs(_BUCKET)):
            blob.delete()


def bench_backups(
    cloud: LocalCloud, folder: Path, stack: ExitStack, *, scale: float, jobs: int, rounds: int
) -> None:
    """Measure whole backups and proofs."""
    programs = reachable_programs(demo_programs())
    space = stack.enter_context(Workspace())
    hand_over(space.socket_dir)
    server = Server(programs, space.path / "data", space.socket_dir)
    server.initialize(_SERVER_SETTINGS)
    server.start()
    stack.callback(server.stop)
    create_database(server.endpoint(), "shop")
    endpoint = server.endpoint("shop")
    load(endpoint, programs, "shop", scale=scale)
    env = {**os.environ, **endpoint.child_environment(), "DB": url_of(endpoint)}
    places = {
        "folder": ((folder / "backups").as_uri(), env),
        "local cloud": (f"gs://{_BUCKET}/backups", env | cloud.environment()),
    }
    lines: dict[str, list[Measured]] = {}
    for _ in range(rounds):
        for verb in ("backup", "verify"):
            for place, (url, variables) in places.items():
                what = f"resil {verb}, {place}"
                words = [sys.executable, "-m", "dagster_resil.cli", verb]
                words += ["--url-env", "DB"] if verb == "backup" else ["latest"]
                words += ["--vault", url, "--name", "shop", "--jobs", str(jobs)]
                requests.delete(f"{cloud.url}/localcloud/requests", timeout=10)
                found = _measured(what, words, variables)
                asked = requests.get(f"{cloud.url}/localcloud/requests", timeout=10).json()
                count = sum(asked["counts"].values())
                lines.setdefault(what, []).append(
                    Measured(what, found.seconds, found.peak_bytes, count or None)
                )
    table = Table(title=f"the demo's shop at scale {scale:g}, {jobs} jobs", box=None)
    for title in ("", "seconds", "peak MB", "requests"):
        table.add_column(title, justify="left" if not title else "right")
    for rows in lines.values():
        best = _best(rows)
        table.add_row(
            best.what,
            f"{best.seconds:.2f}",
            f"{best.peak_bytes / 1e6:,.0f}",
            "" if best.requests is None else f"{best.requests:,}",
        )
    console.print(table)
    status = requests.get(f"{cloud.url}/localcloud/status", timeout=10).json()
    console.print(f"the local cloud's own peak: {status['peak_memory_bytes'] / 1e6:,.0f} MB")


@click.command()
@click.option("--count", default=12, show_default=True, help="Parts that go up and down.")
@click.option("--part-bytes", default=64 * MIB, show_default=True)
@click.option("--scale", default=2.0, show_default=True, help="Of the demo's shop.")
@click.option("--jobs", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--core", type=int, help="The processor that the local cloud has for itself.")
@click.option("--transfer", type=click.Choice(list(_TRANSFERS)), hidden=True)
@click.option("--url", hidden=True)
def main(
    count: int,
    part_bytes: int,
    scale: float,
    jobs: int,
    rounds: int,
    core: int | None,
    transfer: str | None,
    url: str | None,
) -> None:
    """Measure a vault in the local cloud beside one in a folder."""
    if transfer and url:
        seconds = _TRANSFERS[transfer](url, count, part_bytes, jobs)
        click.echo(json.dumps({"seconds": seconds, "peak_bytes": peak_memory_bytes()}))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resil-bench-")))
        cloud = stack.enter_context(
            run_local_cloud(
                folder / "cloud",
                buckets=[f"{_BUCKET}=europe-west1"],
                before=["taskset", "-c", str(core)] if core is not None else [],
            )
        )
        bench_vaults(cloud, folder, count=count, size=part_bytes, jobs=jobs, rounds=rounds)
        bench_backups(cloud, folder, stack, scale=scale, jobs=jobs, rounds=rounds)


if __name__ == "__main__":
    main()
