"""A vault in a local folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dagster_resil.errors import (
    ConfigurationError,
    NoVault,
    VaultError,
)
from dagster_resil.records.manifest import StoredObject
from dagster_resil.vault.base import Vault, check_name, is_name
from dagster_resil.vault.checksums import Checksums

log = logging.getLogger(__name__)

_INCOMING = ".incoming"
"""Where an object is until it is whole. It is in the vault, so that a link can name it."""
_SWEEP_S = 60
"""Between looks for what killed writers left there."""
_CHUNK_BYTES = 1 << 20
_FILE_MODE = 0o640
"""With the umask: a group may be let in to read, the world never."""
_FOLDER_MODE = 0o750

_HINTS = {
    errno.ENOSPC: "free some space there (or inodes: df -i)",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EFBIG: "the file system or a limit (ulimit -f) does not allow files of that size",
    errno.EACCES: "let the user that takes backups write there, and whoever proves them read",
    errno.EPERM: "let the user that takes backups write there, and whoever proves them read",
    errno.EROFS: "the file system is mounted read-only: mount it for writing, or use another",
    errno.ENOTDIR: "a part of the path is a file: correct the vault's address",
    errno.EIO: "the disk reports errors: look at the kernel's log (dmesg)",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
# What a network share answers while its server restarts or its connection is made anew.
_TRANSIENT = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_ours: set[str] = set()
"""Temporary files of this process. Over NFS a lock belongs to the process, so that this process
would be given it again, and would lose it by closing the file a second time."""
_ours_lock = threading.Lock()


@dataclass(frozen=True)
class _Incoming:
    """An object that is written and has no name yet."""

    name: str
    target: Path
    descriptor: int
    temporary: Path
    sums: Checksums


class LocalVault(Vault):
    """Objects are files; the write-once promise is the file system's.

    An object is written to a temporary file, made durable, and linked to its name, which the
    system refuses when the name is there. A file system without hard links is refused: writing
    to the name itself would show half a manifest to whoever lists the vault meanwhile.

    :param path: the vault's folder; made with the first object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = path.as_uri()
        self._folders = _FolderSync()
        self._next_sweep = 0.0

    def _file(self, name: str) -> Path:
        check_name(name)
        return self.path.joinpath(*name.split("/"))

    def _failed(self, what: str, error: OSError, hint: str = "") -> VaultError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return VaultError(
            f"can't {what} in vault {self.url}: {reason}",
            hint=hint or _HINTS.get(error.errno or 0, "look at the folder with ls -la"),
            transient=error.errno in _TRANSIENT,
        )

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(what, error) from error

    def put(self, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write a new object durably, or leave nothing."""
        [stored] = self._put_all([(name, chunks)])
        return stored

    def put_many(self, items: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[StoredObject]:
        """Write some small objects durably, all or none: they share the waits for the disk."""
        yield from self._put_all(items)

    def _put_all(self, items: Iterable[tuple[str, Iterable[bytes]]]) -> list[StoredObject]:
        with ExitStack() as temporaries:
            incoming = [self._receive(name, chunks, temporaries) for name, chunks in items]
            for each in incoming:
                with self._telling(f"write {each.name}"):
                    os.fsync(each.descriptor)
            self._publish(incoming)
        return [
            StoredObject(
                name=each.name,
                size=each.sums.size,
                crc32c=each.sums.crc32c,
                sha256=each.sums.sha256,
            )
            for each in incoming
        ]

    def _receive(self, name: str, chunks: Iterable[bytes], temporaries: ExitStack) -> _Incoming:
        """Write an object to a temporary file."""
        target = self._file(name)
        what = f"write {name}"
        with self._telling(what):
            if _is_there(target):  # known before gigabytes are written for nothing
                raise self._exists(name)
        descriptor, path = temporaries.enter_context(self._temporary(what))
        sums = Checksums()
        # What reading the caller's stream raises is not the vault's failure.
        for chunk in chunks:
            sums.update(chunk)
            with self._telling(what):
                _write_all(descriptor, chunk)
        return _Incoming(name, target, descriptor, path, sums)

    def _publish(self, incoming: Sequence[_Incoming]) -> None:
        """Give objects their names, all or none."""
        linked: list[Path] = []
        try:
            for each in incoming:
                what = f"write {each.name}"
                with self._telling(what):
                    self._make_folder(each.target.parent)
                    try:
                        self._link(each.temporary, each.target, what)
                    except FileExistsError:
                        raise self._exists(each.name) from None
                linked.append(each.target)
            for folder in dict.fromkeys(file.parent for file in linked):
                with self._telling(f"write into {folder.relative_to(self.path)}"):
                    self._folders.sync(folder)
        except BaseException:
            for file in linked:
                with contextlib.suppress(OSError):
                    file.unlink()
            raise

    def _link(self, temporary: Path, target: Path, what: str) -> None:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise self._failed(
                what,
                error,
                "a vault needs a file system with hard links, which FAT and some network "
                "shares are not: use another",
            ) from error

    @contextmanager
    def _temporary(self, what: str) -> Iterator[tuple[int, Path]]:
        """Make a temporary file that is gone at the end; its writer holds a lock on it."""
        incoming = self.path / _INCOMING
        with self._telling(what):
            self._make_folder(incoming)
            if time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + _SWEEP_S
                _sweep(incoming)
            descriptor, temporary = _new_locked_file(incoming)
        try:
            yield descriptor, temporary
        finally:
            # Unlocked last: what the janitor finds unlocked is a dead writer's.
            with contextlib.suppress(OSError):
                temporary.unlink()
            with contextlib.suppress(OSError):
                os.close(descriptor)
            _forget(temporary)

    @staticmethod
    def _make_folder(folder: Path) -> None:
        """Make a folder and its parents, each durably."""
        if folder.is_dir():
            return
        missing = [folder]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for each in reversed(missing):
            each.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            _sync_folder(each.parent)

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        """Read an object as a stream of chunks."""
        what = f"read {name}"
        try:
            file = self._file(name).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise self._missing(name) from None
        except OSError as error:
            raise self._failed(what, error) from error

        def chunks() -> Iterator[bytes]:
            while True:
                with self._telling(what):
                    chunk = file.read(_CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

        with file:
            yield chunks()

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        try:
            status = self._file(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(name) from None
        except OSError as error:
            raise self._failed(f"look at {name}", error) from error
        if not stat.S_ISREG(status.st_mode):
            raise self._missing(name)
        return status.st_size

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with ``prefix``, sorted by their bytes.

        :raises VaultError: there is no vault, or a folder in it can't be read.
        """
        folder, _, begins = prefix.rpartition("/")
        start = self._file(folder) if folder else self.path
        if prefix.startswith("/") or "\0" in prefix:
            raise ConfigurationError(f"{prefix!r} can't be the beginning of an object's name")
        self._check_there()
        found = []

        def unreadable(error: OSError) -> None:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise self._failed(f"list {prefix or 'everything'}", error)

        for place, folders, files in os.walk(start, onerror=unreadable):
            if Path(place) == start:
                folders[:] = [name for name in folders if name.startswith(begins)]
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                name = (Path(place) / file).relative_to(self.path).as_posix()
                if name.startswith(prefix) and is_name(name):
                    found.append(name)
        yield from sorted(found, key=os.fsencode)

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Yield the next parts of the names below a prefix that go on after it, sorted."""
        self._check_there()
        place = self._file(prefix.rstrip("/")) if prefix else self.path
        if prefix and not place.is_dir():
            return
        with self._telling(f"list {prefix or 'everything'}"), os.scandir(place) as entries:
            found = [e.name for e in entries if e.is_dir() and is_name(e.name)]
        yield from sorted(found, key=os.fsencode)

    def _check_there(self) -> None:
        try:
            is_folder = stat.S_ISDIR(self.path.stat().st_mode)
        except FileNotFoundError:
            raise NoVault(
                f"there is no vault at {self.url}",
                hint="check the path; the first backup makes the folder",
            ) from None
        except OSError as error:
            raise self._failed("look", error) from error
        if not is_folder:
            raise self._failed("look", NotADirectoryError(errno.ENOTDIR, ""))

    def written_at(self, folder: str) -> datetime | None:
        """Return when something was written last into a folder, as its file system has it."""
        self._check_there()
        place = self._file(folder.rstrip("/"))
        newest = None
        # The folder as well: a writer may have been killed before its first object had a name.
        for each in (place, *map(self._file, self.names(folder))):
            with self._telling(f"look at {folder}"), contextlib.suppress(FileNotFoundError):
                newest = max(newest or 0.0, each.stat().st_mtime)
        return None if newest is None else datetime.fromtimestamp(newest, UTC)

    def discard(self, prefix: str) -> None:
        """Remove what an attempt that will have no manifest has written.

        :param prefix: the beginning of names inside one backup's folder.
        :raises VaultError: that backup has a manifest, or the prefix reaches further than one
            backup; nothing is removed.
        """
        manifest = self._manifest_of(prefix)
        with self._telling(f"remove {prefix}"):
            if _is_there(self._file(manifest)):
                raise self._is_whole(prefix)
            if not self.path.is_dir():
                return
        left = 0
        start = self._file(prefix.rpartition("/")[0])
        folders = {start}
        for name in self.names(prefix):
            file = self._file(name)
            folders.update(parent for parent in file.parents if parent.is_relative_to(start))
            try:
                file.unlink(missing_ok=True)
            except OSError:
                left += 1
        # Deepest first. The folders above stay: another attempt may be about to use them.
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if left:
            log.warning("could not remove %d objects below %s in vault %s", left, prefix, self.url)

    def check_writable(self, name: str | None = None) -> None:
        """Look whether its folders may be written; write, link and remove a small file.

        A vault that is not there yet is not made.
        """
        with self._telling("write"):
            names = [name] if name else list(self.folders()) if _is_there(self.path) else []
            for each in ("", *names):
                for part in ("", "manifests", "backups", "receipts") if each else ("",):
                    _check_folder(self.path / each / part)
        if not _is_there(self.path):
            return
        self._next_sweep = 0.0
        with self._temporary("write") as (descriptor, temporary), self._telling("write"):
            _write_all(descriptor, b"resil")
            os.fsync(descriptor)
            linked = temporary.with_name(f"{temporary.name}-link")
            try:
                self._link(temporary, linked, "write")
            finally:
                linked.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    """Raise OSError when a folder, or the nearest one above it that is there, can't be written."""
    for place in (folder, *folder.parents):
        if _is_there(place):
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "")
            if not os.access(place, os.W_OK | os.X_OK):
                read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                raise OSError(errno.EROFS if read_only else errno.EACCES, "")
            return


