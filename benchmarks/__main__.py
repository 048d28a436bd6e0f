"""``make bench``: this package beside the stock tools, in one run, on one machine.

Two databases: the demo's shop, whole or scaled, and a small one. Every figure is the best of the
rounds, in seconds; memory is the peak of the process and its children, each by itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dagster_resil.demo.databases import create_database, load
from dagster_resil.demo.laptop import demo_programs, url_of
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.scratch import scratch_server
from dagster_resil.postgres.server import Server, hand_over, reachable_programs
from dagster_resil.workspace import Workspace

console = Console(highlight=False, width=100)


@dataclass
class Measured:
    """One line of the result.

    :param peak_mb: the largest resident set of the processes, in MB; None where not measured.
    """

    what: str
    seconds: float
    peak_mb: float | None = None


def _peak_mb(words: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak of its memory in MB.

    A child's children count too, the largest of them: that is what ``ru_maxrss`` says.
    """
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
        raise RuntimeError(f"{words[0]} failed: {done.stderr[-2000:]}")
    seconds, kilobytes = done.stderr.strip().splitlines()[-1].split()
    return float(seconds), float(kilobytes) / 1024


def best(
    what: str, rounds: int, words: Callable[[int], list[str]], env: dict[str, str]
) -> Measured:
    """Measure a command several times and keep the best."""
    found = [_peak_mb(words(number), env) for number in range(rounds)]
    return Measured(what, min(s for s, _ in found), max(m for _, m in found))


def _resil(*words: str) -> list[str]:
    return [sys.executable, "-m", "dagster_resil.cli", *words]


def bench_database(
    endpoint: Endpoint, programs: Programs, folder: Path, rounds: int, jobs: int
) -> list[Measured]:
    """Measure taking and proving one database, beside pg_dump and pg_restore."""
    env = endpoint.child_environment() | {
        "DB": url_of(endpoint),
        "RESIL_VAULT": (folder / "vault").as_uri(),
        "HOME": str(folder),
    }
    dump = str(programs.path("pg_dump"))
    results = [
        best(
            f"pg_dump -Fd -j{jobs}",
            rounds,
            lambda n: [
                dump,
                "-Fd",
                f"-j{jobs}",
                "-f",
                f"{folder}/a{n}",
                *endpoint.child_arguments(),
            ],
            env,
        ),
        best(
            f"pg_dump -Fd -j{jobs} -Z1",
            rounds,
            lambda n: [
                *(dump, "-Fd", f"-j{jobs}", "-Z1", "-f", f"{folder}/b{n}"),
                *endpoint.child_arguments(),
            ],
            env,
        ),
        best(
            f"resil backup --jobs {jobs} (dump, counts, fingerprints, checksums)",
            rounds,
            lambda n: _resil("backup", "--url-env", "DB", "--name", "bench", "--jobs", f"{jobs}"),
            env,
        ),
    ]
    restore = str(programs.path("pg_restore"))
    with scratch_server(programs, need_bytes=2_000_000_000) as scratch:
        globals_sql = next((folder / "vault").glob("bench/backups/*/globals.sql"))

        def target(number: int) -> list[str]:
            create_database(scratch.endpoint(), f"r{number}")
            there = scratch.endpoint(f"r{number}")
            subprocess.run(
                [
                    *(programs.path("psql"), "-X", "-q", "-v", "settings=off"),
                    *("-o", "/dev/null", "-f", globals_sql),
                    *there.child_arguments(),
                ],
                env=there.child_environment(),
                check=True,
            )
            return [
                *(restore, f"-j{jobs}", "--no-tablespaces", f"{folder}/b0"),
                *there.child_arguments(),
            ]

        results.append(
            best(
                f"pg_restore -j{jobs} (scratch server running)",
                rounds,
                target,
                scratch.endpoint().child_environment(),
            )
        )
    results.append(
        best(
            "resil verify (scratch server, restore, compare everything)",
            rounds,
            lambda n: _resil("verify", "--jobs", f"{jobs}"),
            env,
        )
    )
    results.append(
        best(
            "resil prove (all of it)",
            rounds,
            lambda n: _resil("prove", "--url-env", "DB", "--jobs", f"{jobs}"),
            env,
        )
    )
    return results


def bench_dagster(folder: Path, rounds: int) -> list[Measured]:
    """Measure the same backup and proof bare and through Dagster, with PostgreSQL storage."""
    from dagster_resil.demo.laptop import run_laptop

    with run_laptop(folder / "laptop", databases=("shop",)) as laptop:
        env = {**os.environ, **laptop.environment, "HOME": str(folder)}
        bare_vault = (folder / "bare").as_uri()

        def bare(number: int) -> list[str]:
            words = f"{sys.executable} -m dagster_resil.cli"
            return [
                *("sh", "-ec"),
                (
                    f"{words} backup --url-env SHOP_URL --name shop --vault {bare_vault} && "
                    f"{words} verify --vault {bare_vault}"
                ),
            ]

        return [
            best("backup and verify, bare command line (two processes)", rounds, bare, env),
            best(
                "the same as a Dagster run (import, job, events, checks)",
                rounds,
                lambda n: [sys.executable, "-m", "dagster_resil.components.materialize", "shop"],
                env,
            ),
        ]


def show(title: str, results: list[Measured]) -> None:
    """Print a group of results."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    grid.add_column("", min_width=66)
    grid.add_column("seconds", justify="right")
    grid.add_column("peak MB", justify="right")
    for result in results:
        grid.add_row(
            result.what,
            f"{result.seconds:.2f}",
            "" if result.peak_mb is None else f"{result.peak_mb:.0f}",
        )
    console.print(grid)
    console.print()


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Of the shop; 1 is about 100 MB.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--jobs", default=2, show_default=True)
def main(scale: float, rounds: int, jobs: int) -> None:
    """Measure backups and proofs beside pg_dump and pg_restore."""
    programs = reachable_programs(demo_programs())
    console.print(
        f"PostgreSQL {programs.version}, {os.cpu_count()} cores, best of {rounds} rounds, "
        f"{time.strftime('%Y-%m-%d')}\n"
    )
    with ExitStack() as stack:
        space = stack.enter_context(Workspace())
        server = Server(programs, space.path / "data", space.socket_dir)
        hand_over(space.socket_dir)
        server.initialize({"fsync": "off", "max_wal_size": "4GB", "shared_buffers": "256MB"})
        server.start()
        stack.callback(server.stop)
        for name, size in (("shop", scale), ("small", 0.03)):
            create_database(server.endpoint(), name)
            load(server.endpoint(name), programs, "shop", scale=size)
            with server.endpoint(name).connect(autocommit=True) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            megabytes = row[0] / 1e6 if row else 0
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resil-bench-")))
            results = bench_database(server.endpoint(name), programs, folder, rounds, jobs)
            show(f"{name}, {megabytes:,.0f} MB", results)
    folder = Path(tempfile.mkdtemp(prefix="resil-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        show("Dagster's overhead, shop", bench_dagster(folder, rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
