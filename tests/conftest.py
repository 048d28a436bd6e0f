"""Real PostgreSQL servers for the tests: one a version and worker, a new database for each test.

Installed are the versions that the product finds on this machine by itself. ``make`` fetches
servers of other major versions, without client programs (:func:`other_majors`). Tests with these
are ``long``, but for those marked ``every_version``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import psycopg
import pytest
from _pytest.mark import ParameterSet
from psycopg import sql

from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.programs import BIN_DIR_VARIABLE, Programs, find_all
from dagster_resil.postgres.server import Server, reachable_programs
from dagster_resil.vault import open_vault
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace
from tests.localcloud.cloud import Cloud, running_cloud
from tests.localcloud.cloudsql import CloudSql

_IN_MEMORY = Path("/dev/shm")
_LEAST_BYTES = 8 << 30


def _fast_folder() -> Path | None:
    """Return where files are kept in memory, if there is plenty of it.

    Most of a test's time goes into the files of new servers.
    """
    with contextlib.suppress(OSError):
        room = os.statvfs(_IN_MEMORY)
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if (
            room.f_bavail * room.f_frsize > _LEAST_BYTES
            and pages > _LEAST_BYTES
            and not room.f_flag & os.ST_NOEXEC
            and os.access(_IN_MEMORY, os.W_OK | os.X_OK)
        ):
            return _IN_MEMORY
    return None


def _remove_abandoned(base: Path) -> None:
    """Remove what a test run has left that was killed."""
    for folder in base.glob("rt-*-*"):
        with contextlib.suppress(ValueError, OSError):
            if (
                folder.stat().st_uid == os.getuid()
                and not Path("/proc", folder.name[3:-9]).exists()
            ):
                shutil.rmtree(folder, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole run a temporary folder of its own; TMPDIR says in which folder."""
    if hasattr(config, "workerinput"):  # a worker of xdist's has the run's from its environment
        return
    base = Path(os.environ.get("TMPDIR") or _fast_folder() or tempfile.gettempdir())
    _remove_abandoned(base)
    # A short name, because the path of a socket has no more than 107 bytes.
    folder = tempfile.mkdtemp(prefix=f"rt-{os.getpid()}-", dir=base)
    Path(folder).chmod(0o1777)  # as /tmp: what root starts may run as another user
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


# A shell without job control has what it starts in the background ignore SIGINT, and children
# inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "60",
    "dynamic_shared_memory_type": "mmap",
    "max_locks_per_transaction": "256",
    "wal_level": "logical",
}


ALL_MAJORS = (13, 14, 15, 16, 17, 18)
"""What the product promises."""


def majors() -> list[int]:
    """Return the major versions that are installed."""
    return sorted({programs.major for programs in find_all() if programs.has_server})


def other_majors() -> list[int]:
    """Return the major versions that aren't installed, fetched by ``make`` or not."""
    return [major for major in ALL_MAJORS if major not in majors()]


def long_majors() -> list[ParameterSet]:
    """Return the other versions as parameters of a fixture, whose tests are ``long`` with them."""
    return [pytest.param(major, marks=pytest.mark.long) for major in other_majors()]


@contextlib.contextmanager
def visible(major: int) -> Iterator[None]:
    """Have the product find the servers that ``make`` has fetched, if a version is one of them."""
    with pytest.MonkeyPatch.context() as patch:
        if major not in majors():
            patch.setenv(BIN_DIR_VARIABLE, every_folder())
        yield


def every_folder() -> str:
    """Return the value of RESIL_PG_BIN that names the installed and the fetched programs."""
    fetched = sorted(Path(sys.prefix, "servers").glob("node_modules/pg*/native/bin"))
    installed = dict.fromkeys(programs.bin_dir for programs in find_all())
    return os.pathsep.join(map(str, [*installed, *fetched]))


@lru_cache
def _every_program() -> tuple[Programs, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BIN_DIR_VARIABLE, every_folder())
        return tuple(find_all())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have only those tests run with fetched servers by default that are marked so."""
    others = other_majors()
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("source") in others and not item.get_closest_marker("every_version"):
            item.add_marker("long")


def owner_session(endpoint: Endpoint, *, autocommit: bool = True) -> Connection:
    """Open a session as the databases' owners have it, with their search_path."""
    return psycopg.connect(
        "",
        autocommit=autocommit,
        password=endpoint.password,
        **endpoint.parameters,  # type: ignore[arg-type]
    )


