"""Scratch servers: where backups are restored to be looked at."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from dagster_resil import workspace
from dagster_resil.errors import NoServer, NoSpace
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import (
    Server,
    hand_over,
    reachable_programs,
    server_user,
    stop_leftover,
    walkable,
)
from dagster_resil.records.manifest import Collation
from dagster_resil.workspace import Workspace

log = logging.getLogger(__name__)

_SERVER_BYTES = 160_000_000
"""An empty cluster with its first WAL segments and some room for sorting."""
_GROWTH = 1.3
"""Indexes are built anew and tables load without holes, so a restored database is rarely larger
than its source; sorts and WAL need the rest."""

_SETTINGS = {
    # What it holds can be had again from the vault: nothing here has to survive a crash.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "max_connections": "40",
    # A dump locks every table of the database at once.
    "max_locks_per_transaction": "1024",
    # Containers give /dev/shm 64 MB, which parallel index builds overrun.
    "dynamic_shared_memory_type": "mmap",
    "jit": "off",
    # Tables may be loaded past the WAL, and would be empty after a crash: no server is better.
    "restart_after_crash": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}


def _memory() -> dict[str, str]:
    """Return the settings that depend on the machine's memory."""
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return {
        "shared_buffers": f"{max(128, min(1024, megabytes // 16))}MB",
        # Each of the connections that build indexes may take as much.
        "maintenance_work_mem": f"{max(64, min(1024, megabytes // 32))}MB",
    }


_TRUNCATE, _SIGNALS = 3, 6
"""The versions of Landlock since which it looks at truncate(2), and at signals."""


def _only_ours(programs: Programs) -> dict[str, str]:
    """Return the settings without which our own sessions change what is compared.

    A restored login trigger (from version 17 on) may write into a restored table.
    """
    return {"event_triggers": "off"} if programs.major >= 17 else {}


@dataclass
class ScratchServer:
    """A running server that is gone, with all its data, when its ``with`` is left."""

    server: Server
    workspace: Workspace
    version: str

    @property
    def programs(self) -> Programs:
        """Return the programs of the server's own version."""
        return self.server.programs

    @property
    def isolation(self) -> tuple[str, ...]:
        """Return how it is shut off, and what could not be."""
        user = server_user()
        stands = [
            "a unix socket in a private folder, no TCP",
            "no credentials in its environment",
            *([f"runs as uid {user}"] if user is not None else []),
        ]
        account = "this user" if user is None else f"uid {user}"
        walls = self.server.walls
        missing = []
        if walls.landlock:
            stands.append(
                "reads nothing but the system's programs and libraries and its own folders, and "
                "writes to nothing but its own folders (Landlock)"
            )
        else:
            missing.append(f"files that {account} may read or write (this system has no Landlock)")
        if 0 < walls.landlock < _TRUNCATE:
            missing.append(
                f"files that {account} may write, which it can empty, though not read or write "
                f"(this system's Landlock is version {walls.landlock}; {_TRUNCATE} could)"
            )
        if walls.network:
            stands.append("no network (a network namespace of its own)")
        elif walls.seccomp:
            stands.append("no network (the system refuses it such sockets: seccomp)")
        else:
            missing.append("the network (this system gives no namespace and no seccomp filter)")
        if walls.seccomp:
            stands.append("connects to no unix socket of another program (seccomp)")
        else:
            missing.append(f"unix sockets that {account} may connect to (no seccomp filter)")
        if walls.landlock >= _SIGNALS:
            stands.append("sends no signal to another program (Landlock)")
        else:
            missing.append(f"signals to other programs of {account} (they need Landlock 6)")
        if walls.shared_memory:
            stands.append("no shared memory of another program (an IPC namespace of its own)")
        else:
            missing.append(
                f"System V shared memory of {account} (this system gives no IPC namespace)"
            )
        if walls.no_new_privileges:
            stands.append("gains no rights from setuid programs (no_new_privs)")
        else:
            missing.append("setuid programs (this system has no no_new_privs)")
        return (*stands, *(f"not shut off: {what}" for what in missing))

    def endpoint(self, database: str = "postgres") -> Endpoint:
        """Return the superuser's way to one of its databases."""
        return self.server.endpoint(database)

    @property
    def alive(self) -> bool:
        """Return whether it still runs; it may have been killed for want of memory."""
        return self.server.alive

    def create_database(self, name: str, *, encoding: str, collation: Collation) -> Endpoint:
        """Create an empty database with that encoding and locale.

        A database of that name that initdb made is replaced.

        :raises NoServer: this server, or this machine, does not have the locale.
        """
        options = sql.SQL("TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Literal(encoding), sql.Literal(collation.collate), sql.Literal(collation.ctype)
        )
        if collation.provider == "icu":
            options += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(
                sql.Literal(collation.locale)
            )
        elif collation.provider == "builtin":
            options += sql.SQL(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(
                sql.Literal(collation.locale)
            )
        # template1 can't be dropped while a session is in it, and it is where we are.
        with self.endpoint("template1").connect(autocommit=True) as connection:
            identifier = sql.Identifier(name)
            try:
                if name != "template1":
                    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(identifier))
                    connection.execute(sql.SQL("CREATE DATABASE {} {}").format(identifier, options))
            except psycopg.errors.Error as error:
                locale = collation.locale or collation.collate
                raise NoServer(
                    f"the PostgreSQL {self.version} server here can't make a database with "
                    f"encoding {encoding} and {collation.provider} locale {locale!r}: "
                    f"{str(error).strip()}",
                    hint=_locale_hint(collation),
                ) from error
        return self.endpoint(name)


