"""Private folders for work in progress, and the janitor that clears what a SIGKILL left.

Each piece of work has a folder of its own below ``<temporary folder>/resil-<uid>`` and holds
a lock on a file in it. The kernel lets go of the lock when the process ends, however it ends,
so a folder whose lock can be taken belongs to nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

from dagster_resil.errors import ConfigurationError

WORK_DIR_VARIABLE = "RESIL_WORK_DIR"
_LOCK = "lock"
_KEEP_UNTIL = "keep_until"
_SOCKET_DIR = "socket_dir"
_SOCKET_PATH_MAX_BYTES = 90
"""A unix socket's path may be 103 bytes long on macOS and 107 on Linux; this leaves room for
``/.s.PGSQL.5432``."""
_JOB_PREFIX = "job-"

log = logging.getLogger(__name__)


def work_root(work_dir: Path | None = None) -> Path:
    """Return the folder of this user's work, made when it is not there.

    :param work_dir: the folder to make it in; by default RESIL_WORK_DIR or the system's
        temporary folder. It needs room for the archive and for the restored database.
    :raises ConfigurationError: it can't be made, or is somebody else's.
    """
    parent = work_dir or Path(os.environ.get(WORK_DIR_VARIABLE) or tempfile.gettempdir())
    root = parent.absolute() / f"resil-{os.geteuid()}"
    # PostgreSQL refuses to run as root, so root's scratch servers run as somebody else, who
    # has to be able to walk through.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        root.mkdir(mode=mode, parents=True, exist_ok=True)
        status = root.lstat()
        if status.st_uid != os.geteuid() or root.is_symlink():
            raise ConfigurationError(
                f"the work folder {root} belongs to another user",
                hint=f"remove it, or name another place in {WORK_DIR_VARIABLE}",
            )
        root.chmod(mode)
    except OSError as error:
        raise ConfigurationError(
            f"can't make the work folder {root}: {error.strerror}",
            hint=f"name a folder that you can write in {WORK_DIR_VARIABLE}",
        ) from error
    return root


class Workspace:
    """A private folder for one piece of work; leaving the ``with`` removes it.

    :ivar path: the folder.
    :ivar socket_dir: a folder whose path is short enough for a unix socket.
    """

    def __init__(self, work_dir: Path | None = None) -> None:
        self._root = work_root(work_dir)
        self._kept = False

    def __enter__(self) -> Workspace:
        # The names are known before anything has them: whatever is raised in between, and a
        # signal's handler may raise anywhere, what was made is found and removed.
        mark = secrets.token_hex(6)
        making = self._root / f"new-{mark}"
        self.path = self._root / f"{_JOB_PREFIX}{mark}"
        try:
            # The lock is taken before the folder gets the name that the janitor looks for.
            making.mkdir(mode=0o700)
            self._lock = os.open(making / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            making.rename(self.path)
            if os.geteuid() == 0:
                self.path.chmod(0o711)
            self.socket_dir = self.path / "socket"
            if len(os.fsencode(self.socket_dir)) > _SOCKET_PATH_MAX_BYTES:
                self.socket_dir = Path("/tmp") / f"resil-{mark}"  # noqa: S108 - mode 700
                (self.path / _SOCKET_DIR).write_text(str(self.socket_dir))
            self.socket_dir.mkdir(mode=0o700)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            _remove(self.path)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._kept:
                _remove(self.path)
        finally:
            os.close(self._lock)

    def keep(self, for_s: float) -> float:
        """Leave the folder in place for that time; return when it ends (Unix time)."""
        until = time.time() + for_s
        (self.path / _KEEP_UNTIL).write_text(str(until))
        self._kept = True
        return until


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        elsewhere = Path((folder / _SOCKET_DIR).read_text())
        shutil.rmtree(elsewhere, ignore_errors=True)
    # A server that is being killed may write one more file while its folder goes.
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    log.warning("can't remove %s wholly", folder)


def abandoned(work_dir: Path | None = None, *, kept_too: bool = False) -> list[Path]:
    """Return the folders that no living process owns and that nobody wants kept any more.

    :param kept_too: also those whose time is not over.
    """
    found = []
    for folder in work_root(work_dir).glob(_JOB_PREFIX + "*"):
        with contextlib.suppress(OSError, ValueError):
            keep_until = folder / _KEEP_UNTIL
            kept = keep_until.exists() and time.time() < float(keep_until.read_text())
            if kept and not kept_too:
                continue
            try:
                lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                # It had one before it had its name: this is what a removal could not finish.
                found.append(folder)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)
            found.append(folder)
    return found


def remove(folder: Path) -> None:
    """Remove an abandoned folder and what belongs to it."""
    _remove(folder)
