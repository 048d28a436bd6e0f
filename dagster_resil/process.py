"""Child processes: each in a session of its own, ended as a group however the run ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

DAY_S = 86_400.0
"""The longest that dumping or restoring may take where nobody says otherwise: what has not ended
by then hangs."""
_TERM_GRACE_S = 5.0
"""pg_dump and pg_restore cancel their queries on TERM, which takes them a moment."""
_KILL_GRACE_S = 1.0
"""Without an init process the zombies of grandchildren stay, and are not worth a longer wait."""
_POLL_S = 0.05
_STDERR_KEPT_BYTES = 256 * 1024


def on_stop(handler: Callable[[int, FrameType | None], Any], *, interrupts: bool = False) -> None:
    """Have SIGINT, SIGTERM and SIGHUP handled, but for those that our caller has us ignore.

    That is what nohup does with SIGHUP, and a shell without job control with SIGINT for what it
    starts in the background.

    :param interrupts: whether SIGINT is handled all the same: by what runs until then.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        always = interrupts and number == signal.SIGINT
        if always or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class HeldSignals:
    """Holds back what the handlers of SIGINT, SIGTERM and SIGHUP raise until its ``with`` is left.

    An exception that a handler raises between two instructions of :mod:`subprocess` loses a child
    that has just been started, or leaves its lock taken, on which the next wait stands for ever.
    Handlers run in the main thread alone; in another one there is nothing to hold.
    """

    def __init__(self) -> None:
        self._holding = True
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._arrived: list[int] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._arrived.append(number)
        else:  # it came while the handlers were being put back
            self._handlers[number](number, frame)

    def __exit__(self, *raised: object) -> None:
        self._holding = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number in self._arrived[:1]:
            signal.raise_signal(number)


class ProcessTimeout(Exception):
    """A child did not end in time and was killed."""


@dataclass(frozen=True)
class Completed:
    """A child that has ended; ``stderr`` keeps the last 256 KiB."""

    program: str
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Return whether it exited with 0."""
        return self.returncode == 0

    @property
    def complaint(self) -> str:
        """Return its stderr, or how it ended when it said nothing."""
        text = self.stderr.strip()
        if text:
            return text
        if self.returncode < 0:
            with contextlib.suppress(ValueError):
                return f"{self.program} was killed by {signal.Signals(-self.returncode).name}"
        return f"{self.program} exited with status {self.returncode}"


class Child:
    """A running child and its group.

    Use it in a ``with``: leaving it, by whatever way, ends the whole group. The output goes
    to anonymous files, so a child that writes much never waits for a reader.

    :param user: the uid (and gid) to run as; only root can name one.
    :param pipes: connect its stdin and stdout to us, to talk with it while it runs.
    :param name: the program's name for messages, where another program starts it.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        user: int | None = None,
        stdin: str | None = None,
        name: str | None = None,
        pipes: bool = False,
    ) -> None:
        self.program = name or Path(os.fsdecode(argv[0])).name
        self._leave = False
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._stdin = tempfile.TemporaryFile() if stdin is not None else None  # noqa: SIM115
        if self._stdin is not None and stdin is not None:
            self._stdin.write(stdin.encode())
            self._stdin.seek(0)
        self._popen: subprocess.Popen[bytes] | None = None
        try:
            with HeldSignals():
                self._popen = subprocess.Popen(  # noqa: S603 - the callers build argv, no shell
                    [os.fspath(part) for part in argv],
                    stdin=subprocess.PIPE if pipes else self._stdin or subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else self._stdout,
                    bufsize=0,
                    stderr=self._stderr,
                    env=None if env is None else dict(env),
                    cwd=cwd,
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                )
        except BaseException:
            self.stop()
            raise
        self.pid = self._popen.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return None if self._popen is None else _poll(self._popen)

    def wait(
        self, *, timeout_s: float | None = None, watch: Callable[[], None] | None = None
    ) -> Completed:
        """Wait for its end.

        :param watch: called some twenty times a second; what it raises ends the wait.
        :raises ProcessTimeout: it took longer than ``timeout_s``.
        """
        begun = time.monotonic()
        watched = begun
        pause_s = 0.001
        while (returncode := self.poll()) is None:
            # Short at first, so that a program that ends at once is not waited for.
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S)
            now = time.monotonic()
            if watch is not None and now - watched >= _POLL_S:
                watch()
                watched = now
            if timeout_s is not None and now - begun > timeout_s:
                raise ProcessTimeout(f"{self.program} did not end within {timeout_s:g} s")
        return Completed(self.program, returncode, self.output(), self.errors())

    def ends(self) -> tuple[int, int]:
        """Return our ends of its pipes: what we write to, and what we read from."""
        popen = self._popen
        if popen is None or popen.stdin is None or popen.stdout is None:
            raise ValueError(f"{self.program} was started without pipes")
        return popen.stdin.fileno(), popen.stdout.fileno()

    def output(self) -> str:
        """Return what it wrote to stdout so far."""
        return _text(self._stdout.fileno(), None)

    def errors(self) -> str:
        """Return the last 256 KiB of what it wrote to stderr so far."""
        return _text(self._stderr.fileno(), _STDERR_KEPT_BYTES)

    def leave_group(self) -> None:
        """Let what the child started live on after us."""
        self._leave = True

    def kill(self) -> None:
        """End the whole group: TERM, a moment to clean up, KILL.

        What it wrote can be read still; another thread may do so.
        """
        if self._popen is not None and not self._leave:
            end_group(self._popen.pid, self._popen)

    def stop(self) -> None:
        """End the whole group and close its files."""
        self.kill()
        self._close()

    def _close(self) -> None:
        pipes = (self._popen.stdin, self._popen.stdout) if self._popen else ()
        for file in (self._stdout, self._stderr, self._stdin, *pipes):
            if file is not None:
                file.close()


