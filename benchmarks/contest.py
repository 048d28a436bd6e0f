"""What is measured: the stock tools and this package, on one database, one after the other."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Cost, cpu_of_server, folder_bytes, measured
from benchmarks.proxy import limited
from dagster_resil.demo.databases import create_database
from dagster_resil.demo.laptop import url_of
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.fingerprints import FingerprintForm, read_contents
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.scratch import ScratchServer, scratch_server
from dagster_resil.postgres.server import Server, hand_over
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import list_tables
from dagster_resil.workspace import Workspace

LIMIT_BYTES_PER_S = 10_000_000
"""What one connection gets through the proxy."""
_COUNT_ALL = """
SELECT sum((xpath('/row/c/text()', query_to_xml(
           format('SELECT count(*) AS c FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')
       ))[1]::text::bigint)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


FORMS: dict[FingerprintForm, str] = {
    "none": "count(*) of every table, in one session",
    "hash": "fingerprints of the earlier form, hash",
    "identity": "fingerprints of the form identity",
    "text": "fingerprints of the form text",
}
"""What reading the contents of every table is called, by the form of its fingerprints."""


@dataclass(frozen=True)
class Result:
    """The median of the rounds of one contestant.

    :param archive_bytes: the size of what it made; None where it makes nothing.
    """

    name: str
    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    peak_bytes: int
    disk_bytes: int
    archive_bytes: int | None = None

    def to_json(self) -> dict[str, str | float | int | None]:
        """Return it as JSON's own types."""
        return dict(self.__dict__)


def median_of(name: str, costs: list[Cost], archive_bytes: int | None = None) -> Result:
    """Return the median of some rounds; of memory and disk, the largest."""
    return Result(
        name,
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.client_cpu_s for cost in costs),
        statistics.median(cost.server_cpu_s for cost in costs),
        max(cost.peak_bytes for cost in costs),
        max(cost.disk_bytes for cost in costs),
        archive_bytes,
    )