@dataclass
class Source:
    """A running server to take backups of."""

    server: Server
    programs: Programs
    databases: list[str] = field(default_factory=list)

    @property
    def major(self) -> int:
        return self.programs.major

    def admin(self) -> Connection:
        return owner_session(self.server.endpoint())

    def create(self, name: str | None = None, *, options: str = "") -> Endpoint:
        name = name or f"t_{secrets.token_hex(4)}"
        with self.admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 " + options).format(
                    sql.Identifier(name)
                )
            )
        self.databases.append(name)
        return self.server.endpoint(name)

    def execute(self, endpoint: Endpoint, *statements: str) -> None:
        with owner_session(endpoint) as connection:
            for statement in statements:
                connection.execute(statement)

    def drop_all(self) -> None:
        with contextlib.suppress(psycopg.Error), self.admin() as connection:
            for name in self.databases:
                connection.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )
        self.databases.clear()


@contextlib.contextmanager
def run_server(programs: Programs, **settings: str) -> Iterator[Source]:
    """Run a server of the given programs in a folder of its own."""
    with Workspace() as space:
        server = Server(reachable_programs(programs), space.path / "data", space.socket_dir)
        server.initialize(_SETTINGS | settings)
        server.start()
        try:
            yield Source(server, programs)
        finally:
            server.stop()


def sixteen() -> Programs | None:
    """Return the PostgreSQL 16 of a development wheel, which the product does not look for."""
    spec = importlib.util.find_spec("pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        return Programs(Path(place, "pginstall", "bin"), "16.2", has_server=True)
    return None


def server_of(major: int) -> Programs:
    """Return a server's programs, also fetched ones; skip the test, aloud, where there are none."""
    for programs in (*_every_program(), sixteen()):
        if programs and programs.has_server and programs.major == major:
            return programs
    pytest.skip(f"PostgreSQL {major} can't be had on this machine: UNTESTED with it")


def stock(major: int) -> Programs:
    """Return a server's programs with its own client programs; skip the test where none are."""
    for programs in (*find_all(), sixteen()):
        if programs and programs.has_server and programs.major == major:
            return programs
    pytest.skip(f"PostgreSQL {major} can't be had on this machine: UNTESTED with it")


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], Source]]:
    with contextlib.ExitStack() as stack:
        running: dict[int, Source] = {}

        def get(major: int) -> Source:
            if major not in running:
                running[major] = stack.enter_context(run_server(server_of(major)))
            return running[major]

        yield get


@pytest.fixture(params=ALL_MAJORS, ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest, servers: Callable[[int], Source]) -> Iterator[Source]:
    """A server, of every major version in turn."""
    found = servers(request.param)
    with visible(request.param):
        yield found
    found.drop_all()


@pytest.fixture(params=majors(), ids=lambda major: f"pg{major}")
def own_clients(
    request: pytest.FixtureRequest, servers: Callable[[int], Source]
) -> Iterator[Source]:
    """A server with client programs of its own version, of each that is installed in turn."""
    found = servers(request.param)
    yield found
    found.drop_all()


@pytest.fixture
def one_source(servers: Callable[[int], Source]) -> Iterator[Source]:
    """A server of the oldest version here, for tests that no version changes."""
    found = servers(majors()[0])
    yield found
    found.drop_all()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault((tmp_path / "vault").as_uri())


@pytest.fixture(scope="session")
def _running_clouds() -> Iterator[Callable[[], Cloud]]:
    with contextlib.ExitStack() as stack:
        running: list[Cloud] = []

        def get() -> Cloud:
            if not running:
                # Not pytest's own folder, which the user that root's servers run as can't enter.
                space = stack.enter_context(Workspace())
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(BIN_DIR_VARIABLE, every_folder())
                    running.append(stack.enter_context(running_cloud(space.path / "cloud")))
            return running[0]

        yield get


@pytest.fixture
def any_cloud(
    _running_clouds: Callable[[], Cloud], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Cloud]]:
    """The worker's local cloud, started when it is asked for; no fault outlives a test."""
    used: list[Cloud] = []

    def get() -> Cloud:
        cloud = _running_clouds()
        monkeypatch.setenv("RESIL_LOCALCLOUD", cloud.url)
        used.append(cloud)
        return cloud

    yield get
    for cloud in used[:1]:
        cloud.mend()


@pytest.fixture
def cloud(any_cloud: Callable[[], Cloud]) -> Cloud:
    """A strict stand-in for Cloud Storage."""
    return any_cloud()


@pytest.fixture(name="sql")
def _cloud_sql(any_cloud: Callable[[], Cloud]) -> Iterator[CloudSql]:
    """A local Cloud SQL, signed in as its owner; nothing outlives a test."""
    with CloudSql(any_cloud()) as service:
        yield service
        service.cloud.mend()
        service.remove_all()


_FOREIGN = (
    "RESIL_VAULT",
    "RESIL_ALERT_URLS",
    "RESIL_LOCALCLOUD",
    "STORAGE_EMULATOR_HOST",
    "API_ENDPOINT_OVERRIDE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the developer's shell says of PostgreSQL and of Google out of the tests."""
    for name in list(os.environ):
        if name.startswith(("PG", "RESIL_GCS_")) or name in _FOREIGN:
            monkeypatch.delenv(name)
