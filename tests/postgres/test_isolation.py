"""What keeps a scratch server from all but its own: each wall is run against, as its superuser.

What a wall refuses is tried on a server without walls too, where it has to succeed: otherwise
the test would not see a wall that is gone. A wall that this machine does not give is skipped, aloud,
after the server's own notes have said so.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dagster_resil.postgres import scratch as scratch_module
from dagster_resil.postgres import server as server_module
from dagster_resil.postgres import walls
from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.scratch import ScratchServer, scratch_server, sweep
from dagster_resil.postgres.server import server_user, stop_leftover
from dagster_resil.process import run
from dagster_resil.records.manifest import Collation
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import RestoreSettings, restore_to_scratch
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace
from tests.conftest import Source, long_majors, majors, owner_session, server_of
from tests.taking import take_backup, verify_backup

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has such walls: UNTESTED here"
)
SECRET = "production-secret-4711"


@dataclass
class Inside:
    """A superuser's session in a server, which runs whatever a restored function could run."""

    connection: Connection
    notes: tuple[str, ...] = ()

    def sh(self, script: str) -> str:
        """Run a shell script; return what it printed, and after it its exit status."""
        whole = f"( {script} ) 2>&1; echo exit $?"
        self.connection.execute("CREATE TEMP TABLE IF NOT EXISTS said (line text)")
        self.connection.execute("TRUNCATE said")
        self.connection.execute(
            sql.SQL("COPY said FROM PROGRAM {} (DELIMITER E'\\x01')").format(sql.Literal(whole))
        )
        return "\n".join(row[0] for row in self.connection.execute("SELECT line FROM said"))

    def perl(self, script: str) -> str:
        """Run a program that may make any system call, as a library in the server could."""
        quoted = script.replace("'", "'\\''")
        return self.sh(f"perl -MSocket -MPOSIX -e '{quoted}'")

    def may(self, statement: str) -> bool:
        try:
            self.connection.execute(statement)
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise  # the server is gone
            return False
        return True

    def skip_unless(self, *words: str) -> None:
        """Skip the test where the notes say that a wall does not stand here."""
        for note in self.notes:
            if note.startswith("not shut off") and any(word in note for word in words):
                pytest.skip(f"UNTESTED here: {note}")


