from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dagster_resil.errors import (
    ConfigurationError,
    ObjectExists,
    ObjectMissing,
    ResilError,
    VaultError,
)
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.local import LocalVault

ID = "shop-20260301T120000Z-0a1b2c"
MIB = 1 << 20
NOBODY = 65534


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


def files(vault: LocalVault) -> list[str]:
    """Return every file in the vault's folder, hidden ones too."""
    return sorted(
        file.relative_to(vault.path).as_posix()
        for file in vault.path.rglob("*")
        if not file.is_dir()
    )


def test_nothing_is_overwritten(vault: LocalVault) -> None:
    vault.put("a/b", [b"first"])
    read = []

    def chunks() -> Iterator[bytes]:
        read.append(1)
        yield b"second"

    with pytest.raises(ObjectExists, match="a/b"):
        vault.put("a/b", chunks())
    assert vault.read("a/b") == b"first"
    assert not read, "the stream was read for nothing"
    assert files(vault) == ["a/b"]


def test_a_folder_is_not_overwritten(vault: LocalVault) -> None:
    vault.put("a/b/c", [b"x"])

    with pytest.raises(ObjectExists):
        vault.put("a/b", [b"y"])
    assert files(vault) == ["a/b/c"]


def test_one_of_many_threads_wins(vault: LocalVault) -> None:
    start = threading.Barrier(8)

    def write(number: int) -> bool:
        def chunks() -> Iterator[bytes]:
            yield b"%d" % number
            start.wait(timeout=30)  # all of them have found the name free
            yield b"%d" % number

        try:
            vault.put("a/b", chunks())
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert vault.read("a/b") == b"%d" % won.index(True) * 2
    assert files(vault) == ["a/b"]


CHILD = """
import sys
from pathlib import Path
from dagster_resil.errors import ObjectExists
from dagster_resil.vault.local import LocalVault

def chunks(data):
    yield data
    print("half", flush=True)
    sys.stdin.readline()
    yield data

vault = LocalVault(Path(sys.argv[1]))
try:
    vault.put(sys.argv[2], chunks(sys.argv[3].encode()))
except ObjectExists:
    print("exists", flush=True)
else:
    print("written", flush=True)
"""


