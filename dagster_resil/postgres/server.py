"""Running a PostgreSQL server of our own: for scratch work, for the demo, for tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import psycopg

from dagster_resil.errors import CannotProve
from dagster_resil.postgres import walls
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.process import Child, ProcessTimeout, run
from dagster_resil.workspace import work_root

NOBODY = 65534
"""Whom a root-owned process runs servers as: PostgreSQL refuses root, and the account has
nothing of its own."""
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
_NAMESPACE = "namespace"
"""A file beside the data folder."""
_STRAYS_S = 5.0
"""They are killed, so what takes longer starts new processes faster than they end."""
_LOCALES = "LOCPATH"
"""Where glibc looks for locales that are not the system's."""
_LIBRARIES = "LD_LIBRARY_PATH"
PORT = 5432
"""The name of the socket in a private folder, not a port of the machine."""


class ServerFailed(CannotProve):
    """A server of ours did not start."""

    code = "server_failed"


def server_user() -> int | None:
    """Return the uid that servers run as; None for our own."""
    return NOBODY if os.geteuid() == 0 else None


def hand_over(path: Path) -> None:
    """Give a file or folder to the user that servers run as."""
    user = server_user()
    if user is not None:
        os.chown(path, user, user)


def _server_environment() -> dict[str, str]:
    # No credentials, no home: what a restored function could reach is what is listed here.
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C", "LC_ALL": "C", "HOME": "/nonexistent"}
    if _LOCALES in os.environ:
        environment[_LOCALES] = os.environ[_LOCALES]
    return environment


@lru_cache(maxsize=1)
def _tools() -> tuple[str | None, str | None]:
    return shutil.which("unshare"), shutil.which("setpriv")


@lru_cache(maxsize=1)
def _namespaces() -> tuple[str, ...]:
    """Return the words that put a command into empty namespaces, as far as the system may."""
    unshare, _ = _tools()
    if not unshare:
        return ()
    first = () if os.geteuid() == 0 else ("--user", "--map-current-user")
    for kinds in (("--net", "--ipc"), ("--net",)):
        words = (unshare, *first, *kinds, "--")
        with contextlib.suppress(OSError, ProcessTimeout):
            if run([*words, "/bin/true"], timeout_s=10).ok:
                return words
    return ()


@dataclass(frozen=True)
class Walls:
    """What keeps a server from all but its own folders; see docs/isolation.md.

    :ivar network: it is in a network namespace of its own.
    :ivar shared_memory: System V shared memory is in a namespace of its own.
    :ivar landlock: the version of Landlock that bounds its files; 0 for none.
    :ivar no_new_privileges: no program that it runs gives it more rights.
    :ivar seccomp: the kernel refuses it sockets but unix sockets, and to connect these.
    """

    network: bool = False
    shared_memory: bool = False
    landlock: int = 0
    no_new_privileges: bool = False
    seccomp: bool = False