def _is_there(file: Path) -> bool:
    """Tell whether there is anything; not being allowed to look is an OSError, not a no."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _new_locked_file(incoming: Path) -> tuple[int, Path]:
    while True:
        temporary = incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        with _ours_lock:
            _ours.add(temporary.name)
        descriptor = -1
        try:
            descriptor = os.open(
                temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor, temporary
            # Another process's janitor was here before the lock was: make another.
            os.close(descriptor)
            _forget(temporary)
        except BaseException:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            _forget(temporary)
            raise


def _forget(temporary: Path) -> None:
    with _ours_lock:
        _ours.discard(temporary.name)


def _sweep(incoming: Path) -> None:
    """Remove what writers that were killed have left: files that nobody holds a lock on."""
    for file in incoming.iterdir():
        with _ours_lock:
            if file.name in _ours:
                continue
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
            finally:
                os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class _FolderSync:
    """Makes new names in folders durable; who waits for another's turn shares the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Path, threading.Lock] = {}
        self._begun: dict[Path, int] = {}
        self._ended: dict[Path, int] = {}

    def sync(self, folder: Path) -> None:
        """Return when what the folder names now is durable."""
        with self._lock:
            turn = self._turns.setdefault(folder, threading.Lock())
            before = self._begun.get(folder, 0)
        with turn:
            # One that began before our name was there may not have it.
            if self._ended.get(folder, 0) > before:
                return
            self._begun[folder] = number = self._begun.get(folder, 0) + 1
            _sync_folder(folder)
            self._ended[folder] = number


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
