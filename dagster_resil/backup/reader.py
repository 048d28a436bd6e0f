"""Reading tables in parts: server → rows counted → gzip → checksums → one object in the vault.

Nothing goes over the local disk, and memory holds no more than one part a connection, as it is
compressed, whatever the size of the database.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from isal import isal_zlib
from psycopg import sql

from dagster_resil.backup.copying import CopySession
from dagster_resil.backup.keeping import PAUSES_S, Replayable, Store
from dagster_resil.backup.parts import Part
from dagster_resil.backup.snapshot import HeldSnapshot
from dagster_resil.crew import Crew
from dagster_resil.errors import VaultError
from dagster_resil.postgres.load import END_OF_DATA
from dagster_resil.postgres.programs import Programs
from dagster_resil.records.manifest import StoredObject

log = logging.getLogger(__name__)

_GZIP = 31
"""zlib's window bits for a gzip member."""
_MOST_MEMORY = 9
"""ISA-L's own default for its buffers costs a third of its speed."""


@dataclass
class _Seat:
    """A thread's session, when it has one."""

    session: CopySession | None = None


class TableReader(Crew):
    """Sessions on the snapshot that read tables' parts into the vault; started by entering it.

    Leaving it ends every session at once.

    :param parts: what to read, in this order.
    :param level: ISA-L's compression level, 0 to 3.
    :param store: writes an object.
    :param kept_bytes: a part that is no larger, compressed, is kept in memory until the vault has
        it, so that a passing failure of the vault does not read it from the source again.
    :ivar done_bytes: the share of the tables' sizes on disk that was read so far.
    :ivar done_rows: the rows read so far, those of parts under way too.
    """

    def __init__(
        self,
        snapshot: HeldSnapshot,
        programs: Programs,
        parts: Sequence[Part],
        *,
        sessions: int,
        level: int,
        store: Store,
        kept_bytes: int,
    ) -> None:
        self._snapshot = snapshot
        self._programs = programs
        self._level = level
        self._store = store
        self._kept_bytes = kept_bytes
        connection = snapshot.connection
        self._todo = deque(
            (
                part,
                # NOWAIT: who waits for an exclusive lock would make us wait for it, and it waits
                # for our snapshot's own lock; it is better to fail than to stand still.
                sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE NOWAIT")
                .format(part.table.identifier)
                .as_string(connection),
                part.copy_statement(connection),
            )
            for part in parts
        )
        self._lock = threading.Lock()
        self._open: set[CopySession] = set()
        self.objects: dict[str, StoredObject] = {}
        self.rows: dict[int, int] = {}
        self.done_bytes = 0
        self.done_rows = 0
        super().__init__(
            self._read_all,
            name="tables",
            size=min(sessions, len(parts)),
            interrupt=self._kill_sessions,
        )

    def _kill_sessions(self) -> None:
        with self._lock:
            sessions = list(self._open)
        for session in sessions:
            session.kill()

    def _read_all(self) -> None:
        seat = _Seat()
        try:
            while not self.stopping.is_set():
                with self._lock:
                    if not self._todo:
                        return
                    part, lock, copy = self._todo.popleft()
                self._read(seat, part, lock, copy)
        finally:
            self._clear(seat)

    def _fill(self, seat: _Seat) -> CopySession:
        if seat.session is None:
            seat.session = CopySession(self._snapshot, self._programs)
            with self._lock:
                self._open.add(seat.session)
        return seat.session

    def _clear(self, seat: _Seat) -> None:
        if seat.session is not None:
            seat.session.close()
            with self._lock:
                self._open.discard(seat.session)
            seat.session = None

    def _read(self, seat: _Seat, part: Part, lock: str, copy: str) -> None:
        """Read a part and write it."""
        stream: Replayable | None = None
        for pause_s in (*PAUSES_S, None):
            if stream is None or not stream.is_whole:
                if stream is not None:  # the session is in the midst of a COPY
                    self._clear(seat)
                counted = _Counted(self._fill(seat).rows(lock, copy), self._count)
                end = END_OF_DATA if part.is_last else b""
                stream = Replayable(compressed(counted, end, self._level), self._kept_bytes)
            try:
                stored = self._store(part.object_name, stream)
            except VaultError as error:
                if not error.transient or pause_s is None:
                    raise
                log.warning("writing %s again: %s", part.object_name, error.message)
                if self.stopping.wait(pause_s):
                    raise
            else:
                self._note(part, stored, counted.rows)
                return

    def _note(self, part: Part, stored: StoredObject, rows: int) -> None:
        with self._lock:
            self.objects[stored.name] = stored
            self.rows[part.table.oid] = self.rows.get(part.table.oid, 0) + rows
            self.done_bytes += part.bytes

    def _count(self, rows: int) -> None:
        with self._lock:
            self.done_rows += rows


class _Counted:
    """COPY's text on its way: each row ends with exactly one newline, so these are the rows."""

    def __init__(self, chunks: Iterator[bytes], tell: Callable[[int], None]) -> None:
        self._chunks = chunks
        self._tell = tell
        self.rows = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            rows = chunk.count(b"\n")
            self.rows += rows
            self._tell(rows)
            yield chunk


def compressed(chunks: Iterable[bytes], end: bytes, level: int) -> Iterator[bytes]:
    """Yield a gzip member of some text, and another one of what ends it, if anything does.

    Members that are joined end to end are one valid gzip file (RFC 1952, section 2.2).
    """
    deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP, _MOST_MEMORY)
    for chunk in chunks:
        if data := deflate.compress(chunk):
            yield data
    yield deflate.flush()
    if end:
        deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP, _MOST_MEMORY)
        yield deflate.compress(end) + deflate.flush()


__all__ = ["END_OF_DATA", "TableReader", "compressed"]
