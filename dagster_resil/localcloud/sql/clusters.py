"""The PostgreSQL clusters behind the instances: files, settings, servers.

    <folder>/secret                         the password of ``cloudsqladmin``, in every cluster
    <servers>/templates/<version>/          a cluster with the roles of Cloud SQL; copied
    <servers>/instances/<uid>/data/         an instance's cluster
    <servers>/instances/<uid>/archive-<n>/  its archived WAL
    <servers>/instances/<uid>/backups/…/    its backups
    <servers>/sockets/                      unix sockets, which only we use

``<servers>`` is below ``<folder>`` where the servers' user can walk into it, and otherwise below
/var/tmp, with a link in the folder that says where.

What a cluster holds need not survive a crash of the machine: fsync is off, and WAL comes in
segments of 1 MB, the smallest there are. The processes are killed with ours; that they do survive.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import google_crc32c
from psycopg import conninfo, sql

from dagster_resil.errors import ConfigurationError, ResilError
from dagster_resil.localcloud.sql.store import Instance, Store
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.programs import Programs, find_all
from dagster_resil.postgres.server import (
    Server,
    ServerFailed,
    dies_with_us,
    hand_over,
    reachable_programs,
    server_user,
    stop_leftover,
    walkable,
)
from dagster_resil.process import Completed, run

log = logging.getLogger(__name__)

ADMIN = "cloudsqladmin"
SUPERUSER = "cloudsqlsuperuser"
REPLICATION = "cloudsqlreplica"
IMPORTER = "cloudsqlimportexport"
OWN_ROLES = frozenset({ADMIN, SUPERUSER, REPLICATION, IMPORTER})
OWN_DATABASES = frozenset({ADMIN, "template0", "template1"})
"""Databases that are the service's own: no export has them."""

_PORTS = (15_000, 32_000)
"""Below those that the kernel gives to outgoing connections, one of which might otherwise have an
instance's port while that is restarted."""
_PORT_TRIES = 20
_STARTERS = 4
_PROGRAM_TIMEOUT_S = 600
_SOCKET_PATH_MAX_BYTES = 90
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_CRC_PLACES = range(100, 1000, 4)

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "replica",
    "archive_mode": "on",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_connections": "60",
    "max_prepared_transactions": "0",
    "max_locks_per_transaction": "256",
    "shared_buffers": "32MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "30min",
    "dynamic_shared_memory_type": "mmap",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "hot_standby": "on",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
}
OWN_SETTINGS = frozenset(_SETTINGS) - {"max_connections", "max_prepared_transactions"} | {
    "port",
    "unix_socket_directories",
    "archive_command",
    "archive_library",
    "restore_command",
    "primary_conninfo",
    "primary_slot_name",
    "data_directory",
    "hba_file",
    "config_file",
    "cluster_name",
}
"""Settings that no database flag can change."""

_CONF = "localcloud.conf"
_COPY = "cp --sparse=always" if sys.platform == "linux" else "cp"
"""A segment that ends early is zeros to its end, which take no room so."""