def _locale_hint(collation: Collation) -> str:
    if collation.provider == "icu":
        return "install a PostgreSQL that is built with ICU (Debian's and the PGDG's are)"
    return (
        f"make the locale on this machine (Debian: apt install locales; localedef -i "
        f"{collation.collate.split('.')[0]} -f UTF-8 {collation.collate})"
    )


def need_room(folder: Path, need_bytes: int, what: str) -> None:
    """Check the room on a folder's file system.

    :raises NoSpace: there is less than ``need_bytes``.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < need_bytes:
        raise NoSpace(
            f"not enough room in {folder} {what}: {need_bytes / 1e6:,.0f} MB needed, "
            f"{free_bytes / 1e6:,.0f} MB free",
            hint=f"free some, or name a roomier folder in {workspace.WORK_DIR_VARIABLE}",
        )


def scratch_bytes(database_bytes: int) -> int:
    """Return the room that a scratch server needs for a database of that size, in bytes."""
    return int(database_bytes * _GROWTH) + _SERVER_BYTES


@contextlib.contextmanager
def scratch_server(
    programs: Programs,
    *,
    superuser: str = "postgres",
    need_bytes: int = 0,
    work_dir: Path | None = None,
    space: Workspace | None = None,
) -> Iterator[ScratchServer]:
    """Run a scratch server.

    :param superuser: the name of its first role; the source's own, so that what belongs to it
        belongs to the same name.
    :param need_bytes: the size of the database that is to go in.
    :param space: a workspace to use in place of a new one.
    :raises NoSpace: not enough room for it.
    :raises ServerFailed: it does not start.
    """
    with contextlib.ExitStack() as stack:
        space = space or stack.enter_context(Workspace(work_dir))
        need_room(space.path, scratch_bytes(need_bytes), "for a scratch server")
        if server_user() is not None and not walkable(space.path):
            raise NoServer(
                f"PostgreSQL does not run as root, and uid {server_user()}, which it runs as, "
                f"can't walk into {space.path}",
                hint=f"name a folder that anybody may walk into in {workspace.WORK_DIR_VARIABLE} "
                "(or chmod o+x its parents)",
            )
        server = Server(
            reachable_programs(programs, work_dir),
            space.path / "data",
            space.socket_dir,
            superuser=superuser,
            walled=True,
        )
        hand_over(space.socket_dir)
        stack.callback(server.stop)
        server.initialize(_SETTINGS | _memory() | _only_ours(programs))
        server.start()
        yield ScratchServer(server, space, programs.version)


def keep(scratch: ScratchServer, for_s: float, database: str) -> tuple[str, float]:
    """Let a scratch server outlive this process; return its address and when that ends.

    The password is in a file of mode 600 beside the socket, so that the address can be shown.

    :return: libpq's ``key=value`` address without a secret, and a Unix time.
    """
    server = scratch.server
    server.stop(how=signal.SIGINT)
    # Others use it from now on, and find it as the source is.
    with (server.data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = on\n" for name in _only_ours(server.programs))
    server.start_detached(_log_file(scratch.workspace.path))
    passfile = scratch.workspace.path / "passfile"
    descriptor = os.open(passfile, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"*:*:*:*:{server.password}\n")
    until = scratch.workspace.keep(for_s)
    parameters = server.endpoint(database).parameters
    shown = {key: parameters[key] for key in ("host", "port", "user", "dbname")}
    address = conninfo.make_conninfo("", **shown, passfile=str(passfile))
    return address, until


def _log_file(folder: Path) -> Path:
    path = folder / "server.log"
    path.touch(mode=0o600)
    hand_over(path)
    return path


def sweep(work_dir: Path | None = None, *, kept_too: bool = False) -> list[str]:
    """Clear what a killed process left: servers, their data, half-made archives.

    :param kept_too: clear also the servers that were to stay for longer.
    :return: the folders that were removed.
    """
    removed = []
    for folder in workspace.abandoned(work_dir, kept_too=kept_too):
        stop_leftover(folder / "data")
        workspace.remove(folder)
        removed.append(str(folder))
    # A folder that its maker did not live to lock.
    for folder in workspace.work_root(work_dir).glob("new-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > 60:
                workspace.remove(folder)
    if removed:
        log.info("cleared %d abandoned work folders", len(removed), extra={"folders": removed})
    return removed
