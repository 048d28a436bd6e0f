"""The snapshot that a whole backup shows, and the session that holds it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from dagster_resil.backup.permissions import check_permissions, check_roles
from dagster_resil.errors import BackupFailed, LockTimeout, SnapshotLost
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import Relation, list_tables

log = logging.getLogger(__name__)

_PULSE_S = 5.0
"""How often the holder's connection is tried. Only its loss ends a backup early; a lost holder
that went unnoticed could not make a false one, since the end of a backup asks once more."""
_LOCKS_AT_ONCE = 500
_WAITING_EVERY_S = 0.5
_WAITING = """
SELECT w.pid, w.relation::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_locks w
 WHERE NOT w.granted AND w.locktype = 'relation'
   AND w.database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
   AND pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids(w.pid))
"""
# pg_dump waits for tables as long as it is told to, and without a limit for what else it opens.
_DUMP_WAITING = """
SELECT w.pid, w.relation::pg_catalog.regclass::pg_catalog.text
  FROM pg_catalog.pg_locks w JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid
  JOIN pg_catalog.pg_stat_activity me ON me.pid = pg_catalog.pg_backend_pid()
 WHERE NOT w.granted AND w.locktype = 'relation' AND w.mode = 'AccessShareLock'
   AND a.datid = me.datid AND a.usesysid = me.usesysid
   AND a.client_addr IS NOT DISTINCT FROM me.client_addr
   AND a.application_name IN ('pg_dump', %s)
"""
LOCK_HINT = (
    "a migration, TRUNCATE or another statement holds an exclusive lock, or waits for one: wait "
    "for it, end it, or raise setting lock_timeout_s"
)
_EXCLUSIVE = """
SELECT DISTINCT NOT l.granted, n.nspname || '.' || c.relname, l.pid, a.application_name, x.gid
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  -- A prepared transaction's locks have no process; one of them is its own number's.
  LEFT JOIN (pg_catalog.pg_locks own
             JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = own.transactionid)
    ON l.pid IS NULL AND own.pid IS NULL AND own.virtualtransaction = l.virtualtransaction
 WHERE l.mode = 'AccessExclusiveLock' AND l.database =
       (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND (l.pid IS NULL OR l.pid <> pg_catalog.pg_backend_pid())
 ORDER BY 1, 2, 3 LIMIT 6
"""
_WORKERS_WAIT_S = 5
_LOST_HINT = (
    "look in the server's log for a restart, a terminated session or a recovery conflict (on a "
    "replica: hot_standby_feedback = on); then run the backup again"
)

_JUST_NOW_S = 0.002
_BEHIND_S = 60
_SEEN = """
CASE WHEN NOT pg_catalog.pg_is_in_recovery()
     THEN pg_catalog.txid_current_snapshot()::pg_catalog.text END
"""
_HOLDING = """
SELECT pg_catalog.count(DISTINCT l.virtualtransaction) FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
"""
# A standby that has replayed all that it has received, and receives, shows what its primary does.
# Whatever else it shows was so when the last transaction was committed that it has replayed.
_MOMENT = """
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() OR
  (EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL)
   AND pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn())
  THEN pg_catalog.clock_timestamp() ELSE pg_catalog.pg_last_xact_replay_timestamp() END
