"""What a restore has to equal: read under the backup's snapshot, while the dump runs.

The queries here share nothing with what reads the data: a mistake in the one does not make the
same mistake in the other.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from dagster_resil.backup.dump import CONFLICT_HINT
from dagster_resil.backup.snapshot import LOCK_HINT, HeldSnapshot
from dagster_resil.crew import Crew
from dagster_resil.errors import BackupFailed, LockTimeout, PermissionMissing
from dagster_resil.postgres.catalogues import Catalogues, read_catalogues
from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.fingerprints import Content, FingerprintForm, read_contents
from dagster_resil.postgres.inventory import read_large_objects, take_inventory
from dagster_resil.postgres.tables import Relation, in_batches
from dagster_resil.records.inventory import Inventory, LargeObjects

_Work = Callable[[Connection], None]


class ExpectationReader(Crew):
    """Sessions on the snapshot that count, fingerprint and list; started by entering it.

    Leaving it cancels what runs and closes every session.

    :ivar done_bytes: the size of the tables that are read so far.
    """

    def __init__(self, snapshot: HeldSnapshot, *, form: FingerprintForm, sessions: int) -> None:
        self._snapshot = snapshot
        self._form = form
        self._todo: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self.contents: dict[int, Content] = {}
        self.done_bytes = 0
        self._schema_read = threading.Event()
        self._inventory: Inventory | None = None
        self._large_objects: LargeObjects | None = None
        self._catalogues: Catalogues = {}
        self._todo.put(self._read_schema)
        # The largest first, so that no session is left with it at the end.
        batches = in_batches(table for table in snapshot.tables if table.readable)
        for batch in batches:
            self._todo.put(self._reading(batch))
        super().__init__(
            self._read_all,
            name="expectations",
            size=max(1, min(sessions, len(batches) + 1)),
            interrupt=self._cancel,
        )

    def _cancel(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(Exception):
                    connection.cancel_safe(timeout=5)

    def wait_for_schema(
        self, watch: Callable[[], None]
    ) -> tuple[Inventory, LargeObjects, Catalogues]:
        """Wait until all but the tables is read; ``watch`` is called some twenty times a second."""
        while not self._schema_read.wait(0.05):
            watch()
        self.check()
        if self._inventory is None or self._large_objects is None:
            raise BackupFailed("the schema was not read")
        return self._inventory, self._large_objects, self._catalogues

    def _read_all(self) -> None:
        try:
            with self._snapshot.worker() as connection:
                with self._lock:
                    self._open.add(connection)
                try:
                    self._work_off(connection)
                finally:
                    with self._lock:
                        self._open.discard(connection)
        except psycopg.Error as error:
            raise _explained(error, self._snapshot.endpoint.describe()) from error

    def _work_off(self, connection: Connection) -> None:
        while not self.stopping.is_set():
            try:
                work = self._todo.get_nowait()
            except queue.Empty:
                return
            work(connection)
            # Let go of its locks, which the snapshot's own session has too: a server has room
            # for a few thousand.
            connection.rollback()
            self._snapshot.adopt(connection)

    def _read_schema(self, connection: Connection) -> None:
        self._inventory = take_inventory(connection)
        self._large_objects = read_large_objects(connection)
        self._catalogues = read_catalogues(connection)
        self._schema_read.set()

    def _reading(self, tables: Sequence[Relation]) -> _Work:
        def read(connection: Connection) -> None:
            # A session that waits for an exclusive lock would make us wait for it, and it waits
            # for our snapshot's own lock: it is better to fail than to stand still.
            connection.execute(
                sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(
                    sql.SQL(", ").join(
                        sql.SQL("ONLY {}").format(table.identifier) for table in tables
                    )
                )
            )
            found = read_contents(connection, tables, self._form)
            with self._lock:
                self.contents |= found
                self.done_bytes += sum(table.bytes for table in tables)

        return read


def _explained(error: psycopg.Error, database: str) -> BackupFailed:
    text = str(error).strip()
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return LockTimeout(
            f"a table of {database} could not be locked to count and fingerprint it: {text}",
            hint=LOCK_HINT,
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return PermissionMissing(
            f"the login may not read something in {database}: {text}",
            hint="grant it SELECT there (pg_read_all_data, from version 14), or BYPASSRLS for "
            "row-level security",
        )
    conflict = "conflict with recovery" in text
    return BackupFailed(
        f"counting and fingerprinting {database} failed: {text}",
        hint=CONFLICT_HINT
        if conflict
        else "the server's log may say more; then run the backup again",
    )