_SYSTEM = tuple(
    f"{root}/{folder}"
    for root in ("", "/usr", "/usr/local")
    for folder in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "share")
)
_READS = (
    *_SYSTEM,
    # Where every program's libraries are, on systems that have no others.
    *("/nix/store", "/gnu/store", "/home/linuxbrew/.linuxbrew"),
    # What the C library reads: libraries, names of users, times and locales.
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/ld-musl-*.path", "/etc/nsswitch.conf"),
    *("/etc/passwd", "/etc/group", "/etc/localtime", "/etc/timezone", "/etc/locale.alias"),
    # What OpenSSL, which pgcrypto uses, fails without.
    *("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/crypto-policies"),
    # Languages that functions are written in.
    *("/etc/perl", "/etc/python3", "/etc/python3.*", "/etc/R", "/etc/java-*"),
    # Debian's dictionaries for text search.
    "/var/cache/postgresql",
    # How many processors there are, and how much memory.
    *("/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"),
    "/proc/sys/vm/overcommit_memory",
)
"""What a walled server may read besides its own and PostgreSQL's folders."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def _readable(programs: Programs) -> Iterator[str]:
    for path in _READS:
        root, star, _ = path.partition("*")
        if star:
            folder, _, start = root.rpartition("/")
            yield from map(str, Path(folder).glob(f"{start}*"))
        else:
            yield path
    for configuration in Path("/etc/ld.so.conf.d").glob("*.conf"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in map(str.strip, configuration.read_text().splitlines()):
                place = Path(line)
                if place.is_absolute() and place.name.startswith("lib"):
                    yield from (str(place), str(place.with_name("share")))
    installation = programs.bin_dir.parent
    for name in ("lib", "lib64", "share", "libexec", "etc"):
        yield str(installation / name)
    yield str(programs.bin_dir)
    # Where a wheel has the libraries that its programs come with.
    yield str(installation.parent.with_name(f"{installation.parent.name}.libs"))
    yield from filter(os.path.isabs, os.environ.get(_LOCALES, "").split(":"))


def dies_with_us(signal_name: str) -> tuple[str, ...]:
    """Return the words that make a command get a signal when our thread ends (Linux)."""
    _, setpriv = _tools()
    if setpriv and _setpriv_works(setpriv):
        return (setpriv, "--pdeathsig", signal_name, "--")
    return ()


@lru_cache(maxsize=1)
def _setpriv_works(setpriv: str) -> bool:
    with contextlib.suppress(OSError, ProcessTimeout):
        return run([setpriv, "--pdeathsig", "TERM", "--", "/bin/true"], timeout_s=10).ok
    return False


def reachable_programs(programs: Programs, work_dir: Path | None = None) -> Programs:
    """Return the programs at a place from which the servers' user can run them.

    A virtual environment below /root can't be walked into by anybody else, so the bundled
    programs are copied out of it, once.
    """
    if server_user() is None or walkable(programs.bin_dir):
        return programs
    installation = programs.bin_dir.parent
    mark = hashlib.sha256(f"{installation}:{programs.version}".encode()).hexdigest()[:12]
    copy = work_root(work_dir) / f"programs-{programs.version}-{mark}"
    if not copy.exists():
        making = copy.with_name(f"{copy.name}.{os.getpid()}.{secrets.token_hex(3)}")
        try:
            shutil.copytree(installation, making, symlinks=True)
            making.chmod(0o755)
            with contextlib.suppress(OSError):  # another process was quicker
                making.rename(copy)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return replace(programs, bin_dir=copy / programs.bin_dir.name)


def walkable(folder: Path) -> bool:
    """Return whether anybody may walk into a folder."""
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))


class Server:
    """A PostgreSQL server with its data in one folder.

    :param data: its data folder; made by :meth:`initialize`.
    :param socket_dir: where its unix socket is; private.
    :param port: a TCP port of 127.0.0.1, or None for no TCP at all.
    :param walled: keep it from all but its own folders, as far as the system allows.
    :ivar override: settings for the next start that come before postgresql.conf's.
    """

    def __init__(
        self,
        programs: Programs,
        data: Path,
        socket_dir: Path,
        *,
        superuser: str = "postgres",
        port: int | None = None,
        walled: bool = False,
        password: str | None = None,
    ) -> None:
        self.programs = programs
        self.data = data
        self.socket_dir = socket_dir
        self.superuser = superuser
        self.port = port
        self.password = password or secrets.token_urlsafe(24)
        self.override: Mapping[str, str] = {}
        self.walls = Walls()
        # Only Linux has such walls.
        self._walled = walled and port is None and sys.platform == "linux" and bool(sys.executable)
        self._child: Child | None = None
        self._namespace = _Namespace(None)

    def endpoint(self, database: str = "postgres") -> Endpoint:
        """Return the superuser's way to one of its databases."""
        return Endpoint(
            {
                "host": str(self.socket_dir),
                "port": str(self.port or PORT),
                "user": self.superuser,
                "dbname": database,
                # What the environment says of the source must not reach this server.
                "options": "",
                "sslmode": "disable",
                "gssencmode": "disable",
            },
            self.password,
            private=True,
        )

    def initialize(self, settings: Mapping[str, str], *, options: Sequence[str] = ()) -> None:
        """Make the data folder: UTF-8, locale C, password logins only.

        :param settings: lines for postgresql.conf.
        :raises ServerFailed: initdb failed; its words are in the message.
        """
        user = server_user()
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        hand_over(self.data)
        hand_over(self.socket_dir)
        password_file = self.socket_dir / "initial"
        descriptor = os.open(password_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password)
        hand_over(password_file)
        try:
            made = run(
                [
                    self.programs.path("initdb"),
                    f"--pgdata={self.data}",
                    f"--username={self.superuser}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-sync",
                    *options,
                ],
                env=_server_environment(),
                cwd="/",
                user=user,
                timeout_s=120,
            )
        finally:
            password_file.unlink()
        if not made.ok:
            raise ServerFailed(
                f"initdb {self.programs.version} failed: {made.complaint}",
                hint="is there room and a working tzdata on this machine? try: resil check",
            )
        lines = {
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": str(self.port or PORT),
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
            "lc_messages": "C",
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            for key, value in lines.items():
                quoted = value.replace("'", "''")
                file.write(f"{key} = '{quoted}'\n")

    def _start_child(self, command: Sequence[str | Path], *, log_file: Path | None = None) -> Child:
        """Start the server's program.

        :param log_file: given for a server that outlives us, where it writes to.
        """
        dies = log_file is None
        environment = _server_environment()
        if not self._walled:
            # QUIT is PostgreSQL's immediate shutdown.
            words = dies_with_us("QUIT") if dies else ()
            return Child([*words, *command], env=environment, cwd="/", user=server_user())
        written = (self.data, self.socket_dir, *([] if log_file is None else [log_file]))
        order = {
            "reads": list(_readable(self.programs)),
            "writes": [str(path) for path in written],
            "devices": _DEVICES,
            "user": server_user(),
            "death_signal": int(signal.SIGQUIT) if dies else 0,
            "parent": os.getpid(),
            "command": [str(word) for word in command],
            "environment": environment,
        }
        python = [sys.executable, "-I", "-S", walls.__file__, json.dumps(order)]
        # Some Pythons find their own library by it.
        libraries = {name: os.environ[name] for name in (_LIBRARIES,) if name in os.environ}
        # The namespaces come first: root alone may make them.
        return Child(
            [*_namespaces(), *python],
            env=environment | libraries,
            cwd="/",
            name=Path(command[0]).name,
        )

    def _standing(self, output: str) -> Walls:
        if not self._walled:
            return Walls()
        return Walls(
            network="--net" in _namespaces(),
            shared_memory="--ipc" in _namespaces(),
            **json.loads(output.partition("\n")[0]),
        )

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it as a child that dies with us, and wait until it answers.

        On Linux it dies with the *thread* that starts it: that one has to outlive it.

        :raises ServerFailed: it did not; the end of its log is in the message.
        """
        self._child = self._start_child(
            [
                self.programs.path("postgres"),
                "-D",
                self.data,
                *(f"--{key}={value}" for key, value in self.override.items()),
            ]
        )
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                said = self._child.errors().strip()[-2000:]
                self.stop()
                raise ServerFailed(
                    f"the PostgreSQL {self.programs.version} server did not start: {said}",
                    hint="is there enough memory and disk? try: resil check",
                )
            time.sleep(0.02)
        # Read before anything is restored, which could write to the same file.
        self.walls = self._standing(self._child.output())
        self._namespace = self._noted_namespace(self._child.pid)

    def _noted_namespace(self, pid: int | None) -> _Namespace:
        """Write down which namespace is its own, for the janitor."""
        namespace = _Namespace(pid if self.walls.network else None)
        if self.walls.network:
            self.data.with_name(_NAMESPACE).write_text(str(namespace.number))
        return namespace

    def start_detached(self, log_file: Path) -> None:
        """Start it so that it outlives us, and wait until it answers."""
        with self._start_child(
            [
                self.programs.path("pg_ctl"),
                f"--pgdata={self.data}",
                f"--log={log_file}",
                "--wait",
                "--silent",
                "start",
            ],
            log_file=log_file,
        ) as child:
            started = child.wait(timeout_s=START_TIMEOUT_S)
            if started.ok:
                child.leave_group()
                self.walls = self._standing(started.stdout)
        if not started.ok or not self.answers():
            raise ServerFailed(
                f"the PostgreSQL {self.programs.version} server did not start: {started.complaint}",
                hint=f"its log is {log_file}",
            )
        self._noted_namespace(_postmaster(self.data)).close()

    def answers(self) -> bool:
        """Return whether it takes connections now."""
        with contextlib.suppress(psycopg.Error):
            endpoint = self.endpoint()
            with psycopg.connect(
                "",
                autocommit=True,
                connect_timeout=5,
                password=self.password,
                **endpoint.parameters,  # type: ignore[arg-type]
            ):
                return True
        return False

    @property
    def alive(self) -> bool:
        """Return whether the child that :meth:`start` made still runs."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """Return the process number of the child that :meth:`start` made."""
        return None if self._child is None else self._child.pid

    def log_tail(self) -> str:
        """Return the end of what the server wrote."""
        return self._child.errors()[-4000:] if self._child is not None else ""

    def stop(self, *, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT (immediate) for a scratch server, SIGINT (fast) to keep its data."""
        child, self._child = self._child, None
        if child is None:
            return
        with child:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, how)
                deadline = time.monotonic() + STOP_TIMEOUT_S
                while child.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
        self._namespace.end()


