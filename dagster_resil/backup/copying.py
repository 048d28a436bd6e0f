"""A session that copies rows out of the snapshot.

The session is psql's: COPY sends a message a row, and taking millions of them apart is work for C.
Python sees the text in large pieces only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

from psycopg import sql

from dagster_resil.backup.dump import source_error
from dagster_resil.backup.snapshot import HeldSnapshot
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.postgres.session import session_statement
from dagster_resil.postgres.table_of_contents import codec
from dagster_resil.process import Child, ProcessTimeout

_CHUNK_BYTES = 1 << 20
_LEAST_BYTES = 1 << 18
_END = b"\\.\n"
"""What the session says after the rows. No row is that: COPY doubles every backslash of data."""
_LAST_WORDS_S = 10


class CopySession:
    """A psql session on a held snapshot.

    :raises BackupFailed: when it is used, if psql or the server fails.
    """

    def __init__(self, snapshot: HeldSnapshot, programs: Programs) -> None:
        self._where = snapshot.endpoint.describe()
        self._codec = codec(snapshot.encoding)
        # pg_dump's own: a setting of the role or database must not change how values print.
        env = snapshot.endpoint.child_environment() | {
            "PGTZ": "UTC",
            "PGCLIENTENCODING": snapshot.encoding,
            "PGAPPNAME": "dagster_resil copy",
        }
        self._child = Child(
            [
                *dies_with_us("TERM"),
                *_large_writes(),
                programs.path("psql"),
                "--no-psqlrc",
                "--quiet",
                "--no-password",
                "--set=ON_ERROR_STOP=1",
                *snapshot.endpoint.child_arguments(),
            ],
            env=env,
            name="psql",
            pipes=True,
        )
        self._to, self._from = self._child.ends()
        _widen(self._from)
        _let_gather(self._child.pid)
        settings = session_statement(snapshot.server_version, gentle=True).as_string(
            snapshot.connection
        )
        identifier = sql.Literal(snapshot.id).as_string(snapshot.connection)
        self._first = (
            f"{settings} \\g /dev/null\n"
            # A range of ctids is never to be found by reading the whole table.
            "SET enable_seqscan = off;\n"
        )
        self._begin = (
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;\n"
            f"SET TRANSACTION SNAPSHOT {identifier};\n"
        )

    def rows(self, lock: str, copy: str) -> Iterator[bytes]:
        """Yield the text that a COPY writes, a row a line, in pieces of any length.

        :param lock: the statement that locks the table first.
        :raises BackupFailed: psql or the server failed; the session is of no more use.
        """
        # A transaction each: a server has room for a few thousand locks, which the snapshot's own
        # session holds anyway.
        script = f"{self._first}{self._begin}{lock};\n{copy};\nCOMMIT;\n\\echo '\\\\.'\n"
        self._first = ""
        try:
            _write_all(self._to, script.encode(self._codec, "surrogateescape"))
        except BrokenPipeError:
            raise self._failure() from None
        held = b""
        while True:
            pieces = [held]
            size = 0
            # psql writes in small pieces where nothing makes it write large ones.
            while size < _LEAST_BYTES:
                piece = os.read(self._from, _CHUNK_BYTES)
                if not piece:
                    raise self._failure()
                pieces.append(piece)
                size += len(piece)
                if piece.endswith(_END[-len(piece) :]):
                    break
            chunk = b"".join(pieces)
            # psql says nothing behind the end until it is asked again.
            if chunk.endswith(_END) and (chunk == _END or chunk[-4:-3] == b"\n"):
                if len(chunk) > len(_END):
                    yield chunk[: -len(_END)]
                return
            # The end may have come in two pieces.
            held = chunk[-len(_END) :]
            if ready := chunk[: -len(_END)]:
                yield ready

    def _failure(self) -> Exception:
        try:
            done = self._child.wait(timeout_s=_LAST_WORDS_S)
        except ProcessTimeout:
            return source_error("psql", "it closed its output", self._where)
        return source_error("psql", done.complaint, self._where)

    def kill(self) -> None:
        """End the session while another thread reads from it."""
        self._child.kill()

    def close(self) -> None:
        """End the session, whatever it does."""
        self._child.stop()


def _large_writes() -> tuple[str, ...]:
    """Return the words that make a command write a megabyte at a time (GNU coreutils).

    C's library has it write 4 kB at a time into a pipe, which costs a tenth of a backup's time.
    """
    stdbuf = shutil.which("stdbuf")
    return (stdbuf, f"--output={_CHUNK_BYTES}") if stdbuf else ()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _widen(descriptor: int) -> None:
    """Let a pipe hold more, so that its two ends change turns less often (Linux)."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # the user's share of pipes may be used up
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)


def _let_gather(pid: int) -> None:
    """Have a process woken less eagerly (Linux).

    Otherwise the kernel turns to it with every 8 kB that the server sends, eight times as often as
    it needs, which costs server and reader a tenth of their time.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