@dataclass
class Contest:
    """One database, and where everything is.

    :param postmaster: the source server's process.
    :param newer: the programs of version 17, for their zstd.
    :param folder: room for archives; each round has a folder of its own in it.
    """

    source: Endpoint
    programs: Programs
    newer: Programs | None
    postmaster: int
    folder: Path
    rounds: int
    jobs: int
    tell: Callable[[str], None]

    # -- what the contestants have in common

    def _rounds(self, name: str, run: Callable[[Path], Cost]) -> tuple[list[Cost], Path]:
        costs = []
        for number in range(self.rounds):
            self.tell(f"{name} ({number + 1} of {self.rounds})")
            # Removed at the very end: for minutes after thousands of files are removed, ext4 takes
            # ten times as long to make as many, since it does not use their inodes again so soon.
            kept = Path(tempfile.mkdtemp(prefix="kept-", dir=self.folder))
            kept.chmod(0o711)
            costs.append(run(kept))
        return costs, kept

    def _env(self, endpoint: Endpoint, **more: str) -> dict[str, str]:
        return endpoint.child_environment() | {"HOME": str(self.folder)} | more

    def _run(self, words: list[str], endpoint: Endpoint, **more: str) -> Cost:
        return measured(words, env=self._env(endpoint, **more), postmaster=self.postmaster)

    def _keep(self, name: str, path: Path) -> Path:
        """Put an archive aside for the restores."""
        target = self.folder / name
        path.rename(target)
        return target

    def resil(self, folder: Path, *words: str, source: Endpoint | None = None) -> Cost:
        """Run the command line; its working folder is looked at as it runs."""
        work_dir = folder / "work"
        work_dir.mkdir(mode=0o711, exist_ok=True)
        source = source or self.source
        env = self._env(
            source,
            DB=url_of(source),
            RESIL_VAULT=(folder / "vault").as_uri(),
            RESIL_WORK_DIR=str(work_dir),
        )
        cost = measured(
            [sys.executable, "-m", "dagster_resil.cli", *words],
            env=env,
            postmaster=self.postmaster,
            work_dir=work_dir,
        )
        shutil.rmtree(work_dir, ignore_errors=True)
        return cost

    # -- taking

    def taking(self) -> Iterator[Result]:
        """Yield what takes a backup; the archives stay for the restores."""
        name = "pg_dump | gzip"
        costs, kept = self._rounds(name, self._dump_and_gzip)
        yield median_of(name, costs, folder_bytes(kept))
        self._keep("plain", kept)

        stock = self.programs
        yield self._directory(f"pg_dump -Fd -j{self.jobs}", stock)
        yield self._directory(f"pg_dump -Fd -j{self.jobs} -Z1", stock, "-Z1", keep="directory")
        if self.newer is not None:
            yield self._directory(
                f"pg_dump {self.newer.major} -Fd -j{self.jobs} --compress=zstd:1",
                self.newer,
                "--compress=zstd:1",
            )
        for compare in ("counts", "contents"):
            words = ["backup", "--url-env", "DB", "--name", "bench", f"--jobs={self.jobs}"]
            name = f"resil backup --compare {compare}"
            costs, kept = self._rounds(
                name,
                lambda folder, compare=compare, words=words: self.resil(  # type: ignore[misc]
                    folder, *words, f"--compare={compare}"
                ),
            )
            yield median_of(name, costs, folder_bytes(kept / "vault"))
        self._keep("resil", kept)

    def _dump_and_gzip(self, folder: Path) -> Cost:
        script = 'set -o pipefail; "$0" "$1" | gzip >"$2"'
        return self._run(
            [
                *("bash", "-c", script, str(self.programs.path("pg_dump"))),
                *(*self.source.child_arguments(), str(folder / "dump.sql.gz")),
            ],
            self.source,
        )

    def _directory(
        self, name: str, programs: Programs, *options: str, keep: str | None = None
    ) -> Result:
        costs, kept = self._rounds(
            name, lambda folder: self._dump_directory(folder, programs, *options)
        )
        result = median_of(name, costs, folder_bytes(kept))
        if keep:
            self._keep(keep, kept)
        # A cloud's bucket is no folder: the whole archive is on the local disk first.
        return replace(result, disk_bytes=result.archive_bytes or 0)

    def _dump_directory(
        self, folder: Path, programs: Programs, *options: str, source: Endpoint | None = None
    ) -> Cost:
        source = source or self.source
        return self._run(
            [
                *(str(programs.path("pg_dump")), "-Fd", f"-j{self.jobs}", *options),
                *("-f", str(folder / "archive"), *source.child_arguments()),
            ],
            source,
        )

    # -- fingerprints

    def fingerprinting(self) -> Iterator[Result]:
        """Yield what reading the contents of every table costs, by the form of fingerprint."""
        for form, name in FORMS.items():
            costs, _ = self._rounds(name, lambda folder, form=form: self._read_contents(form))  # type: ignore[misc]
            yield median_of(name, costs)

    def _read_contents(self, form: FingerprintForm) -> Cost:
        with self.source.connect() as connection:
            prepare_session(connection, gentle=True)
            tables = list_tables(connection)
            cpu_s, begun = cpu_of_server(self.postmaster), time.monotonic()
            for table in tables:
                read_contents(connection, [table], form)
            wall_s = time.monotonic() - begun
            return Cost(wall_s, 0, cpu_of_server(self.postmaster) - cpu_s, 0, 0)

    # -- restoring

    def restoring(self) -> Iterator[Result]:
        """Yield what restores one; needs what :meth:`taking` has kept."""
        with self._ordinary() as ordinary:
            yield self._restore("zcat | psql, ordinary server", ordinary, self._psql)
            yield self._restore(
                f"pg_restore -j{self.jobs}, ordinary server", ordinary, self._pg_restore
            )
            name = "count(*) of every table"
            costs, _ = self._rounds(name, lambda folder: self._count(ordinary))
            yield median_of(name, costs)
        with self._scratch() as scratch:
            yield self._restore(
                f"pg_restore -j{self.jobs}, the same scratch server",
                scratch.server,
                self._pg_restore,
            )
        yield from self._verify()
        name = "resil prove: take, restore and compare"
        costs, _ = self._rounds(
            name,
            lambda folder: self.resil(
                folder, "prove", "--url-env", "DB", f"--jobs={self.jobs}", "--json"
            ),
        )
        yield median_of(name, costs)

    @contextmanager
    def _ordinary(self) -> Iterator[Server]:
        """Run a server as initdb leaves it."""
        with Workspace(self.folder) as space:
            server = Server(self.programs, space.path / "data", space.socket_dir)
            hand_over(space.socket_dir)
            server.initialize({"dynamic_shared_memory_type": "mmap"})
            server.start()
            try:
                self._roles(server)
                yield server
            finally:
                server.stop()

    @contextmanager
    def _scratch(self) -> Iterator[ScratchServer]:
        with scratch_server(self.programs, work_dir=self.folder) as scratch:
            self._roles(scratch.server)
            yield scratch

    def _roles(self, server: Server) -> None:
        """Make the roles that the archives name, once."""
        globals_sql = next((self.folder / "resil" / "vault").glob("bench/backups/*/globals.sql"))
        endpoint = server.endpoint()
        subprocess.run(
            [
                *(str(self.programs.path("psql")), "-X", "-q", "-v", "settings=off"),
                *("-o", "/dev/null", "-f", str(globals_sql), *endpoint.child_arguments()),
            ],
            env=endpoint.child_environment(),
            check=True,
        )

    def _restore(self, name: str, server: Server, run: Callable[[Endpoint, int], Cost]) -> Result:
        numbers = iter(range(self.rounds))

        def once(folder: Path) -> Cost:
            database = f"r{next(numbers)}"
            with server.endpoint().connect(autocommit=True) as connection:
                connection.execute("DROP DATABASE IF EXISTS r0")
                connection.execute(f"DROP DATABASE IF EXISTS {database}")
                connection.execute("CHECKPOINT")
            create_database(server.endpoint(), database)
            return run(server.endpoint(database), server_pid(server))

        costs, _ = self._rounds(name, once)
        return median_of(name, costs)

    def _psql(self, target: Endpoint, postmaster: int) -> Cost:
        script = 'set -o pipefail; zcat "$2" | "$0" -X -q -v ON_ERROR_STOP=1 -o /dev/null "$1"'
        return measured(
            [
                *("bash", "-c", script, str(self.programs.path("psql"))),
                *(*target.child_arguments(), str(self.folder / "plain" / "dump.sql.gz")),
            ],
            env=self._env(target),
            postmaster=postmaster,
        )

    def _pg_restore(self, target: Endpoint, postmaster: int) -> Cost:
        return measured(
            [
                *(str(self.programs.path("pg_restore")), f"-j{self.jobs}", "--no-tablespaces"),
                *(*target.child_arguments(), str(self.folder / "directory" / "archive")),
            ],
            env=self._env(target),
            postmaster=postmaster,
        )

    def _count(self, server: Server) -> Cost:
        target = server.endpoint(f"r{self.rounds - 1}")
        return measured(
            [
                *(str(self.programs.path("psql")), "-X", "-q", "-c", _COUNT_ALL),
                *target.child_arguments(),
            ],
            env=self._env(target),
            postmaster=server_pid(server),
        )

    def _verify(self) -> Iterator[Result]:
        """Yield the whole verification, and its restore and comparison as its receipt has them."""
        name = "resil verify: scratch server, restore, compare, receipt"
        vault = self.folder / "resil" / "vault"
        receipts: list[dict[str, float]] = []

        def once(folder: Path) -> Cost:
            (folder / "vault").symlink_to(vault)
            cost = self.resil(folder, "verify", f"--jobs={self.jobs}", "--json")
            receipt = json.loads(cost.stdout)
            if receipt["verdict"] != "PASS":
                raise RuntimeError(f"not proved: {receipt['checks']}")
            receipts.append(receipt["seconds"])
            return cost

        costs, _ = self._rounds(name, once)
        whole = median_of(name, costs)
        for stage, words in (
            ("restore", "… its restore, with indexes and constraints"),
            ("compare", "… its comparison"),
        ):
            seconds = statistics.median(each[stage] for each in receipts)
            yield Result(words, seconds, 0, 0, 0, 0)
        yield whole

    # -- over a network

    def limited(self, port: int, connections: tuple[int, ...]) -> Iterator[Result]:
        """Yield what taking costs where one connection gets 10 MB/s.

        :param port: of the source server.
        """
        with limited(port, bytes_per_s=LIMIT_BYTES_PER_S) as through:
            parameters = {**self.source.parameters, "host": "127.0.0.1", "port": str(through)}
            source = replace(self.source, parameters=parameters)
            for count in connections:
                narrow = replace(self, jobs=count, rounds=1)
                if count in (connections[0], connections[-1]):
                    name = f"pg_dump -Fd -j{count} -Z1, 10 MB/s a connection"
                    costs, _ = narrow._rounds(
                        name,
                        lambda folder, narrow=narrow: narrow._dump_directory(  # type: ignore[misc]
                            folder, self.programs, "-Z1", source=source
                        ),
                    )
                    yield median_of(name, costs)
                name = f"resil backup --jobs {count}, 10 MB/s a connection"
                costs, _ = narrow._rounds(
                    name,
                    lambda folder, count=count: self.resil(  # type: ignore[misc]
                        folder,
                        *("backup", "--url-env", "DB", "--name", "bench", f"--jobs={count}"),
                        source=source,
                    ),
                )
                yield median_of(name, costs)


def server_pid(server: Server) -> int:
    """Return the number of a server's first process."""
    return int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])
