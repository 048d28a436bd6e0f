"""``make bench``: this package beside the stock tools, in one run, on one machine (Linux)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from benchmarks.contest import Contest, Result, median_of, server_pid
from benchmarks.datasets import DATA_SETS, make
from benchmarks.measure import measured
from benchmarks.report import markdown, picture, ratios, ratios_table
from dagster_resil.demo.laptop import demo_programs
from dagster_resil.postgres.programs import Programs, find_all
from dagster_resil.postgres.server import Server, hand_over, reachable_programs
from dagster_resil.workspace import Workspace

# The source is read, never written, while it is measured: its own durability costs nothing.
_SOURCE = {
    "fsync": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
}
_CONNECTIONS = (1, 2, 4, 8)

console = Console(stderr=True, highlight=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(programs: Programs) -> Programs | None:
    newer = [each for each in find_all() if each.major == 17 and each.major > programs.major]
    return reachable_programs(newer[0]) if newer else None


def _dagster(folder: Path, rounds: int) -> Iterator[Result]:
    """Yield the same backup and proof bare, and as a Dagster run with PostgreSQL storage."""
    from dagster_resil.demo.laptop import run_laptop

    with run_laptop(folder / "laptop", databases=("shop",)) as laptop:
        env = {**os.environ, **laptop.environment, "HOME": str(folder)}
        words = f"{sys.executable} -m dagster_resil.cli"
        vault = (folder / "bare").as_uri()
        bare = (
            f"{words} backup --url-env SHOP_URL --name shop --vault {vault} && "
            f"{words} verify --vault {vault}"
        )
        run = [sys.executable, "-m", "dagster_resil.demo.materialize", "shop"]
        for name, command in (
            ("resil backup and resil verify, two processes", ["sh", "-ec", bare]),
            ("resil's backup and checks as one Dagster run", run),
        ):
            console.print(f"  dagster: {name}")
            yield median_of(name, [measured(command, env=env) for _ in range(rounds)])


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the numbers of rows.")
@click.option("--rounds", default=3, show_default=True, help="The median of so many is told.")
@click.option("--jobs", default=2, show_default=True)
@click.option(
    "--only",
    type=click.Choice([*DATA_SETS, "dagster"]),
    multiple=True,
    help="This data set only; may be given several times.",
)
@click.option("--fingerprints", is_flag=True, help="Measure fingerprints, and nothing else.")
@click.option(
    "--write",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for results.json, results.md and results.png.",
)
def main(
    scale: float,
    rounds: int,
    jobs: int,
    only: tuple[str, ...],
    fingerprints: bool,
    write: Path | None,
) -> None:
    """Measure backups and proofs beside pg_dump and pg_restore."""
    programs = reachable_programs(demo_programs())
    head = (
        f"{os.cpu_count()} cores, PostgreSQL {programs.version}, {time.strftime('%Y-%m-%d')}, "
        f"median of {rounds} rounds, {jobs} jobs"
    )
    found: dict[str, dict[str, Result]] = {}
    chosen = only or (*DATA_SETS, *(() if fingerprints else ("dagster",)))
    text = [f"{head}\n"]

    def take(title: str, key: str, results: Iterator[Result]) -> None:
        measured_here = found.setdefault(key, {})
        for result in results:
            measured_here[result.name] = result
        text.append(f"### {title}\n\n{markdown(list(measured_here.values()))}\n")

    with ExitStack() as stack:
        # A folder that the servers' own user can walk into, with room.
        root = Path(tempfile.mkdtemp(prefix="resil-bench-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o711)
        for name in (name for name in chosen if name in DATA_SETS):
            with ExitStack() as inner:
                port = _free_port()
                space = inner.enter_context(Workspace(root))
                server = Server(programs, space.path / "data", space.socket_dir, port=port)
                hand_over(space.socket_dir)
                server.initialize(_SOURCE)
                server.start()
                inner.callback(server.stop)
                console.print(f"{name}: filling the database")
                source = make(server, programs, DATA_SETS[name], scale)
                with source.connect() as connection:
                    row = connection.execute("SELECT pg_database_size(current_database())")
                    megabytes = (row.fetchone() or (0,))[0] / 1e6
                folder = root / name
                folder.mkdir(mode=0o711)
                contest = Contest(
                    source=source,
                    programs=programs,
                    newer=_version(programs),
                    postmaster=server_pid(server),
                    folder=folder,
                    rounds=rounds,
                    jobs=jobs,
                    tell=lambda words, name=name: console.print(f"  {name}: {words}"),  # type: ignore[misc]
                )

                def results(
                    contest: Contest = contest, name: str = name, port: int = port
                ) -> Iterator[Result]:
                    yield from contest.fingerprinting()
                    if fingerprints:
                        return
                    yield from contest.taking()
                    yield from contest.restoring()
                    if name == "shop":
                        yield from contest.limited(port, _CONNECTIONS)

                take(f"`{name}`: {DATA_SETS[name].what}; {megabytes:,.0f} MB", name, results())
                shutil.rmtree(folder, ignore_errors=True)
        if "dagster" in chosen:
            take("Dagster around it, on the demo's `shop`", "dagster", _dagster(root, rounds))
    text.append(f"### Targets\n\n{ratios_table(ratios(found, jobs))}\n")
    click.echo("\n".join(text))
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        document = {
            "head": head,
            "results": {key: [r.to_json() for r in each.values()] for key, each in found.items()},
        }
        (write / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        (write / "results.md").write_text("\n".join(text))
        picture(found, write / "results.png")


if __name__ == "__main__":
    main()
