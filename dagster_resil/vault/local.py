"""A vault in a local folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_resil.errors import ConfigurationError, ObjectExists, ObjectMissing, VaultError
from dagster_resil.vault.base import Vault
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.model import StoredObject

_INCOMING = ".incoming"
"""Where an object is until it is whole. It is in the vault, so that a link can name it."""
_CHUNK_BYTES = 1 << 20
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750

_HINTS = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or raise the quota",
    errno.EFBIG: "the file system or a limit (ulimit -f) does not allow files of that size",
    errno.EACCES: "let the user that takes backups write there",
    errno.EPERM: "let the user that takes backups write there",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOTDIR: "a part of the path is a file",
}


class LocalVault(Vault):
    """Objects are files; the write-once promise is the file system's.

    An object is written to a temporary file, made durable, and linked to its name, which the
    system refuses when the name is there.

    :param path: the vault's folder; made with the first object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = path.as_uri()

    def _file(self, name: str) -> Path:
        parts = name.split("/")
        if "\0" in name or any(part in ("", "..") or part.startswith(".") for part in parts):
            raise ConfigurationError(f"{name!r} can't be an object's name")
        return self.path.joinpath(*parts)

    def _failed(self, what: str, error: OSError) -> VaultError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return VaultError(
            f"can't {what} in vault {self.url}: {reason}",
            hint=_HINTS.get(error.errno or 0, "look at the folder with ls -la"),
        )

    def put(self, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write a new object durably, or leave nothing."""
        target = self._file(name)
        sums = Checksums()
        try:
            self._make_folder(self.path / _INCOMING)
            self._make_folder(target.parent)
            with self._temporary() as (descriptor, temporary):
                for chunk in chunks:
                    sums.update(chunk)
                    _write_all(descriptor, chunk)
                os.fsync(descriptor)
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    raise ObjectExists(
                        f"object {name} is in vault {self.url} already",
                        hint="nothing in a vault is ever overwritten",
                    ) from None
            _sync_folder(target.parent)
        except OSError as error:
            raise self._failed(f"write {name}", error) from error
        return StoredObject(name=name, size=sums.size, crc32c=sums.crc32c, sha256=sums.sha256)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """Make a temporary file that is gone at the end; its writer holds a lock on it."""
        incoming = self.path / _INCOMING
        self._sweep(incoming)
        temporary = incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, _FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor, temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
            os.close(descriptor)

    @staticmethod
    def _sweep(incoming: Path) -> None:
        """Remove what writers that were killed have left: a file that nobody holds a lock on.

        A file as young as a minute may be one whose writer has not come to lock it yet.
        """
        now = _now()
        for file in incoming.iterdir():
            with contextlib.suppress(OSError):
                if now - file.stat().st_mtime < 60:
                    continue
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()
                finally:
                    os.close(descriptor)

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
        try:
            file = self._file(name).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectMissing(
                f"there is no object {name} in vault {self.url}",
                hint="list what there is with: resil list",
            ) from None
        except OSError as error:
            raise self._failed(f"read {name}", error) from error

        def chunks() -> Iterator[bytes]:
            try:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
            except OSError as error:
                raise self._failed(f"read {name}", error) from error

        with file:
            yield chunks()

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        try:
            return self._file(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing(f"there is no object {name} in vault {self.url}") from None
        except OSError as error:
            raise self._failed(f"look at {name}", error) from error

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with ``prefix``, sorted by their bytes."""
        if not self.path.is_dir():
            raise VaultError(
                f"there is no vault at {self.url}",
                hint="check the path; the first backup makes the folder",
            )
        start = self.path.joinpath(*prefix.split("/")[:-1])
        found = []

        def unreadable(error: OSError) -> None:
            if error.errno != errno.ENOENT:
                raise self._failed(f"list {prefix or 'everything'}", error)

        for folder, folders, files in os.walk(start, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                name = (Path(folder) / file).relative_to(self.path).as_posix()
                if not file.startswith(".") and name.startswith(prefix):
                    found.append(name)
        yield from sorted(found, key=os.fsencode)

    def discard(self, prefix: str) -> None:
        """Remove every object whose name begins with ``prefix``, and folders left empty."""
        if not self.path.is_dir():
            return
        folders = set()
        for name in self.names(prefix):
            file = self._file(name)
            folders.add(file.parent)
            with contextlib.suppress(OSError):
                file.unlink()
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            place = folder
            with contextlib.suppress(OSError):
                while place != self.path:
                    place.rmdir()
                    place = place.parent

    def check_writable(self) -> None:
        """Write and remove a small file."""
        try:
            self._make_folder(self.path / _INCOMING)
            with self._temporary() as (descriptor, _):
                _write_all(descriptor, b"resil")
                os.fsync(descriptor)
        except OSError as error:
            raise self._failed("write", error) from error


def _now() -> float:
    import time

    return time.time()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