class _Namespace:
    """The network namespace of a server, by which all that it has started is found.

    What a restored function has started, and put into a session of its own, is in no group of ours
    and would live on.

    :param pid: a process in it; None for a server that has no namespace of its own.
    :ivar number: what the kernel knows it by.
    """

    def __init__(self, pid: int | None) -> None:
        self._descriptor: int | None = None
        self.number = 0
        if pid is None:
            return
        with contextlib.suppress(OSError):
            # As long as it is open, no other namespace is given the same number.
            self._descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.number = os.fstat(self._descriptor).st_ino

    def _holds(self, pid: int) -> bool:
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == self.number  # noqa: PTH116
        except OSError:
            return False

    def end(self) -> None:
        """Kill every process in it, unless it is our own."""
        if self._descriptor is None:
            return
        try:
            left = not self._holds(os.getpid())
            deadline = time.monotonic() + _STRAYS_S
            while left and time.monotonic() < deadline:
                names = os.listdir("/proc")  # noqa: PTH208
                killed = [self._killed(int(name)) for name in names if name.isdigit()]
                left = any(killed)
        finally:
            self.close()

    def close(self) -> None:
        """Leave its processes alone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _killed(self, pid: int) -> bool:
        if not self._holds(pid):
            return False
        with contextlib.suppress(OSError):
            process = os.pidfd_open(pid)
            try:
                if self._holds(pid):  # the number may be another process's by now
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    return True
            finally:
                os.close(process)
        return False


def _postmaster(data: Path) -> int | None:
    """Return the process number that postmaster.pid names.

    Restored code may have written it, and made it something that a reader waits for.
    """
    try:
        file = os.open(data / "postmaster.pid", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            pid = int(os.read(file, 100).split(b"\n", 1)[0])
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None
    return pid if pid > 1 else None  # kill(2) takes others for all processes, or for a group


def stop_leftover(data: Path) -> None:
    """Kill the server whose data is in that folder, if one runs.

    The postmaster's number may have been given to another process since, so it is killed only
    when its working directory is the data folder (on Linux) .
    """
    pid = _postmaster(data)
    if pid is None:
        return
    with contextlib.suppress(OSError):
        proc = Path(f"/proc/{pid}/cwd")
        if Path("/proc/self").exists() and proc.resolve() != data.resolve():
            return
        namespace = _Namespace(pid)
        noted = data.with_name(_NAMESPACE)
        if not noted.exists() or noted.read_text() != str(namespace.number):
            namespace.close()  # it is not the server's own
        try:
            os.kill(pid, signal.SIGQUIT)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                os.kill(pid, 0)  # raises when it is gone
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        finally:
            namespace.end()