class Writer:
    """A process that has written half an object and waits."""

    def __init__(self, vault: LocalVault, name: str, text: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(vault.path), name, text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "half\n"

    def finish(self) -> str:
        out, _ = self.process.communicate("go on\n", timeout=60)
        return out.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_one_of_many_processes_wins(vault: LocalVault) -> None:
    writers = [Writer(vault, "a/b", text) for text in "xyz"]
    assert list(vault.names("")) == []
    for writer in writers:
        assert writer.process.stdin is not None
        writer.process.stdin.write("go on\n")
        writer.process.stdin.flush()

    said = [writer.finish() for writer in writers]
    assert sorted(said) == ["exists", "exists", "written"]
    assert vault.read("a/b").decode() == "xyz"[said.index("written")] * 2
    assert files(vault) == ["a/b"]


def test_what_sigkill_leaves_is_never_listed_and_is_swept(vault: LocalVault) -> None:
    writer = Writer(vault, "a/b", "x")
    writer.kill()

    assert list(vault.names("")) == []
    assert len(files(vault)) == 1
    with pytest.raises(ObjectMissing):
        vault.size("a/b")
    vault.put("a/b", [b"whole"])
    assert files(vault) == ["a/b"]
    assert vault.read("a/b") == b"whole"


def test_a_check_sweeps_too(vault: LocalVault) -> None:
    Writer(vault, "a/b", "x").kill()

    vault.check_writable()
    assert files(vault) == []


def test_a_live_writer_is_never_swept(vault: LocalVault) -> None:
    writer = Writer(vault, "a/b", "x")
    for number in range(20):
        LocalVault(vault.path).put(f"c/{number}", [b""])

    assert writer.finish() == "written"
    assert vault.read("a/b") == b"xx"


def test_a_live_thread_is_never_swept(vault: LocalVault) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        vault.put("c/d", [b"between"])
        LocalVault(vault.path).check_writable()
        yield b"y"

    vault.put("a/b", chunks())
    assert vault.read("a/b") == b"xy"


def test_a_writer_killed_after_the_link_has_written(vault: LocalVault) -> None:
    vault.put("a/b", [b"whole"])
    leftover = vault.path / ".incoming" / "1-dead"
    os.link(vault.path / "a/b", leftover)

    vault.check_writable()
    assert not leftover.exists()
    assert vault.read("a/b") == b"whole"


def test_a_janitor_that_comes_before_the_lock_costs_one_more_try(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process's janitor would have to hit the instant between two system calls.
    real = fcntl.flock
    removed: list[Path] = []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.extend((vault.path / ".incoming").iterdir())
            removed[0].unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    vault.put("a/b", [b"whole"])
    assert len(removed) == 1
    assert vault.read("a/b") == b"whole"
    assert files(vault) == ["a/b"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "the source's disk"), ValueError("no more"), KeyboardInterrupt()]
)
def test_a_stream_that_breaks_leaves_nothing(vault: LocalVault, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise error

    with pytest.raises(type(error)) as raised:
        vault.put("a/b", chunks())
    assert raised.value is error, "the stream's failure is not the vault's"
    assert files(vault) == []
    assert not (vault.path / "a").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "..",
        "a/../b",
        "a/..",
        ".",
        "a/./b",
        ".incoming/x",
        "a/.hidden",
        "a\0b",
        "a/\udcff",
    ],
)
def test_names_that_lead_elsewhere_are_refused(vault: LocalVault, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be an object's name") as error:
        vault.put(name, [b""])
    assert error.value.hint
    for read in (vault.size, vault.read):
        with pytest.raises(ConfigurationError):
            read(name)
    assert not vault.path.exists()


def test_odd_names_are_kept(vault: LocalVault) -> None:
    for name in ("a/ä ö", "a/b\nc", "a/b.c", 'a/"', "a/…"):
        vault.put(name, [name.encode()])
        assert vault.read(name) == name.encode()
    assert len(list(vault.names("a/"))) == 5


def test_names_are_sorted_and_cut_anywhere(vault: LocalVault) -> None:
    for name in ("b/2", "a/x/1", "a/x-1", "a/x/10", "ab/c", "a/y", "z"):
        vault.put(name, [b""])
    (vault.path / ".hidden").write_text("")
    (vault.path / "a/.DS_Store").write_text("")

    def names(prefix: str) -> list[str]:
        return list(vault.names(prefix))

    assert names("") == ["a/x-1", "a/x/1", "a/x/10", "a/y", "ab/c", "b/2", "z"]
    assert names("a") == ["a/x-1", "a/x/1", "a/x/10", "a/y", "ab/c"]
    assert names("a/") == ["a/x-1", "a/x/1", "a/x/10", "a/y"]
    assert names("a/x") == ["a/x-1", "a/x/1", "a/x/10"]
    assert names("a/x/1") == ["a/x/1", "a/x/10"]
    assert names("a/x/10") == ["a/x/10"]
    assert names("a/x/10/") == []
    assert names("c/") == []
    assert names(".h") == []


def test_a_vault_that_is_not_there_is_not_empty(vault: LocalVault) -> None:
    looks: list[Callable[[], list[str]]] = [
        lambda: list(vault.names("")),
        lambda: list(vault.folders()),
    ]
    for look in looks:
        with pytest.raises(VaultError, match="there is no vault at") as error:
            look()
        assert vault.url in error.value.message
        assert error.value.hint
    with pytest.raises(ObjectMissing):
        vault.read("a/b")
    assert not vault.path.exists()


def test_a_file_is_no_vault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    vault = LocalVault(tmp_path / "file")

    with pytest.raises(VaultError, match=r"Not a directory|File exists") as error:
        vault.put("a/b", [b""])
    assert error.value.hint
    with pytest.raises(VaultError, match="Not a directory"):
        list(vault.names(""))
    with pytest.raises(VaultError):
        LocalVault(tmp_path / "file" / "below").check_writable()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_too_long_is_told(vault: LocalVault) -> None:
    with pytest.raises(VaultError, match=r"(?i)name too long"):
        vault.put("a/" + "b" * 300, [b""])
    assert files(vault) == []


def test_a_disk_that_fails_while_reading_is_told(vault: LocalVault) -> None:
    memory = Path("/proc/self/mem")
    if not memory.exists():
        pytest.skip("needs Linux: reading /proc/self/mem at 0 is an input/output error")
    (vault.path / "a").mkdir(parents=True)
    (vault.path / "a/b").symlink_to(memory)

    with pytest.raises(VaultError, match=r"a/b.*Input/output error") as error:
        vault.read("a/b")
    assert "disk" in error.value.hint


def test_the_world_is_kept_out(vault: LocalVault) -> None:
    before = os.umask(0)
    try:
        vault.put("a/b", [b""])
        os.umask(0o077)
        vault.put("c/d", [b""])
    finally:
        os.umask(before)

    def mode(place: str) -> int:
        return stat.S_IMODE((vault.path / place).stat().st_mode)

    assert (mode(""), mode("a"), mode("a/b"), mode(".incoming")) == (0o750, 0o750, 0o640, 0o750)
    assert (mode("c"), mode("c/d")) == (0o700, 0o600)


# -- discarding


def test_discarding_removes_one_attempt(vault: LocalVault) -> None:
    other = "shop-20260301T120000Z-ffffff"
    for name in (f"{ID}/archive/a", f"{ID}/archive/sub/b", f"{ID}/c", f"{other}/c"):
        vault.put(f"shop/backups/{name}", [b""])

    vault.discard(f"shop/backups/{ID}/")
    assert files(vault) == [f"shop/backups/{other}/c"]
    assert not (vault.path / "shop/backups" / ID).exists()
    vault.discard(f"shop/backups/{ID}/")
    vault.discard(f"shop/backups/{other}/")
    assert (vault.path / "shop/backups").is_dir(), "another attempt may be about to use it"


def test_an_empty_folder_is_cleared_when_it_is_old(vault: LocalVault) -> None:
    place = vault.path / "shop" / "backups" / ID
    place.mkdir(parents=True)  # and no more: killed before its first object had a name
    assert Backups(vault).sweep("shop", older_than_s=3600) == []
    os.utime(place, (0, 0))
    assert Backups(vault).sweep("shop", older_than_s=3600) == [ID]
    assert not place.exists()


def test_nothing_is_there_to_discard(vault: LocalVault) -> None:
    vault.discard(f"shop/backups/{ID}/")
    assert not vault.path.exists()


# -- file systems that refuse


def test_a_file_system_without_hard_links_is_told(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a file system can't be had without mounting a disk of its own.
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    vault.path.mkdir()
    for write in (vault.check_writable, lambda: vault.put("a/b", [b"x"])):
        with pytest.raises(VaultError) as error:
            write()
        assert "hard links" in error.value.hint
        assert files(vault) == []


REFUSED = """
import errno, os, sys
from pathlib import Path
from dagster_resil.errors import VaultError
from dagster_resil.vault.local import LocalVault

vault, uid, command = LocalVault(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
if command == "limit":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

def act():
    if command == "check":
        vault.check_writable()
    elif command == "list":
        list(vault.names(""))
    elif command == "read":
        vault.read("a/b")
    elif command == "size":
        vault.size("a/b")
    elif command == "discard":
        vault.discard("shop/backups/x/")
    else:
        vault.put("a/big", (b"x" * 65536 for _ in range(64)))
try:
    act()
except VaultError as error:
    print(error.message, error.hint, type(error).__name__, sep="\\n")
else:
    print("nothing was refused")
"""


def refused(vault: LocalVault, command: str, *before: str, uid: int = 0) -> tuple[str, str, str]:
    """Act in a process of its own; return the error's message, hint and class."""
    done = subprocess.run(
        [*before, sys.executable, "-c", REFUSED, str(vault.path), str(uid), command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout
    return lines[0], lines[1], lines[2]


def test_a_limit_on_files_is_told(vault: LocalVault) -> None:
    message, hint, _ = refused(vault, "limit")

    assert "write a/big" in message
    assert "File too large" in message
    assert "ulimit -f" in hint
    assert files(vault) == []
    assert not (vault.path / "a").exists()


def _mounted(script: str) -> list[str]:
    """Return the beginning of a command that sees a small file system of its own.

    Mounted in a namespace of its own: it is gone with the process, however that ends.
    """
    program = shutil.which("unshare")
    if program is None:
        pytest.skip("no unshare (util-linux): a full and a read-only disk stay untested")
    options = ["--mount"] if os.geteuid() == 0 else ["--map-root-user", "--mount"]
    command = [program, *options]
    with tempfile.TemporaryDirectory() as folder:
        probe = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True
        )
    if probe.returncode:
        pytest.skip(
            "may not mount here, so a full and a read-only disk stay untested: "
            f"{probe.stderr.strip()}"
        )
    return [*command, "sh", "-ec", f'{script}; exec "$@"', "sh"]


def test_a_full_disk_is_told(vault: LocalVault) -> None:
    vault.path.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{vault.path}'"
    left = f"trap 'find {vault.path} -type f >&2' EXIT"
    before = _mounted(f"{left}; {mount}")
    before[-2] = before[-2].replace('exec "$@"', '"$@"')  # so that the trap still runs

    message, hint, _ = refused(vault, "put", *before)
    assert "write a/big" in message
    assert "No space left on device" in message
    assert "free some space" in hint

    done = subprocess.run(
        [*before, sys.executable, "-c", REFUSED, str(vault.path), "0", "put"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == "", "the half object is still there"


def test_a_read_only_disk_is_told(vault: LocalVault) -> None:
    vault.path.mkdir()
    before = _mounted(f"mount -t tmpfs -o ro tmpfs '{vault.path}'")

    for command in ("put", "check"):
        message, hint, _ = refused(vault, command, *before)
        assert "Read-only file system" in message
        assert "read-only" in hint


@pytest.fixture
def locked_place() -> Iterator[tuple[Path, int]]:
    """A folder that every user can reach, and the user id that finds it locked.

    Root is let in anywhere, so that the tests as root act as somebody else.
    """
    folder = Path(tempfile.mkdtemp(prefix="resil-test-"))
    folder.chmod(0o755)
    try:
        yield folder, NOBODY if os.geteuid() == 0 else 0
    finally:
        for place, below, _ in os.walk(folder):
            for each in below:
                (Path(place) / each).chmod(0o700)
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_is_told(locked_place: tuple[Path, int]) -> None:
    folder, uid = locked_place
    vault = LocalVault(folder / "vault")
    vault.path.mkdir()
    vault.path.chmod(0o555)

    for command in ("put", "check"):
        message, hint, _ = refused(vault, command, uid=uid)
        assert "Permission denied" in message
        assert vault.url in message
        assert hint
    assert list(vault.path.iterdir()) == []


def test_a_folder_that_may_not_be_read_is_not_empty(locked_place: tuple[Path, int]) -> None:
    folder, uid = locked_place
    vault = LocalVault(folder / "vault")
    vault.put("a/b", [b"x"])
    vault.put("shop/backups/x/y", [b"x"])
    vault.put("shop/manifests/x.json", [b"x"])
    attempt = vault.path / "shop/backups/x"
    for place in (vault.path, vault.path / "shop", attempt.parent, attempt):
        place.chmod(0o777)
    for place in (vault.path / "a", vault.path / "shop/manifests"):
        place.chmod(0o000)

    for command in ("list", "read", "size", "discard"):
        message, hint, kind = refused(vault, command, uid=uid)
        assert "Permission denied" in message, command
        assert hint
        assert kind == "VaultError"
    assert (attempt / "y").exists(), "removed without knowing whether it has a manifest"
    vault.path.chmod(0o000)
    for command in ("list", "read", "size"):
        assert "Permission denied" in refused(vault, command, uid=uid)[0]


def test_many_writers_and_listers_at_once(vault: LocalVault) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def list_all() -> None:
        while not stop.is_set():
            with contextlib.suppress(VaultError):
                names = list(vault.names(""))
                assert not any(name.startswith(".") for name in names)
                seen.append(len(names))

    lister = threading.Thread(target=list_all)
    lister.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            numbers = itertools.product(range(3), range(20))
            list(pool.map(lambda n: vault.put(f"f{n[0]}/{n[1]}", [b"x" * 1000]), numbers))
    except ResilError as error:  # pragma: no cover - shown in full when it fails
        pytest.fail(str(error))
    finally:
        stop.set()
        lister.join()
    assert len(list(vault.names(""))) == 60
    assert seen == sorted(seen)
    assert len(files(vault)) == 60
