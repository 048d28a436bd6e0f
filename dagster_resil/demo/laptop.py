"""The laptop's stand-ins: one PostgreSQL server to protect, another for Dagster's own storage.

Their data stays in ``.resil/`` of the folder where they are started; the servers themselves end
with the process that started them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from psycopg import sql

from dagster_resil.demo.cloudsql import ensure_days
from dagster_resil.demo.databases import create_database, load
from dagster_resil.errors import ConfigurationError, NoServer
from dagster_resil.localcloud.identities import LANDING_BUCKET
from dagster_resil.localcloud.running import REGIONS, LocalCloud, run_local_cloud
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs, find_all
from dagster_resil.postgres.scratch import sweep
from dagster_resil.postgres.server import (
    Server,
    hand_over,
    reachable_programs,
    server_user,
    stop_leftover,
    walkable,
)
from dagster_resil.vault import open_vault

FOLDER = ".resil"
DATABASES = ("shop", "empty", "hostile")
BUCKETS = tuple(f"resil-{region}" for region in REGIONS)
"""A bucket in each region of the local cloud."""
CLOUD_VAULT = f"gs://{BUCKETS[0]}/vault"
CLOUD_DAYS = 3
"""How many days the shop in the local Cloud SQL has behind it."""
_CLOUD_SCALE = 0.2

_SOURCE_SETTINGS = {
    # A demonstration: what it holds can be generated again.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "max_wal_size": "2GB",
    "dynamic_shared_memory_type": "mmap",
}
_STORAGE_SETTINGS = {
    "synchronous_commit": "off",
    "max_connections": "100",
    "dynamic_shared_memory_type": "mmap",
}


@dataclass(frozen=True)
class Laptop:
    """What runs: the protected databases, Dagster's storage, perhaps a local cloud.

    :ivar vault: the vault's address.
    :ivar environment: the variables that Dagster's processes need; they hold passwords.
    """

    folder: Path
    programs: Programs
    source: Server
    storage: Server
    vault: str
    cloud: LocalCloud | None
    environment: dict[str, str]

    @property
    def vault_folder(self) -> Path:
        """Return the folder of a vault that is one."""
        return Path(unquote(urlsplit(self.vault).path))

    @property
    def dagster_home(self) -> Path:
        """Return Dagster's own folder."""
        return self.folder / "dagster"


def demo_programs() -> Programs:
    """Return the server to run: the system's newest, or the bundled one.

    :raises NoServer: there is none.
    """
    servers = [programs for programs in find_all() if programs.has_server]
    if not servers:
        raise NoServer(
            "no PostgreSQL server programs on this machine, and none bundled for its platform",
            hint="install PostgreSQL (Debian: apt install postgresql) and try again",
        )
    return max(servers, key=lambda programs: (not programs.bundled, programs.major))


def url_of(endpoint: Endpoint, scheme: str = "postgresql") -> str:
    """Return an endpoint's URL, with its password: for an environment variable only."""
    parameters = endpoint.parameters
    return (
        f"{scheme}://{quote(parameters['user'])}:{quote(endpoint.password or '')}@/"
        f"{quote(parameters['dbname'])}?host={quote(parameters['host'], safe='')}"
        f"&port={parameters['port']}"
    )


def _servers_folder(folder: Path) -> Path:
    """Return where the servers' data goes.

    Root's servers run as somebody else, who may not be able to walk into the folder (below
    /root, say); then the data is elsewhere and a link in the folder says where.
    """
    inside = folder / "servers"
    if inside.exists():
        return inside
    if server_user() is None or walkable(folder.resolve()):
        inside.mkdir(mode=0o711)
        return inside
    mark = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    outside = Path("/var/tmp") / f"resil-laptop-{os.geteuid()}-{mark}"  # noqa: S108
    outside.mkdir(mode=0o711, exist_ok=True)
    if outside.lstat().st_uid != os.geteuid():
        raise ConfigurationError(
            f"{outside} belongs to somebody else", hint="remove it, or start elsewhere"
        )
    inside.symlink_to(outside)
    return inside


def _password(folder: Path, name: str) -> str:
    file = folder / f"{name}.password"
    if not file.exists():
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(24))
    return file.read_text()


def _start(
    stack: ExitStack, folder: Path, name: str, programs: Programs, settings: dict[str, str]
) -> Server:
    # The socket's folder is new each time and short: a checkout may lie deep.
    socket_dir = Path(tempfile.mkdtemp(prefix="resil-", dir="/tmp"))
    stack.callback(shutil.rmtree, socket_dir, ignore_errors=True)
    hand_over(socket_dir)
    data = _servers_folder(folder) / f"{name}-{programs.major}"
    server = Server(programs, data.resolve(), socket_dir, password=_password(folder, name))
    whole = folder / f"{name}-{programs.major}.ready"
    if not whole.exists():
        shutil.rmtree(data, ignore_errors=True)
        server.initialize(settings)
        whole.touch()
    server.override = {"unix_socket_directories": str(socket_dir)}
    stop_leftover(data)  # of a laptop that was killed
    server.start()
    stack.callback(server.stop, how=signal.SIGINT)
    return server