class Clusters:
    """The clusters of every instance.

    :param folder: where the local Cloud SQL keeps what it knows; private.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._servers: dict[str, Server] = {}
        self._lock = threading.RLock()
        self._locks: dict[str, threading.RLock] = {}
        self._programs: dict[int, Programs] = {}
        self._closed = False
        # A server gets its death signal when the thread that started it ends, so these threads
        # live as long as we do.
        self._starters = ThreadPoolExecutor(_STARTERS, thread_name_prefix="server-starter")
        self._made: Path | None = None

    # -- places

    @property
    def root(self) -> Path:
        """Return where the servers' files are; made when it is asked for first."""
        with self._lock:
            if self._made is None:
                self._made = _servers_folder(self._folder)
                for name in ("templates", "instances"):
                    (self._made / name).mkdir(mode=0o711, exist_ok=True)
            return self._made

    @property
    def socket_dir(self) -> Path:
        """Return where the unix sockets are."""
        place = self.root / "sockets"
        if len(os.fsencode(place)) > _SOCKET_PATH_MAX_BYTES or not _PLAIN.fullmatch(str(place)):
            # Too long for a socket, or of a form that a list of folders would have to quote.
            mark = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
            place = Path("/tmp") / f"resil-sql-{os.geteuid()}-{mark}"  # noqa: S108 - mode 700
        place.mkdir(mode=0o700, exist_ok=True)
        if place.is_symlink() or place.stat().st_uid not in (os.geteuid(), server_user()):
            raise ConfigurationError(
                f"{place} belongs to somebody else", hint="remove it, or use another folder"
            )
        hand_over(place)
        return place

    def home(self, uid: str) -> Path:
        """Return an instance's folder."""
        return self.root / "instances" / uid

    def data(self, instance: Instance) -> Path:
        """Return a cluster's data folder."""
        return self.home(instance.uid) / "data"

    def archive(self, instance: Instance) -> Path:
        """Return where an instance's WAL is archived."""
        return self.home(instance.uid) / f"archive-{instance.archive}"

    def backups(self, uid: str) -> Path:
        """Return where an instance's backups are."""
        return self.home(uid) / "backups"

    def hold_file(self, instance: Instance) -> Path:
        """Return the file that stops an instance's archiver while it is there."""
        return self.home(instance.uid) / "hold"

    def make_home(self, instance: Instance) -> None:
        """Make an instance's folders."""
        home = self.home(instance.uid)
        for place in (home, self.archive(instance), self.backups(instance.uid)):
            place.mkdir(mode=0o700, exist_ok=True)
            hand_over(place)

    def mend_home(self, instance: Instance) -> None:
        """Put a cluster back that a local cloud did not live to replace."""
        data = self.data(instance)
        old = data.with_name("data.old")
        if old.exists() and not data.exists():
            old.rename(data)

    def remove_home(self, uid: str) -> None:
        """Remove an instance's folders."""
        shutil.rmtree(self.home(uid), ignore_errors=True)
        with self._lock:
            self._locks.pop(uid, None)

    @property
    def password(self) -> str:
        """Return the password of our own roles.

        One for all: a clone, a replica or a restored instance has its source's.
        """
        file = self._folder / "secret"
        with self._lock:
            if not file.exists():
                temporary = file.with_suffix(".new")
                descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(secrets.token_urlsafe(24))
                temporary.replace(file)
            return file.read_text()

    # -- programs

    def majors(self) -> list[int]:
        """Return the major versions of PostgreSQL that this machine can run."""
        return sorted({each.major for each in find_all() if each.has_server})

    def programs(self, major: int) -> Programs:
        """Return the programs of a major version.

        :raises ServerFailed: there are none any more.
        """
        with self._lock:
            if major not in self._programs:
                fitting = [each for each in find_all() if each.has_server and each.major == major]
                if not fitting:
                    raise ServerFailed(f"no PostgreSQL {major} on this machine")
                self._programs[major] = reachable_programs(fitting[0])
            return self._programs[major]

    def run(
        self,
        instance_major: int,
        program: str,
        *arguments: str | Path,
        database: Endpoint | None = None,
        as_server: bool = False,
        watch: Callable[[], None] | None = None,
    ) -> Completed:
        """Run one of PostgreSQL's programs to its end; it ends with us.

        :param as_server: as the user that owns the servers' files.
        :param watch: called all the while; what it raises ends the program.
        """
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        if database is not None:
            environment |= database.child_environment()
        return run(
            [
                *dies_with_us("KILL"),
                self.programs(instance_major).path(program),
                *arguments,
            ],
            env=environment,
            cwd="/",
            user=server_user() if as_server else None,
            timeout_s=_PROGRAM_TIMEOUT_S,
            watch=watch,
        )

    # -- making

    def create(self, instance: Instance) -> None:
        """Make an instance's cluster: a copy of the template, with an identifier of its own.

        :raises ServerFailed: it can't be made.
        """
        self.make_home(instance)
        programs = self.programs(instance.major)
        if not (programs.bin_dir / "pg_resetwal").is_file():
            # Servers come without it too. Then initdb, which takes longer, gives the identifier.
            with _socket_folder() as socket_dir:
                _make_template(programs, self.data(instance), socket_dir, self.password)
            return
        template = self._template(instance.major)
        copy_files(template, self.data(instance))
        _set_identifier(self.data(instance) / "global" / "pg_control")
        # The WAL carries the identifier too: begin it anew.
        reset = self.run(instance.major, "pg_resetwal", "-D", self.data(instance), as_server=True)
        if not reset.ok:
            raise ServerFailed(f"pg_resetwal failed: {reset.complaint}")

    def _template(self, major: int) -> Path:
        programs = self.programs(major)
        template = self.root / "templates" / programs.version
        with self._lock:
            if not template.exists():
                making = template.with_name(f".{template.name}")
                shutil.rmtree(making, ignore_errors=True)
                try:
                    with _socket_folder() as socket_dir:
                        _make_template(programs, making, socket_dir, self.password)
                    # It is shut down and needs none; each copy begins its WAL anew.
                    for segment in (making / "pg_wal").glob("0*"):
                        segment.unlink()
                    making.rename(template)
                finally:
                    shutil.rmtree(making, ignore_errors=True)
        return template

    def configure(self, instance: Instance, more: Mapping[str, str]) -> None:
        """Write a cluster's settings: ours, the instance's database flags, and more."""
        archive, hold = self.archive(instance), self.hold_file(instance)
        folder = command_path(archive)
        keep = (
            f"test ! -e {command_path(hold)} && {_COPY} '%p' {folder}/'%f.part' && "
            f"mv {folder}/'%f.part' {folder}/'%f'"
        )
        settings = {
            **_SETTINGS,
            "port": str(instance.port),
            "unix_socket_directories": str(self.socket_dir),
            "archive_command": keep if instance.has_recovery else "/bin/true",
            "cluster_name": f"{instance.project}:{instance.name}"[:60],
        }
        for flag in instance.settings.get("databaseFlags", ()):
            name, value = flag["name"], flag.get("value", "on")
            if name == "cloudsql.logical_decoding" and value == "on":
                settings["wal_level"] = "logical"
            elif name not in OWN_SETTINGS:
                settings[name] = value
        if instance.primary is not None:
            primary = self._store.instance(instance.project, instance.primary)
            if primary is not None:
                settings["primary_conninfo"] = conninfo.make_conninfo(
                    "",
                    host=str(self.socket_dir),
                    port=primary.port,
                    user=REPLICATION,
                    password=self.password,
                    application_name=instance.name,
                )
                settings["primary_slot_name"] = slot_name(instance)
        settings |= more
        text = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
        file = self.data(instance) / _CONF
        descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        hand_over(file)

    # -- running

    @contextmanager
    def _alone(self, uid: str) -> Iterator[None]:
        """Let nobody else start or stop a server meanwhile."""
        with self._lock:
            lock = self._locks.setdefault(uid, threading.RLock())
        with lock:
            yield

    def start(
        self, instance: Instance, *, more: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> Instance:
        """Start an instance's server, unless it runs, and wait until it answers.

        :param more: settings for this start.
        :return: the instance, which may have got another port.
        :raises ServerFailed: it does not start; its words are in the message.
        """
        with self._alone(instance.uid):
            if self.alive(instance):
                return instance
            port = instance.port
            instance = self._start(instance, more or {}, timeout_s)
        if instance.port != port:
            self._tell_replicas(instance)
        return instance

    def _tell_replicas(self, primary: Instance) -> None:
        """Have the replicas that run look for their primary at its new port."""
        for each in self._store.instances(primary.project):
            if each.primary == primary.name and self.alive(each):
                self.configure(each, {})
                with self.admin(each) as connection:
                    connection.execute("SELECT pg_reload_conf()")

    def _start(self, instance: Instance, more: Mapping[str, str], timeout_s: float) -> Instance:
        stop_leftover(self.data(instance))  # of a local cloud that was killed
        for left in reversed(range(_PORT_TRIES)):
            if not _port_is_free(instance.port):
                instance = self._with_new_port(instance)
            self.configure(instance, more)
            server = Server(
                self.programs(instance.major),
                self.data(instance),
                self.socket_dir,
                superuser=ADMIN,
                port=instance.port,
                password=self.password,
            )
            try:
                self._starters.submit(partial(server.start, timeout_s=timeout_s)).result()
            except ServerFailed as error:
                if left and "could not create any TCP/IP sockets" in str(error):
                    instance = self._with_new_port(instance)
                    continue
                raise
            with self._lock:
                if self._closed:
                    server.stop()
                    raise ServerFailed("the local cloud ends")
                self._servers[instance.uid] = server
            return instance
        raise ServerFailed("no port is free")

    def _with_new_port(self, instance: Instance) -> Instance:
        port = self.free_port()
        with self._store.locked():
            current = self._store.instance(*instance.key)
            if current is not None and current.uid == instance.uid:
                self._store.put_instance(replace(current, port=port))
        return replace(instance, port=port)

    def free_port(self) -> int:
        """Return a port that nobody uses, and that no instance has."""
        taken = {each.port for each in self._store.instances()}
        for _ in range(1000):
            port = random.randrange(*_PORTS)  # noqa: S311 - not a secret
            if port not in taken and _port_is_free(port):
                return port
        raise ResilError("no port of this machine is free for another instance")

    def stop(self, instance: Instance, *, how: signal.Signals = signal.SIGINT) -> None:
        """Stop an instance's server, if it runs."""
        with self._alone(instance.uid):
            with self._lock:
                server = self._servers.pop(instance.uid, None)
            if server is not None:
                server.stop(how=how)

    def alive(self, instance: Instance) -> bool:
        """Return whether an instance's server runs."""
        server = self._servers.get(instance.uid)
        return server is not None and server.alive

    def pid(self, instance: Instance) -> int | None:
        """Return the number of an instance's postmaster, while it runs."""
        server = self._servers.get(instance.uid)
        return server.pid if server is not None and server.alive else None

    def close(self) -> None:
        """Stop every server."""
        with self._lock:
            self._closed = True
            servers = list(self._servers.values())
            self._servers.clear()
        # Standbys and primaries at a time: a primary waits for its standbys at its end.
        list(self._starters.map(lambda server: server.stop(how=signal.SIGINT), servers))
        self._starters.shutdown()
        if self._made is not None:
            shutil.rmtree(self.socket_dir, ignore_errors=True)

    def each(self, work: Callable[[Instance], None], instances: Iterable[Instance]) -> None:
        """Do something for several instances at a time, each in a thread of its own."""
        threads = [threading.Thread(target=work, args=(each,)) for each in instances]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # -- talking

    def endpoint(self, instance: Instance, database: str = "postgres") -> Endpoint:
        """Return our own way to one of an instance's databases.

        :raises ServerFailed: it does not run.
        """
        server = self._servers.get(instance.uid)
        if server is None or not server.alive:
            raise ServerFailed(f"the server of instance {instance.name} does not run")
        return server.endpoint(database)

    @contextmanager
    def admin(self, instance: Instance, database: str = "postgres") -> Iterator[Connection]:
        """Yield a connection as ``cloudsqladmin``, who alone is a superuser."""
        with self.endpoint(instance, database).connect(autocommit=True) as connection:
            connection.execute("SET statement_timeout = 0")
            yield connection

    def set_password(self, instance: Instance, role: str, password: str) -> None:
        """Set a role's password."""
        with self.admin(instance) as connection:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )

    # -- copies

    def base_backup(
        self,
        instance: Instance,
        target: Path,
        *,
        packed: bool = False,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Copy a running cluster's files, with the WAL that makes them whole.

        :param packed: into tar files: a thousand small files cost ten times as much to make.
        :raises ServerFailed: it can't be copied; pg_basebackup's words are in the message.
        """
        endpoint = self.endpoint(instance)
        target.mkdir(mode=0o700)
        hand_over(target)
        try:
            done = self.run(
                instance.major,
                "pg_basebackup",
                f"--host={endpoint.parameters['host']}",
                f"--port={endpoint.parameters['port']}",
                f"--username={ADMIN}",
                f"--pgdata={target}",
                f"--format={'tar' if packed else 'plain'}",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--no-sync",
                "--no-manifest",
                "--no-password",
                database=endpoint,
                as_server=True,
                watch=watch,
            )
            if not done.ok:
                raise ServerFailed(f"pg_basebackup failed: {done.complaint}")
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def unpack(self, base: Path, target: Path) -> None:
        """Make a cluster's files of a base that was packed.

        :raises ServerFailed: tar failed.
        """
        target.mkdir(mode=0o700)
        hand_over(target)
        for name, place in (("base.tar", target), ("pg_wal.tar", target / "pg_wal")):
            done = run(
                [*dies_with_us("KILL"), "tar", "-xf", base / name, "-C", place],
                cwd="/",
                user=server_user(),
                timeout_s=_PROGRAM_TIMEOUT_S,
            )
            if not done.ok:
                shutil.rmtree(target, ignore_errors=True)
                raise ServerFailed(f"can't unpack {base / name}: {done.complaint}")

    def timeline(self, base: Path) -> int:
        """Return the timeline that a packed base begins with."""
        with tarfile.open(base / "base.tar") as archive:
            label = archive.extractfile("backup_label")
            text = label.read().decode() if label is not None else ""
        found = re.search(r"^START TIMELINE: (\d+)$", text, re.MULTILINE)
        if not found:
            raise ServerFailed(f"{base} has no backup_label")
        return int(found[1])


def slot_name(instance: Instance) -> str:
    """Return the name of a replica's replication slot on its primary."""
    return f"replica_{instance.uid}"


def command_path(path: Path) -> str:
    """Return a path as a word of a command that PostgreSQL gives to the shell."""
    return shlex.quote(str(path)).replace("%", "%%")


def _quoted(value: str) -> str:
    """Return a value as postgresql.conf has it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def place_file(file: Path) -> None:
    """Make an empty file in a cluster, as PostgreSQL's signals are."""
    file.touch(mode=0o600)
    hand_over(file)


def copy_files(source: Path, target: Path) -> None:
    """Copy a cluster's files with their owners and modes.

    :raises ServerFailed: cp failed.
    """
    # cp: several times as quick as Python's own for a thousand small files.
    copied = run(["cp", "-Rp", source, target], cwd="/", timeout_s=_PROGRAM_TIMEOUT_S)
    if not copied.ok:
        shutil.rmtree(target, ignore_errors=True)
        raise ServerFailed(f"can't copy a cluster's files: {copied.complaint}")


def _servers_folder(folder: Path) -> Path:
    inside = folder / "servers"
    if inside.exists():
        return inside.resolve()
    if server_user() is None or walkable(folder.resolve()):
        inside.mkdir(mode=0o711)
        return inside.resolve()
    # Root's servers run as somebody else, who can't walk into the folder.
    mark = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    outside = Path("/var/tmp") / f"resil-sql-{os.geteuid()}-{mark}"  # noqa: S108 - checked below
    outside.mkdir(mode=0o711, exist_ok=True)
    if outside.is_symlink() or outside.lstat().st_uid != os.geteuid():
        raise ConfigurationError(
            f"{outside} belongs to somebody else", hint="remove it, or use another folder"
        )
    inside.unlink(missing_ok=True)
    inside.symlink_to(outside)
    return outside


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _make_template(programs: Programs, data: Path, socket_dir: Path, password: str) -> None:
    hand_over(socket_dir)
    server = Server(programs, data, socket_dir, superuser=ADMIN, password=password)
    server.initialize({"fsync": "off"}, options=["--wal-segsize=1"])
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"include_if_exists = '{_CONF}'\n")
    server.start()
    try:
        with server.endpoint().connect(autocommit=True) as connection:
            _make_roles(connection, programs.major, password)
            connection.execute(f"CREATE DATABASE {ADMIN}")
            connection.execute(f"REVOKE CONNECT, TEMP ON DATABASE {ADMIN} FROM PUBLIC")
            connection.execute(f"ALTER DATABASE postgres OWNER TO {SUPERUSER}")
        with server.endpoint(ADMIN).connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE public.heartbeat (at timestamptz NOT NULL)")
            connection.execute("INSERT INTO public.heartbeat VALUES (clock_timestamp())")
    finally:
        server.stop(how=signal.SIGINT)