"""


class SnapshotRaced(Exception):
    """The schema changed between the snapshot and the locks; a new snapshot is needed."""


@dataclass
class HeldSnapshot:
    """A REPEATABLE READ snapshot, alive as long as its session's transaction.

    :ivar endpoint: the one server that holds it.
    :ivar id: what ``SET TRANSACTION SNAPSHOT`` and ``pg_dump --snapshot`` take.
    :ivar taken_at: the moment that it shows, in whole milliseconds: of a standby that is behind,
        when the last transaction was committed that it has replayed.
    :ivar in_progress: how many transactions that had written were under way at that moment, or have
        ended about then; None on a standby, which does not know.
    :ivar tables: the tables it shows, each locked against DDL and TRUNCATE (ACCESS SHARE).
    """

    endpoint: Endpoint
    connection: Connection
    id: str
    lsn: str
    taken_at: datetime
    tables: tuple[Relation, ...]
    server_version: int
    encoding: str
    in_progress: int | None = None

    def __post_init__(self) -> None:
        self._busy = threading.Lock()
        self._last_pulse = time.monotonic()
        self._last_look = time.monotonic()
        self._waiting: dict[int, float] = {}
        self._dump_waiting: dict[int, float] = {}

    def make_way(self, limit_s: float) -> None:
        """Give up the snapshot where somebody has waited for too long for one of its locks.

        pg_dump ends itself when it has to queue behind a statement that waits for us. An export by
        somebody else's pg_dump would wait there, for us, and we for it: for ever, and with them
        everybody who wants to read the table.

        :raises BackupFailed: somebody has.
        """
        now = time.monotonic()
        if now - self._last_look < _WAITING_EVERY_S:
            return
        self._last_look = now
        with self._busy:
            try:
                rows = self.connection.execute(_WAITING).fetchall()
                self._waiting = {pid: self._waiting.get(pid, now) for pid, _ in rows}
                late = [name for pid, name in rows if now - self._waiting[pid] > limit_s]
                if late:
                    self.connection.rollback()
            except psycopg.Error:
                return  # a holder that is lost is found out by its pulse
        if late:
            raise BackupFailed(
                f"a statement has waited for {limit_s:g} s to lock table {late[0]} of "
                f"{self.endpoint.describe()}, which the backup held: the backup released its locks "
                "and stopped",
                hint="run migrations and TRUNCATE at another time, or export a clone, of which "
                "nothing is locked: consistency: clone",
            )

    def pulse(self, lock_timeout_s: float) -> None:
        """Check, at most every few seconds, that the holder's session lives, and pg_dump goes on.

        :raises SnapshotLost: it does not.
        :raises LockTimeout: pg_dump has waited for a lock for so long.
        """
        if time.monotonic() - self._last_pulse >= min(_PULSE_S, lock_timeout_s):
            self.assert_held()
            self._check_dump(lock_timeout_s)

    def _check_dump(self, limit_s: float) -> None:
        now = time.monotonic()
        name = self.endpoint.parameters.get("application_name", "pg_dump")
        with self._busy, contextlib.suppress(psycopg.Error):
            rows = self.connection.execute(_DUMP_WAITING, [name]).fetchall()
            self._dump_waiting = {pid: self._dump_waiting.get(pid, now) for pid, _ in rows}
            late = [name for pid, name in rows if now - self._dump_waiting[pid] > limit_s]
            if late:
                raise lock_timeout(
                    self.connection,
                    f"pg_dump has waited for more than {limit_s:g} s to read {late[0]} of "
                    f"{self.endpoint.describe()}",
                )

    def assert_held(self) -> None:
        """Raise SnapshotLost when the holder's session has ended."""
        with self._busy:
            try:
                self.connection.execute("SELECT")
            except psycopg.Error as error:
                raise SnapshotLost(
                    f"the session that held the snapshot on {self.endpoint.describe()} ended: "
                    f"{str(error).strip()}",
                    hint=_LOST_HINT,
                ) from None
            self._last_pulse = time.monotonic()

    @contextlib.contextmanager
    def worker(self) -> Iterator[Connection]:
        """Open another session on the same snapshot, for reading."""
        connection = self.endpoint.connect(application_name="dagster_resil compare")
        try:
            connection.autocommit = True
            # The holder has the locks already: who waits stands behind a session that waits for an
            # exclusive one, and so does everybody else.
            prepare_session(connection, lock_timeout_s=_WORKERS_WAIT_S, gentle=True)
            connection.autocommit = False
            self.adopt(connection)
            yield connection
        finally:
            connection.close()

    def adopt(self, connection: Connection) -> None:
        """Begin a transaction of another session on this snapshot.

        :raises SnapshotLost: the holder has ended.
        """
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self.id)))
        except psycopg.Error as error:
            raise SnapshotLost(
                f"the snapshot {self.id} is gone from {self.endpoint.describe()}: "
                f"{str(error).strip()}",
                hint="is there a connection pooler in between? connect to the server itself; on a "
                "replica set hot_standby_feedback = on; then run the backup again",
            ) from None