def _has_database(server: Server, name: str) -> bool:
    with server.endpoint().connect(autocommit=True) as connection:
        row = connection.execute(
            "SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name]
        ).fetchone()
        return row is not None


def _fill(laptop_folder: Path, server: Server, programs: Programs, name: str) -> None:
    """Make and fill one of the demo's databases, unless it is there whole."""
    mark = laptop_folder / f"database-{name}-{programs.major}.ready"
    if mark.exists() and _has_database(server, name):
        return
    if _has_database(server, name):
        with server.endpoint().connect(autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )
    create_database(server.endpoint(), name)
    if name != "empty":
        load(server.endpoint(name), programs, name)  # type: ignore[arg-type]
    mark.touch()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second laptop out of the same folder.

    :raises ConfigurationError: there is one.
    """
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another make demo or make dev uses {folder}", hint="end that one first"
            ) from None
        yield


@contextmanager
def run_laptop(
    folder: Path,
    *,
    databases: tuple[str, ...] = DATABASES,
    vault: str | None = None,
    cloud_sql: bool = False,
) -> Iterator[Laptop]:
    """Run the servers, with the databases filled; all of it ends when the ``with`` is left.

    :param folder: where the data stays.
    :param vault: the vault's address; one in Cloud Storage has the local cloud run, with such a
        bucket. By default it is in the folder.
    :param cloud_sql: whether the local cloud has the shop in Cloud SQL too, and a replica of it in
        the other region.
    :raises NoServer: no PostgreSQL programs.
    :raises ConfigurationError: there can be no vault of that address.
    """
    if vault is not None:
        open_vault(vault)  # an address that can't be is told before anything starts
    folder = folder.absolute()
    folder.mkdir(mode=0o711, exist_ok=True)
    folder.chmod(0o711)
    programs = reachable_programs(demo_programs())
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        source = _start(stack, folder, "source", programs, _SOURCE_SETTINGS)
        storage = _start(stack, folder, "storage", programs, _STORAGE_SETTINGS)
        if not _has_database(storage, "dagster"):
            create_database(storage.endpoint(), "dagster")
        for name in databases:
            _fill(folder, source, programs, name)
        home = folder / "dagster"
        home.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(instance_config(), home / "dagster.yaml")
        # Without it Dagster's first page is hidden by an invitation.
        (home / ".nux").mkdir(exist_ok=True)
        (home / ".nux" / "nux.yaml").write_text("seen: 1\n")
        # Servers that a restore has kept would outlive us: they end with the laptop.
        work_dir = _servers_folder(folder).resolve() / "work"
        work_dir.mkdir(mode=0o711, exist_ok=True)
        stack.callback(sweep, work_dir, kept_too=True)
        vault = vault or (folder / "vault").as_uri()
        cloud = _start_cloud(stack, folder, vault) if vault.startswith("gs:") else None
        environment = {
            "DAGSTER_HOME": str(home),
            "RESIL_DAGSTER_PG_URL": url_of(storage.endpoint("dagster"), "postgresql+psycopg2"),
            "RESIL_VAULT": vault,
            "RESIL_WORK_DIR": str(work_dir),
            **{f"{name.upper()}_URL": url_of(source.endpoint(name)) for name in DATABASES},
        }
        if cloud is not None:
            environment |= cloud.environment()
            environment["CLOUD_SHOP_PASSWORD"] = _password(folder, "cloud_shop")
            if cloud_sql:
                ensure_days(
                    cloud,
                    password=environment["CLOUD_SHOP_PASSWORD"],
                    major=programs.major,
                    days=CLOUD_DAYS,
                    scale=_CLOUD_SCALE,
                )
        yield Laptop(folder, programs, source, storage, vault, cloud, environment)


def _start_cloud(stack: ExitStack, folder: Path, vault: str) -> LocalCloud:
    """Start the local cloud, with a bucket in each region and the vault's."""
    bucket = urlsplit(vault).netloc
    places: Sequence[str] = [
        *(f"{name}={region}" for name, region in zip(BUCKETS, REGIONS, strict=True)),
        f"{LANDING_BUCKET}={REGIONS[0]}",
    ]
    if bucket not in (*BUCKETS, LANDING_BUCKET):
        places = [*places, f"{bucket}={REGIONS[0]}"]
    return stack.enter_context(run_local_cloud(folder / "cloud", buckets=places))


def instance_config() -> Path:
    """Return the laptop's ``dagster.yaml``, at the root of the checkout.

    :raises ConfigurationError: this is no checkout.
    """
    root = Path(str(resources.files("dagster_resil"))).parent
    file = root / "dagster.yaml"
    if not file.exists():
        raise ConfigurationError(
            f"there is no dagster.yaml in {root}",
            hint="run the demo from a checkout of dagster_resil",
        )
    return file


def workspace_file() -> Path:
    """Return the ``workspace.yaml`` beside it."""
    return instance_config().with_name("workspace.yaml")