@contextmanager
def _socket_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="resil-", dir="/tmp") as folder:
        yield Path(folder)


def _make_roles(connection: Connection, major: int, password: str) -> None:
    """Make the roles of Cloud SQL: ``postgres`` is no superuser there."""
    execute = connection.execute
    execute(f"CREATE ROLE {SUPERUSER} CREATEDB CREATEROLE")
    execute(f"GRANT pg_monitor, pg_signal_backend TO {SUPERUSER} WITH ADMIN OPTION")
    execute(f"CREATE ROLE postgres LOGIN CREATEDB CREATEROLE IN ROLE {SUPERUSER}")
    execute(f"CREATE ROLE {IMPORTER} CREATEDB CREATEROLE IN ROLE {SUPERUSER}")
    execute(
        sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}").format(
            sql.Identifier(REPLICATION), sql.Literal(password)
        )
    )
    if major >= 16:
        # From 16 on CREATEROLE alone no longer lets it give these to its own users.
        execute(
            "GRANT pg_read_all_data, pg_write_all_data TO postgres "
            "WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        )


def _set_identifier(control_file: Path) -> None:
    """Give a cluster that is shut down a system identifier of its own.

    It is the first field of pg_control, whose CRC-32C follows its last field; where that is
    depends on the version, so the place is found where the CRC fits (src/include/catalog/
    pg_control.h).

    :raises ServerFailed: it fits nowhere.
    """
    data = bytearray(control_file.read_bytes())
    for place in _CRC_PLACES:
        if google_crc32c.value(bytes(data[:place])) == struct.unpack_from("=I", data, place)[0]:
            break
    else:
        raise ServerFailed("pg_control has a form that is unknown here")
    now = time.time_ns() // 1000
    # As initdb makes it: seconds, microseconds, and twelve more bits.
    identifier = (now // 1_000_000) << 32 | (now % 1_000_000) << 12 | secrets.randbits(12)
    struct.pack_into("=Q", data, 0, identifier)
    struct.pack_into("=I", data, place, google_crc32c.value(bytes(data[:place])))
    control_file.write_bytes(data)