@contextlib.contextmanager
def hold_snapshot(
    endpoint: Endpoint,
    *,
    lock_timeout_s: float,
    between: Callable[[], None] = lambda: None,
) -> Iterator[HeldSnapshot]:
    """Take a snapshot, lock all that it shows, and hold both until the ``with`` is left.

    A TRUNCATE, or an ALTER that rewrites, that commits between the snapshot and the lock leaves
    the snapshot an *empty* table, on which dump, count and fingerprint would agree. So after the
    locks each table's file must be the one that the snapshot's catalogue names.

    :param between: called between snapshot and locks; tests put such a race there.
    :raises SnapshotRaced: something changed in between: try again.
    :raises PermissionMissing: something can't be read.
    :raises SourceUnreachable: no connection.
    """
    connection = endpoint.connect(application_name="dagster_resil snapshot")
    try:
        connection.autocommit = True
        prepare_session(connection, lock_timeout_s=lock_timeout_s, gentle=True)
        # A recovery to a moment has what was committed up to then, a snapshot what had ended when
        # it was taken. They are the same where nothing has ended between two looks round that
        # moment, and nobody was about to.
        taken_at = _moment(connection, endpoint)
        earlier = _one(connection, f"SELECT {_SEEN}")
        time.sleep(_JUST_NOW_S)
        holding = _one(connection, _HOLDING)
        connection.autocommit = False
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute(
            "SELECT pg_catalog.pg_export_snapshot(), "
            "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() "
            "ELSE pg_catalog.pg_current_wal_lsn() END::pg_catalog.text, "
            f"pg_catalog.current_setting('server_encoding'), {_SEEN}"
        ).fetchone()
        if row is None:  # pragma: no cover - a SELECT without FROM gives a row
            raise AssertionError("no snapshot")
        identifier, lsn, encoding, seen = row
        tables = list_tables(connection)
        if seen is None:
            _check_logged(tables, endpoint)
        check_permissions(connection, tables)
        check_roles(connection)
        between()
        to_read = [table for table in tables if table.readable]
        _lock(connection, to_read)
        _check_same_files(connection, to_read)
        yield HeldSnapshot(
            endpoint=endpoint.pinned_to(connection),
            connection=connection,
            id=identifier,
            lsn=lsn,
            taken_at=taken_at,
            tables=tuple(tables),
            server_version=connection.info.server_version,
            encoding=encoding,
            in_progress=_in_progress(earlier, seen, holding),
        )
    except psycopg.errors.LockNotAvailable:
        connection.rollback()
        raise lock_timeout(
            connection,
            f"could not lock the tables of {endpoint.describe()} within {lock_timeout_s:g} s",
        ) from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise SnapshotLost(
            f"the session on {endpoint.describe()} ended: {str(error).strip()}",
            hint=_LOST_HINT,
        ) from None
    finally:
        # A leaked holder would keep vacuum from cleaning the source.
        connection.close()


def _check_logged(tables: list[Relation], endpoint: Endpoint) -> None:
    """Refuse a standby of a database with tables that only its primary has the rows of."""
    unlogged = [f"{table.schema}.{table.name}" for table in tables if table.is_unlogged]
    if unlogged:
        raise BackupFailed(
            f"{endpoint.describe()} is a standby, which has no rows of unlogged tables: "
            + ", ".join(unlogged[:10])
            + (", …" if len(unlogged) > 10 else ""),
            hint="back up the primary (without read_from), or ALTER TABLE … SET LOGGED there",
        )