def _text(fd: int, last_bytes: int | None) -> str:
    """Read a file without moving the offset that the child writes at."""
    size = os.fstat(fd).st_size
    start = max(0, size - last_bytes) if last_bytes is not None else 0
    parts = []
    while start < size and (part := os.pread(fd, size - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts).decode(errors="replace")


def end_group(pgid: int, popen: subprocess.Popen[bytes] | None = None) -> None:
    """Send TERM to a process group, wait a moment, then KILL what is left of it.

    :param popen: the group's leader when it is our own child, so that it is reaped.
    """
    if _signal_group(pgid, signal.SIGTERM):
        deadline = time.monotonic() + _TERM_GRACE_S
        while time.monotonic() < deadline:
            if popen is not None:
                _poll(popen)  # a dead child that nobody reaped would keep the group alive
            if not _signal_group(pgid, 0):
                break
            time.sleep(0.01)
        if _signal_group(pgid, signal.SIGKILL):
            _wait_for_end(pgid, popen)
    while popen is not None and _poll(popen) is None:
        time.sleep(0.01)


def _poll(popen: subprocess.Popen[bytes]) -> int | None:
    with HeldSignals():
        return popen.poll()


def _wait_for_end(pgid: int, popen: subprocess.Popen[bytes] | None) -> None:
    """Wait for what was killed: the kernel takes a moment to end a process."""
    deadline = time.monotonic() + _KILL_GRACE_S
    while time.monotonic() < deadline:
        if popen is not None:
            _poll(popen)
        if not _signal_group(pgid, 0):
            return
        time.sleep(0.01)


def _signal_group(pgid: int, number: int) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS answers so for a group of zombies; another user's group is never ours.
        return False
    return True


def run(
    argv: Sequence[str | bytes | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    stdin: str | None = None,
    cwd: Path | str | None = None,
    user: int | None = None,
    watch: Callable[[], None] | None = None,
    leave_group: bool = False,
) -> Completed:
    """Run a child to its end; its exit status is the caller's to judge.

    :param leave_group: let what it started live on when it ends well (for ``pg_ctl start``).
    :raises ProcessTimeout: it took longer than ``timeout_s``; its group is gone.
    """
    with Child(argv, env=env, cwd=cwd, user=user, stdin=stdin) as child:
        completed = child.wait(timeout_s=timeout_s, watch=watch)
        if leave_group and completed.ok:
            child.leave_group()
        return completed