@pytest.fixture(scope="module", params=[*majors(), *long_majors()], ids=lambda major: f"pg{major}")
def walled(request: pytest.FixtureRequest) -> Iterator[ScratchServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", SECRET)
        patch.setenv("PRODUCTION_URL", f"postgresql://{SECRET}@host/db")
        with scratch_server(server_of(request.param)) as scratch:
            yield scratch


@pytest.fixture
def inside(walled: ScratchServer) -> Iterator[Inside]:
    with owner_session(walled.endpoint()) as connection:
        yield Inside(connection, walled.isolation)


@pytest.fixture
def unwalled(one_source: Source) -> Iterator[Inside]:
    """A server without walls that runs as the same user."""
    with one_source.admin() as connection:
        yield Inside(connection)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may walk into, read and write."""
    with Workspace() as space:
        space.path.chmod(0o711)
        folder = space.path / "open"
        folder.mkdir()
        folder.chmod(0o777)
        yield folder


def as_server_user(*command: str) -> str:
    """Run a command as the user that servers run as, without walls."""
    done = run([*command], user=server_user(), cwd="/", timeout_s=20)
    assert done.ok, done.complaint
    return done.stdout.strip()


# --- files ----------------------------------------------------------------------------------------

WRITING = {
    "COPY TO": "COPY (SELECT 1) TO '{}'",
    "COPY TO PROGRAM": "COPY (SELECT 1) TO PROGRAM 'cat >{}'",
    "lo_export": (
        "DO $$ DECLARE o oid := lo_from_bytea(0, 'x'); BEGIN PERFORM lo_export(o, '{}'); END $$"
    ),
    "plpgsql": "DO $$ BEGIN EXECUTE format('COPY (SELECT 1) TO %L', '{}'); END $$",
    "mkdir": "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null && mkdir {}'",
    "a device": "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null && mkfifo {}'",
    "a link": "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null && ln postgresql.conf {}'",
}
READING = {
    "COPY FROM": "COPY found FROM '{}'",
    "COPY FROM PROGRAM": "COPY found FROM PROGRAM 'cat {}'",
    "pg_read_file": "SELECT pg_read_file('{}')",
    "lo_import": "SELECT lo_import('{}')",
    "a link": "COPY found FROM PROGRAM 'ln {} linked && cat linked'",
    "a symbolic link": "COPY found FROM PROGRAM 'ln -sf {} pointing && cat pointing'",
}


@pytest.mark.parametrize("way", WRITING)
def test_nothing_is_written_outside_its_folder(
    inside: Inside, unwalled: Inside, open_folder: Path, way: str
) -> None:
    inside.skip_unless("Landlock)")
    assert not inside.may(WRITING[way].format(open_folder / "walled"))
    assert not (open_folder / "walled").exists()
    assert unwalled.may(WRITING[way].format(open_folder / "free"))
    assert (open_folder / "free").exists()


def test_no_place_of_ours_can_be_written_to(
    inside: Inside, walled: ScratchServer, open_folder: Path, one_source: Source
) -> None:
    inside.skip_unless("Landlock)")
    beside = walled.workspace.path
    places = [Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home(), Path("/"), open_folder]
    for place in (*places, beside, beside / "backup", one_source.server.data, Path("/proc/self")):
        for way in WRITING.values():
            name = place / "resil-was-here"
            assert not inside.may(way.format(name)), name
            assert not name.exists(), name
    assert "exit 0" not in inside.sh(f"rm -f {one_source.server.data}/PG_VERSION")
    assert "exit 0" not in inside.sh(f"mv ../data {open_folder}/data")


def test_a_file_outside_can_not_be_changed(
    inside: Inside, unwalled: Inside, open_folder: Path
) -> None:
    inside.skip_unless("Landlock)", "empty")
    for name in ("walled", "free"):
        (open_folder / name).write_text("precious")
        (open_folder / name).chmod(0o666)
    walled, free = open_folder / "walled", open_folder / "free"
    attempts = {
        "append": "echo x >>{}",
        "truncate(2)": "perl -e 'truncate(shift, 0) or die \"$!\"' {}",
        "remove": "rm {}",
        "rename": "mv {} {}.moved",
        "replace": "cp PG_VERSION {}.new && mv {}.new {}",
    }
    for attempt in attempts.values():
        assert "exit 0" not in inside.sh(attempt.replace("{}", str(walled)))
        assert walled.read_text() == "precious"
    assert "exit 0" in unwalled.sh(attempts["truncate(2)"].replace("{}", str(free)))
    assert free.read_text() == ""


def test_a_mode_can_not_be_widened(inside: Inside, unwalled: Inside) -> None:
    inside.skip_unless("unix sockets")
    for mode in ("0777", "0644", "06700", "0200700"):
        call = f'chmod({mode}, "PG_VERSION") or die "$!"'
        assert "exit 0" not in inside.perl(call), mode
    assert "exit 0" in inside.perl('chmod(0600, "PG_VERSION") or die "$!"')
    assert "exit 0" in unwalled.perl(
        'chmod(0640, "PG_VERSION") or die "$!"; chmod(0600, "PG_VERSION")'
    )
    assert "exit 0" not in inside.perl('chown($>, $) + 0, "PG_VERSION") or die "$!"')


@pytest.mark.parametrize("way", READING)
def test_nothing_of_others_is_read(
    inside: Inside, unwalled: Inside, open_folder: Path, way: str
) -> None:
    inside.skip_unless("Landlock)")
    file = open_folder / "theirs"
    file.write_text(SECRET)
    file.chmod(0o644)
    for session in (inside, unwalled):
        session.may("CREATE TEMP TABLE IF NOT EXISTS found (line text)")
    assert not inside.may(READING[way].format(file))
    if way != "a link":  # the kernel refuses links to others' files as it is
        assert unwalled.may(READING[way].format(file))


def test_no_folder_of_ours_can_be_read(
    inside: Inside, walled: ScratchServer, one_source: Source, open_folder: Path
) -> None:
    inside.skip_unless("Landlock)")
    beside = walled.workspace.path
    ours = Path(sys.executable).parent, Path(__file__).parent
    for place in (Path("/"), Path("/tmp"), Path.home(), open_folder, beside, *ours, Path("/etc")):
        assert "exit 0" not in inside.sh(f"ls {place}"), place
        assert not inside.may(f"SELECT pg_ls_dir('{place}')"), place
    assert not inside.may(f"SELECT pg_read_file('{one_source.server.data}/PG_VERSION')")
    assert "exit 0" not in inside.sh(f"cat {beside}/lock")


def test_our_memory_and_environment_stay_ours(inside: Inside) -> None:
    assert SECRET not in inside.sh("env")
    for pid in (os.getpid(), os.getppid()):
        for name in ("environ", "mem", "cmdline", "maps", "fd/0", "cwd/x"):
            assert not inside.may(f"SELECT pg_read_file('/proc/{pid}/{name}')"), name
            if not any("this system has no Landlock" in note for note in inside.notes):
                assert "exit 0" not in inside.sh(f"cat /proc/{pid}/{name}"), name
    assert SECRET not in inside.sh("cat /proc/*/environ")


# --- other programs -------------------------------------------------------------------------------

TCP = """
socket(S, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
connect(S, sockaddr_in(%d, inet_aton("127.0.0.1"))) or die "connect: $!";
"""
UNIX = """
socket(S, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
connect(S, sockaddr_un("%s")) or die "connect: $!";
"""
DATAGRAM = """
socket(S, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
send(S, "x", 0, sockaddr_un("%s")) or die "send: $!";
"""
PAIR = """
socketpair(S, T, AF_UNIX, SOCK_DGRAM, 0) or die "socketpair: $!";
send(S, "x", 0, sockaddr_un("%s")) or die "send: $!";
"""


def test_there_is_no_network(inside: Inside, unwalled: Inside) -> None:
    inside.skip_unless("the network")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "exit 0" not in inside.perl(TCP % port)
        assert "exit 0" in unwalled.perl(TCP % port)
    for family in ("AF_INET", "AF_INET6", "16", "17", "38", "40"):  # netlink, packet, crypto, vsock
        for kind in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_RAW"):
            said = inside.perl(f"socket(S, {family}, {kind}, 0) or die")
            if "seccomp" in " ".join(inside.notes):
                assert "exit 0" not in said, (family, kind)
    assert inside.connection.execute("SHOW listen_addresses").fetchone() == ("",)


@pytest.mark.parametrize("way", [UNIX, DATAGRAM, PAIR], ids=["stream", "datagram", "pair"])
def test_no_unix_socket_is_reached(
    inside: Inside, unwalled: Inside, open_folder: Path, way: str
) -> None:
    """Behind one may be a service manager that runs any program for this user."""
    inside.skip_unless("unix sockets")
    kind = socket.SOCK_STREAM if way is UNIX else socket.SOCK_DGRAM
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(open_folder / "s"))
        (open_folder / "s").chmod(0o777)
        if kind is socket.SOCK_STREAM:
            listener.listen()
        assert "exit 0" not in inside.perl(way % (open_folder / "s"))
        assert "exit 0" in unwalled.perl(way % (open_folder / "s"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"\0resil-{os.getpid()}")
        listener.listen()
        assert "exit 0" not in inside.perl(UNIX % rf"\0resil-{os.getpid()}")


def test_no_other_server_is_reached(inside: Inside, unwalled: Inside, one_source: Source) -> None:
    inside.skip_unless("unix sockets")
    endpoint = one_source.server.endpoint()
    address = psycopg.conninfo.make_conninfo("", **endpoint.parameters, password=endpoint.password)
    for session in (inside, unwalled):
        if not session.may("CREATE EXTENSION IF NOT EXISTS dblink"):
            pytest.skip("this PostgreSQL has no dblink: UNTESTED with it")
    assert not inside.may(f"SELECT dblink_connect('c', $${address}$$)")
    assert unwalled.may(f"SELECT dblink_connect('c', $${address}$$)")


@pytest.fixture
def bystander() -> Iterator[int]:
    """Another process of the servers' user."""
    user = server_user()
    with subprocess.Popen(["sleep", "100"], user=user, group=user) as process:
        yield process.pid
        process.kill()


def test_no_signal_reaches_others(inside: Inside, unwalled: Inside, bystander: int) -> None:
    inside.skip_unless("signals")
    for pid in (bystander, os.getpid(), 1):
        assert "exit 0" not in inside.sh(f"kill -0 {pid}"), pid
    assert "exit 0" in unwalled.sh(f"kill -0 {bystander}")
    # Its own processes go on signalling one another.
    row = inside.connection.execute("SELECT pg_reload_conf(), pg_cancel_backend(0)").fetchone()
    assert row == (True, False)


def test_no_process_is_traced(inside: Inside, unwalled: Inside, bystander: int) -> None:
    inside.skip_unless("unix sockets")
    number = walls._MACHINES[os.uname().machine][1]["process_vm_readv"]
    call = f'syscall({number}, %d, 0, 0, 0, 0, 0) == 0 or die "$!"'
    assert "Permission denied" in inside.perl(call % bystander)
    assert "exit 0" in unwalled.perl(call % bystander)


def test_no_limit_is_set_for_others(inside: Inside, unwalled: Inside, bystander: int) -> None:
    inside.skip_unless("unix sockets")
    number = walls._MACHINES[os.uname().machine][1]["prlimit64"]
    call = f'my $b = "x" x 16; syscall({number}, %d, 7, 0, $b) == 0 or die "$!"'
    assert "Permission denied" in inside.perl(call % bystander)
    assert "exit 0" in inside.perl(call % 0)
    assert "exit 0" in unwalled.perl(call % bystander)


def test_no_keyring_is_read(inside: Inside, unwalled: Inside) -> None:
    inside.skip_unless("unix sockets")
    number = walls._MACHINES[os.uname().machine][1]["keyctl"]
    call = f'syscall({number}, 0, -3, 1) != -1 or die "$!"'  # the session's keyring
    assert "Permission denied" in inside.perl(call)
    assert "Permission denied" not in unwalled.perl(call)


def test_no_shared_memory_is_reached(inside: Inside, unwalled: Inside) -> None:
    inside.skip_unless("shared memory")
    number = as_server_user("perl", "-e", "print shmget(0, 8192, 0600)")
    read = f'shmread({number}, $b, 0, 4) or die "$!"'
    try:
        assert "exit 0" not in inside.perl(read)
        assert "exit 0" in unwalled.perl(read)
    finally:
        as_server_user("perl", "-e", f"shmctl({number}, 0, 0) or die")


def test_the_filter_knows_one_machine(inside: Inside) -> None:
    """Neither another kind of calls nor io_uring goes past it."""
    inside.skip_unless("unix sockets")
    assert "exit 0" not in inside.perl('syscall(425, 1, "\\0" x 120) != -1 or die "$!"')
    if os.uname().machine == "x86_64":
        number = 0x40000000 + walls._MACHINES["x86_64"][1]["socket"]
        assert "not implemented" in inside.perl(f'syscall({number}, 2, 1, 0) != -1 or die "$!"')


def test_no_namespace_is_made(inside: Inside, unwalled: Inside) -> None:
    inside.skip_unless("unix sockets")
    numbers = walls._MACHINES[os.uname().machine][1]
    for call in (
        f"syscall({numbers['unshare']}, 0x10000000)",
        f"syscall({numbers['clone']}, 0x10000011, 0, 0, 0, 0)",
        f"syscall({numbers['clone3']}, 0, 0)",
    ):
        assert "exit 0" not in inside.perl(f'{call} != -1 or die "$!"'), call
    # Where the system gives none to anybody the wall can't be told from that.
    unwalled.perl(f"syscall({numbers['unshare']}, 0x10000000)")


def running(mark: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


@pytest.mark.parametrize("kept", [False, True], ids=["ended", "swept"])
def test_what_it_has_started_ends_with_it(
    one_source: Source, open_folder: Path, kept: bool
) -> None:
    mark = f"1000.{os.getpid()}{int(kept)}"
    with scratch_server(one_source.programs, work_dir=open_folder) as scratch:
        if kept:
            scratch_module.keep(scratch, 60, "postgres")
        with owner_session(scratch.endpoint()) as connection:
            inside = Inside(connection, scratch.isolation)
            inside.skip_unless("gives no namespace")
            if "network namespace" not in " ".join(inside.notes):
                pytest.skip("this system gives no namespace: UNTESTED here")
            inside.sh(f"setsid sleep {mark} </dev/null >/dev/null 2>&1 & sleep 0.2")
        assert running(mark)
    if kept:
        sweep(open_folder, kept_too=True)
    assert not running(mark)


def test_a_namespace_that_is_gone_is_taken_for_no_other() -> None:
    """The kernel gives its number to the next one."""
    words = server_module._namespaces()
    if not words:
        pytest.skip("this system gives no namespace: UNTESTED here")
    with contextlib.ExitStack() as stack:

        def start() -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen([*words, "sleep", "100"]))
            stack.callback(process.kill)
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            return process

        first = start()
        namespace = server_module._Namespace(first.pid)
        first.kill()
        first.wait()
        others = [start() for _ in range(3)]
        namespace.end()
        time.sleep(0.1)
        assert [other.poll() for other in others] == [None] * 3
        server_module._Namespace(os.getpid()).end()  # our own, which is left alone


def test_a_forged_pid_file_harms_nobody(
    open_folder: Path, bystander: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code in a server may write its own postmaster.pid, and the janitor reads it."""
    killed: list[int] = []
    file = open_folder / "postmaster.pid"
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: killed.append(pid))
        for text in ("-1\n", "0\n", "1\n", f"{bystander}\n", f"-{os.getpgid(0)}\n", "x", ""):
            file.write_text(text)
            stop_leftover(open_folder)
        file.unlink()
        os.mkfifo(file)
        stop_leftover(open_folder)
    assert killed == []


def test_no_program_gives_rights(
    one_source: Source, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_READS", (*server_module._READS, str(open_folder)))
    with (
        scratch_server(one_source.programs) as scratch,
        owner_session(scratch.endpoint()) as connection,
    ):
        inside = Inside(connection, scratch.isolation)
        inside.skip_unless("setuid programs")
        said = inside.perl('print syscall(157, 39, 0, 0, 0, 0), "\\n"; print $!')
        if os.uname().machine == "x86_64":  # prctl(PR_GET_NO_NEW_PRIVS)
            assert said.splitlines()[0] == "1"
        if os.geteuid() != 0:
            return
        program = open_folder / "id"
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4755)
        if as_server_user(str(program), "-u") != "0":
            pytest.skip("this file system has no setuid programs: UNTESTED here")
        assert inside.sh(f"{program} -u") == "65534\nexit 0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")
def test_it_has_no_rights_of_root(inside: Inside) -> None:
    assert inside.sh("id -u; id -g; id -G") == "65534\n65534\n65534\nexit 0"
    assert "Inheritable capabilities: [none]" in inside.sh("setpriv --dump")
    assert "exit 0" not in inside.perl('setuid(0) or die "$!"')
    assert "exit 0" not in inside.sh("mount -t tmpfs none .")


# --- what stands is said, and what does not -------------------------------------------------------


def test_a_receipt_says_what_stands(one_source: Source, vault: Vault) -> None:
    receipt = verify_backup(vault, take_backup(one_source.create(), vault, name="app"))
    assert receipt.verdict is Verdict.PASS
    text = "\n".join(receipt.isolation)
    version = walls.landlock_version()
    assert ("writes to nothing but its own folders (Landlock)" in text) == (version > 0)
    assert ("sends no signal to another program (Landlock)" in text) == (version >= 6)
    assert ("connects to no unix socket" in text) == (os.uname().machine in walls._MACHINES)
    if os.geteuid() == 0:
        assert "runs as uid 65534" in text


@pytest.fixture
def old_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the launcher take Landlock for one of an older kernel's, or for none."""

    def pretend(version: int) -> None:
        text = Path(walls.__file__).read_text()
        mark = '\n\nif __name__ == "__main__":'
        assert mark in text
        older = f"\n\nlandlock_version = lambda: {version}{mark}"
        launcher = tmp_path / "walls.py"
        launcher.write_text(text.replace(mark, older))
        monkeypatch.setattr(walls, "__file__", str(launcher))

    return pretend


@pytest.mark.parametrize("version", range(1, 8))
def test_an_older_landlock_is_used_as_far_as_it_goes(
    one_source: Source, open_folder: Path, old_kernel: Callable[[int], None], version: int
) -> None:
    if walls.landlock_version() < version:
        pytest.skip(f"this system has no Landlock of version {version}: UNTESTED here")
    old_kernel(version)
    with scratch_server(one_source.programs) as scratch:
        notes = "\n".join(scratch.isolation)
        assert ("which it can empty" in notes) == (version < 3)
        assert ("not shut off: signals" in notes) == (version < 6)
        with owner_session(scratch.endpoint()) as connection:
            inside = Inside(connection, scratch.isolation)
            assert_works(inside)
            assert not inside.may(WRITING["COPY TO"].format(open_folder / "x"))


REFUSING = """\
#!{python} -IS
import ctypes, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("walls", {walls!r})
walls = importlib.util.module_from_spec(spec)
spec.loader.exec_module(walls)
code = walls._step(walls._LOAD, walls._NUMBER_AT)
for number in (444, 445, 446):
    code += walls._step(walls._EQUAL, number, 0, 1) + walls._step(walls._RETURN, walls._NOT_THERE)
code += walls._step(walls._EQUAL, {prctl}, 0, 3) + walls._step(walls._LOAD, walls._ARGUMENTS_AT)
code += walls._step(walls._EQUAL, 22, 0, 1) + walls._step(walls._RETURN, walls._REFUSE)
code += walls._step(walls._RETURN, walls._ALLOW)
walls._prctl(38, 1)
walls._prctl(22, 2, ctypes.byref(walls._Program(len(code) // 8, code)))
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.mark.skipif(
    os.uname().machine not in walls._MACHINES, reason="no seccomp filter here: UNTESTED"
)
def test_what_a_container_refuses_is_said(
    one_source: Source, tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the calls for Landlock and for a filter may fail, and namespaces not be given."""
    prctl = {"x86_64": 157, "aarch64": 167}[os.uname().machine]
    python = tmp_path / "python"
    python.write_text(REFUSING.format(python=sys.executable, walls=walls.__file__, prctl=prctl))
    python.chmod(0o755)
    manifest = take_backup(one_source.create(), vault, name="app")
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr(server_module, "_namespaces", lambda: ())
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks
    missing = [note for note in receipt.isolation if note.startswith("not shut off")]
    for what in ("no Landlock", "the network", "unix sockets", "signals", "shared memory"):
        assert any(what in note for note in missing), (what, receipt.isolation)
    assert not any("(Landlock)" in note or "seccomp)" in note for note in receipt.isolation)


def test_a_filter_of_another_machine_is_not_used(
    one_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emulator calls the machine by another name than its kernel does."""
    text = Path(walls.__file__).read_text()
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}.get(os.uname().machine, "x86_64")
    launcher = tmp_path / "walls.py"
    launcher.write_text(text.replace("os.uname().machine", repr(other)))
    monkeypatch.setattr(walls, "__file__", str(launcher))
    with scratch_server(one_source.programs) as scratch:
        assert not scratch.server.walls.seccomp
        assert scratch.server.walls.no_new_privileges


def test_without_a_namespace_the_filter_shuts_off_the_network(
    one_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_namespaces", lambda: ())
    with scratch_server(one_source.programs) as scratch:
        assert not scratch.server.walls.network
        with owner_session(scratch.endpoint()) as connection:
            inside = Inside(connection, scratch.isolation)
            inside.skip_unless("the network")
            with socket.create_server(("127.0.0.1", 0)) as listener:
                assert "exit 0" not in inside.perl(TCP % listener.getsockname()[1])
            if os.geteuid() == 0:
                assert inside.sh("id -u") == "65534\nexit 0"


def test_other_servers_of_ours_have_no_walls(one_source: Source) -> None:
    assert one_source.server.walls == server_module.Walls()


# --- what has to work behind them -----------------------------------------------------------------

SORTED = """
SELECT count(*) FROM
  (SELECT md5(n::text) AS m FROM generate_series(1, 200000) AS n ORDER BY 1) AS s
"""


def assert_works(inside: Inside) -> None:
    execute = inside.connection.execute
    execute("SET work_mem = '64kB'")
    assert execute(SORTED).fetchone() == (200000,)
    execute("DROP TABLE IF EXISTS t")
    execute("CREATE TABLE t AS SELECT n, md5(n::text) AS m FROM generate_series(1, 300000) AS n")
    execute("SET max_parallel_maintenance_workers = 2")
    execute("SET min_parallel_table_scan_size = 0")
    execute("CREATE INDEX ON t (m)")
    execute("SET debug_parallel_query = on" if inside.connection.info.server_version >= 160000
            else "SET force_parallel_mode = on")  # fmt: skip
    assert execute("SELECT count(*) FROM t WHERE m > '8'").fetchone() is not None
    execute("VACUUM FULL t")
    execute("TRUNCATE t")
    execute("CHECKPOINT")
    execute("SELECT lo_from_bytea(4711, 'x')")
    assert execute("SELECT lo_get(4711)").fetchone() == (b"x",)
    execute("SELECT lo_unlink(4711)")
    execute("CREATE DATABASE other")
    execute("DROP DATABASE other")


def test_a_restore_s_work_goes_on(inside: Inside) -> None:
    assert_works(inside)
    execute = inside.connection.execute
    row = execute(
        "SELECT extract(hour FROM timestamptz '2024-07-01 12:00Z' AT TIME ZONE 'Asia/Tokyo')"
    )
    assert row.fetchone() == (21,)
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):  # the wheels are without ICU
        execute("CREATE COLLATION IF NOT EXISTS de (provider = icu, locale = 'de-AT')")
        assert execute("SELECT 'ä' < 'z' COLLATE de").fetchone() == (True,)
    execute("SELECT to_tsvector('german', 'Häuser')")


def test_the_extensions_that_are_here_can_be_made(inside: Inside) -> None:
    execute = inside.connection.execute
    names = execute("SELECT name FROM pg_available_extensions ORDER BY 1").fetchall()
    for (name,) in names:
        statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} CASCADE").format(
            sql.Identifier(name)
        )
        try:
            execute(statement)
        except psycopg.errors.FeatureNotSupported:
            pass  # "plpython3u not available"
        except psycopg.errors.UndefinedFile as error:
            # Fetched servers come with all languages; the machine may not have them.
            if not re.search(r"lib(perl|python|tcl)\S*: cannot open shared|plpython2u", str(error)):
                raise
    if ("pgcrypto",) in names:
        execute("SELECT crypt('a', gen_salt('bf')), digest('a', 'sha256'), gen_random_bytes(8)")


def test_a_locale_of_a_folder_of_one_s_own(
    one_source: Source, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    localedef = shutil.which("localedef")
    if not localedef or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("localedef and the sources of locales are not here: UNTESTED")
    # Its status says nothing: it warns of what is no harm.
    run([localedef, "-i", "de_DE", "-f", "UTF-8", open_folder / "xx_XX.UTF-8"], timeout_s=60)
    monkeypatch.setenv("LOCPATH", str(open_folder))
    locale = "xx_XX.UTF-8"
    with scratch_server(one_source.programs) as scratch:
        made = scratch.create_database(
            "app",
            encoding="UTF8",
            collation=Collation(provider="libc", collate=locale, ctype=locale),
        )
        with owner_session(made) as connection:
            connection.execute("SET lc_monetary = 'xx_XX.UTF-8'")
            row = connection.execute("SELECT 'ä' < 'z', 1234.5::numeric::money::text").fetchone()
    assert row is not None
    assert row[0]
    assert row[1].startswith("1.234,50")


def test_a_kept_server_has_the_walls_too(source: Source, vault: Vault, open_folder: Path) -> None:
    endpoint = source.create()
    source.execute(endpoint, "CREATE TABLE t AS SELECT 1 AS n")
    manifest = take_backup(endpoint, vault, name="app")
    work_dir = open_folder / "a folder 'of' ours"
    work_dir.mkdir(mode=0o711)

    kept = restore_to_scratch(
        vault, manifest, keep_s=60, settings=RestoreSettings(work_dir=work_dir)
    )
    try:
        with psycopg.connect(kept.address, autocommit=True) as connection:
            inside = Inside(connection)
            assert connection.execute("TABLE t").fetchall() == [(1,)]
            assert_works(inside)
            if walls.landlock_version():
                for place in (open_folder, work_dir, Path("/tmp")):
                    assert not inside.may(
                        WRITING["COPY TO"].format(f"{place}/x".replace("'", "''"))
                    )
            if os.uname().machine in walls._MACHINES:
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    assert "exit 0" not in inside.perl(TCP % listener.getsockname()[1])
                assert "socket:" not in inside.perl(UNIX % "/x")
                assert "connect: Permission denied" in inside.perl(UNIX % "/x")
            if os.geteuid() == 0:
                assert inside.sh("id -u") == "65534\nexit 0"
    finally:
        sweep(work_dir, kept_too=True)