def _one(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


def _moment(connection: Connection, endpoint: Endpoint) -> datetime:
    """Return the moment that a snapshot taken soon shows, up to the next whole millisecond.

    :raises BackupFailed: it can't be determined.
    """
    moment: datetime | None = _one(connection, _MOMENT)
    if moment is None:
        raise BackupFailed(
            f"the moment that the standby {endpoint.describe()} shows can't be determined: it "
            "receives no "
            "WAL, and has replayed no transaction since it was started",
            hint="check that the standby can reach its primary, or back up the primary",
        )
    behind_s = (datetime.now(UTC) - moment).total_seconds()
    if behind_s > _BEHIND_S:
        log.warning("%s shows its primary as it was %.0f s ago", endpoint.describe(), behind_s)
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


def _in_progress(earlier: str | None, seen: str | None, holding: int) -> int | None:
    """Return how many transactions were under way, or had just ended.

    A standby knows nothing of its primary's, and shows a moment before its own clock's.

    :param earlier: a txid_snapshot, ``xmin:xmax:xip,…``, of a moment before; ``seen`` one of now.
        They are equal where no transaction has ended in between.
    :param holding: how many hold their own number's lock. A txid_snapshot lists only those that
        began before the last one that has ended.
    """
    if earlier is None or seen is None:
        return None
    (_, first, before), (_, last, now) = (text.split(":") for text in (earlier, seen))
    listed = {int(each) for text in (before, now) for each in text.split(",") if each}
    return max(len(listed | set(range(int(first), int(last)))), holding)


def _lock(connection: Connection, tables: list[Relation]) -> None:
    for first in range(0, len(tables), _LOCKS_AT_ONCE):
        some = tables[first : first + _LOCKS_AT_ONCE]
        statement = sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(
            sql.SQL(", ").join(sql.SQL("ONLY {}").format(table.identifier) for table in some)
        )
        try:
            connection.execute(statement)
        except psycopg.errors.UndefinedTable as error:
            raise SnapshotRaced(f"a table was dropped or renamed: {error}") from None


def lock_timeout(connection: Connection, what: str) -> LockTimeout:
    """Return the error for a lock that was not to be had, which names those in the way.

    :param connection: a session of the database, which may be in a transaction.
    :param what: what happened.
    """
    blockers = []
    endings = []
    for waits, table, pid, name, prepared in connection.execute(_EXCLUSIVE).fetchall():
        verb = "waits to lock" if waits else "has locked"
        if prepared is not None:
            gid = sql.Literal(prepared).as_string(connection)
            blockers.append(f"prepared transaction {gid} {verb} {table}")
            endings.append(f"ROLLBACK PREPARED {gid} or COMMIT PREPARED {gid}")
        else:
            blockers.append(f"process {pid}{f' ({name})' if name else ''} {verb} {table}")
    named = f": {', '.join(blockers)}" if blockers else ""
    if endings:
        hint = (
            f"end the prepared transaction, in that database: {'; '.join(dict.fromkeys(endings))}"
        )
    else:
        hint = LOCK_HINT
    return LockTimeout(what + named, hint=hint, names_blockers=True)


def _check_same_files(connection: Connection, tables: list[Relation]) -> None:
    oids = [table.oid for table in tables]
    locked = {
        row[0]
        for row in connection.execute(
            "SELECT relation FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() "
            "AND locktype = 'relation' AND mode = 'AccessShareLock' AND granted"
        )
    }
    now: dict[int, int | None] = dict(
        connection.execute(
            "SELECT o, pg_catalog.pg_relation_filenode(o::pg_catalog.regclass) "
            "FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS o",
            [oids],
        ).fetchall()
    )
    for table in tables:
        if table.oid not in locked:
            raise SnapshotRaced(f"table {table.schema}.{table.name} was replaced")
        if now.get(table.oid) != table.file_node:
            raise SnapshotRaced(f"table {table.schema}.{table.name} was truncated or rewritten")
