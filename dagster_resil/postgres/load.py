"""Loading a backup into a database.

pg_restore does it, but for the rows of large tables, which go in over several connections, and for
what lies around the database.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import psycopg
from isal import igzip_lib, isal_zlib
from psycopg import sql
from psycopg.copy import LibpqWriter

from dagster_resil.crew import Crew
from dagster_resil.errors import SourceUnreachable, VaultError
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.globals_file import NotAsWritten, Part, read_globals_file
from dagster_resil.postgres.looking import looking_tables
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.table_of_contents import Section, TableOfContents
from dagster_resil.process import Child, Completed, ProcessTimeout
from dagster_resil.progress import Progress, Step

_GZIP = 31
"""zlib's window bits for gzip members."""
_PIECE_BYTES = 1 << 17
"""How much is sent at a time; of compressed zeros a megabyte holds a gigabyte."""

END_OF_DATA = b"\\.\n\n\n"
"""What ends a table's rows in an archive. A server passes over what comes behind it."""

_REFUSALS: tuple[type[Exception], ...] = (
    psycopg.Error,
    cast(type[Exception], igzip_lib.IsalError),
    EOFError,
)
"""Of rows, by a server, and of gzip data."""
_ERRORS_SHOWN = 20
_GLOBALS_TIMEOUT_S = 600
"""A few statements a role; what takes longer waits for a lock."""

# What a machine lacks, in the words of PostgreSQL: no fault of the backup.
_ENVIRONMENT = re.compile(
    r"No space left on device|Disk quota exceeded|out of memory|out of shared memory"
    r"|could not resize shared memory|server closed the connection unexpectedly"
    r"|terminating connection|the database system is (shutting down|in recovery mode)"
    r"|connection to server .* failed|could not connect|worker process died unexpectedly"
    r"|extension .* is not available|could not open extension control file"
    r"|could not access file|must be loaded via .?shared_preload_libraries"
    r"|can only be loaded via shared_preload_libraries|could not load library"
    r"|could not create locale|ICU is not supported|unsupported XML feature"
    r"|invalid value for parameter .?lc_[a-z]+"
    r"|compression method .* not supported"
    r"|could not open (dictionary|stop-word|thesaurus|affix) file",
    re.IGNORECASE,
)
# A pg_restore of version 17 sets it also on older servers, which do not know it.
HARMLESS = 'unrecognized configuration parameter "transaction_timeout"'


# A server's messages quote rows, and pg_restore's the statement, where a password may stand.
_QUOTED_ROW = re.compile(r"^(CONTEXT: [^\n]*?): \".*", re.MULTILINE | re.DOTALL)
_QUOTED_KEY = re.compile(
    r"^(DETAIL: [^\n]*?(?:=|contains ))\(.*?\)(?=[^)\n]*(?:\n[A-Z][A-Za-z ]+: |\Z))",
    re.MULTILINE | re.DOTALL,
)
_QUOTED_STATEMENT = re.compile(r"^Command was: ([^\n]*).*", re.MULTILINE | re.DOTALL)
_SECRETIVE = re.compile(r"USER MAPPING|SUBSCRIPTION|\bSERVER\b|PASSWORD", re.IGNORECASE)


def without_values(message: str) -> str:
    """Return a message of PostgreSQL's or of its programs without what it quotes of the data.

    Of a statement the first line is left, and nothing where it may have a password.
    """
    message = _QUOTED_ROW.sub(r"\1", message)
    message = _QUOTED_KEY.sub(r"\1(…)", message)

    def shortened(found: re.Match[str]) -> str:
        words = found[1]
        return "Command was: " + (
            " ".join(words.split()[:3]) + " …" if _SECRETIVE.search(words) else words
        )

    return _QUOTED_STATEMENT.sub(shortened, message)


@dataclass(frozen=True)
class Loaded:
    """How loading ended.

    :param errors: every error, in PostgreSQL's words, the first twenty.
    :param environment: whether each of them is about this machine, not about the backup.
    :param damaged: whether it was given up since an object is not what it should be.
    """

    errors: tuple[str, ...]
    environment: bool
    damaged: bool = False

    @property
    def clean(self) -> bool:
        """Return whether there was no error at all."""
        return not self.errors


def _judge(done: Completed) -> Loaded:
    pieces = re.split(r"^(?=pg_restore: |psql:|psql: )", done.stderr, flags=re.MULTILINE)
    errors = [
        without_values(piece.strip())
        for piece in pieces
        if re.match(r"(pg_restore|psql)[^\n]*?(error|ERROR|FATAL|fatal|PANIC)\b", piece)
        and HARMLESS not in piece
    ]
    harmless = HARMLESS in done.stderr and not errors
    # Where memory is short the kernel kills, and the backup is not to blame.
    killed = done.returncode < 0 and not errors
    if killed or (not done.ok and not errors and not harmless):
        errors = [done.complaint]
    return Loaded(
        tuple(errors[:_ERRORS_SHOWN]),
        killed or (bool(errors) and all(_ENVIRONMENT.search(error) for error in errors)),
    )


def apply_globals(
    target: Endpoint,
    file: Path,
    *,
    part: Part,
    in_place: bool = False,
    timeout_s: float = _GLOBALS_TIMEOUT_S,
) -> Loaded:
    """Run one part of a ``globals.sql``, up to its first error.

    That is "roles" before the data, "settings" after it; "tablespaces" is for who has their
    folders.

    :param in_place: have tablespaces made in the server's own data folder, whatever folders they
        had.
    :raises ProcessTimeout: it took longer than ``timeout_s``, waiting for a lock for example.
    """
    try:
        globals_file = read_globals_file(file.read_bytes())
    except (NotAsWritten, OSError) as error:
        return Loaded((str(error),), False)
    deadline = time.monotonic() + timeout_s
    where = "globals.sql"
    try:
        with target.connect(
            autocommit=True, application_name="dagster_resil globals"
        ) as connection:
            prepare_session(connection, lock_timeout_s=0)
            connection.execute(f"SET statement_timeout = {int(timeout_s * 1000)}")
            if in_place:
                connection.execute("SET allow_in_place_tablespaces = on")
            for statement in globals_file.run(connection, part, in_place=in_place):
                where = statement.name
                if time.monotonic() > deadline:
                    raise ProcessTimeout(f"{where} was not reached within {timeout_s:g} s")
    except psycopg.errors.QueryCanceled as error:
        raise ProcessTimeout(f"{where} did not end within {timeout_s:g} s") from error
    except (SourceUnreachable, psycopg.Error) as error:
        words = without_values(f"{where}: {str(error).strip()}")
        lost = isinstance(error, (SourceUnreachable, psycopg.InterfaceError))
        return Loaded((words,), lost or _ENVIRONMENT.search(words) is not None)
    return Loaded((), False)


@dataclass(frozen=True)
class Rows:
    """A part of a table's rows.

    :param table: the table's schema and name.
    :param statement: the COPY that takes them, in the rows' encoding.
    :param part: the name of the object that holds them, gzip of COPY's text.
    :param size: of the object, in bytes.
    :param is_last: whether it ends the table's data.
    :param open: reads the object; raises a VaultError when it is not what it should be.
    """

    table: tuple[str, str]
    statement: bytes
    part: str
    size: int
    is_last: bool
    open: Callable[[], AbstractContextManager[Iterator[bytes]]]


class RowLoader(Crew):
    """Connections that load parts of tables; started by entering it.

    Leaving it cancels what runs.

    :param encoding: the one that the rows are in, in PostgreSQL's words.
    :ivar done_bytes: how much of the objects was loaded so far.
    :ivar done_rows: the rows of the parts that are loaded.
    :ivar errors: what PostgreSQL refused.
    :ivar damaged: whether a part was not what it should be.
    """

    def __init__(
        self, target: Endpoint, parts: Sequence[Rows], *, jobs: int, encoding: str
    ) -> None:
        self._target = target
        self._encoding = encoding
        self._todo = deque(parts)
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self.done_bytes = 0
        self.done_rows = 0
        self.errors: list[str] = []
        self.damaged = False
        super().__init__(
            self._work_off, name="load", size=min(jobs, len(parts)), interrupt=self._cancel
        )

    def _cancel(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(Exception):
                    connection.cancel_safe(timeout=5)

    def _work_off(self) -> None:
        with self._target.connect(
            autocommit=True, application_name="dagster_resil load"
        ) as connection:
            with self._lock:
                self._open.add(connection)
            try:
                self._load_all(connection)
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _load_all(self, connection: Connection) -> None:
        prepare_session(connection, lock_timeout_s=0)
        connection.execute(sql.SQL("SET client_encoding = {}").format(sql.Literal(self._encoding)))
        while not self.stopping.is_set():
            with self._lock:
                if not self._todo:
                    return
                part = self._todo.popleft()
            try:
                self._load(connection, part)
            except VaultError:
                self.damaged = True
                self.stopping.set()
            except _REFUSALS as error:
                if not self.stopping.is_set():
                    with self._lock:
                        self.errors.append(
                            f"{'.'.join(part.table)} ({part.part}): "
                            + without_values(str(error).strip())
                        )
                self.stopping.set()

    def _load(self, connection: Connection, part: Rows) -> None:
        with connection.cursor() as cursor:
            # Sent at once: libpq moves all that it still has to send with each piece that it could.
            writer = LibpqWriter(cursor, flush_threshold=0)
            with part.open() as chunks:
                try:
                    with cursor.copy(part.statement, writer=writer) as copy:
                        end = b"\n"
                        for text in inflated(self._counted(chunks)):
                            copy.write(text)
                            end = (end + text)[-len(END_OF_DATA) - 1 :]
                        # Loaded one by one the parts have every row, joined they would not.
                        if (end == b"\n" + END_OF_DATA) != part.is_last:
                            raise EOFError("the table's data does not end with its last part")
                except _REFUSALS:
                    # What was refused may not be what was to be loaded: at the object's end its
                    # checksum tells, and that is the better reason.
                    for _ in self._counted(chunks):
                        pass
                    raise
            with self._lock:
                self.done_rows += max(0, cursor.rowcount)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.stopping.is_set():
                raise EOFError("stopped")
            yield chunk
            with self._lock:
                self.done_bytes += len(chunk)


def inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the text of a gzip file of one member or several, in pieces of bounded size.

    :raises EOFError: it ends within a member.
    """
    inflate = isal_zlib.decompressobj(_GZIP)
    begun = False
    for chunk in chunks:
        data = chunk
        while data:
            text = inflate.decompress(data, _PIECE_BYTES)
            begun = True
            if text:
                yield text
            if inflate.eof:
                data = inflate.unused_data
                inflate = isal_zlib.decompressobj(_GZIP)
                begun = False
            else:
                data = inflate.unconsumed_tail
    while begun and not inflate.eof:
        # What the last piece's bound left inside.
        text = inflate.decompress(b"", _PIECE_BYTES)
        if not text:
            raise EOFError("the gzip data ends too early")
        yield text


class ArchiveSource(Protocol):
    """An archive on its way: what is in the local folder, and what is streamed."""

    folder: Path

    @property
    def contents(self) -> TableOfContents:
        """Return the whole table of contents."""

    def rows(self) -> list[Rows]:
        """Return the parts that are to be streamed."""

    def local_contents(self) -> TableOfContents:
        """Return the table of contents without what is streamed."""

    def write_contents(self, contents: TableOfContents, folder: Path) -> None:
        """Make a folder that pg_restore takes for an archive with other contents."""


@dataclass(frozen=True)
class LoadSettings:
    """How an archive is loaded.

    :param jobs: connections that load rows, and that build indexes and constraints.
    :param options: of pg_restore.
    :param clean: drop the archive's objects first, where they are there.
    :param unlogged: write rows past the WAL: for a server that is thrown away, and that does not
        come up again after a crash.
    :param timeout_s: the longest that all of it may take; None for no limit.
    """

    jobs: int
    options: tuple[str, ...] = ()
    clean: bool = False
    unlogged: bool = False
    timeout_s: float | None = None


def load_archive(
    programs: Programs,
    target: Endpoint,
    archive: ArchiveSource,
    *,
    encoding: str,
    settings: LoadSettings,
    progress: Progress,
) -> Loaded:
    """Restore an archive, and gather every error of the first stage that has any.

    Definitions come first, then rows, then indexes, constraints and triggers: so no row meets a
    foreign key or a trigger. What may look at other objects comes in an order that is always the
    same (:meth:`TableOfContents.in_fixed_order`), also where an archive was written without it.

    :raises ProcessTimeout: it took longer than ``settings.timeout_s``.
    """
    begun = time.monotonic()

    def left_s() -> float | None:
        if settings.timeout_s is None:
            return None
        return max(0.0, settings.timeout_s - (time.monotonic() - begun))

    def restore(folder: Path, stage: str, *options: str) -> Loaded:
        def watch() -> None:
            progress(Step(stage, int(time.monotonic() - began), None, "s"))

        began = time.monotonic()
        with _pg_restore(programs, target, folder, *settings.options, *options) as child:
            return _judge(child.wait(timeout_s=left_s(), watch=watch))

    local = archive.folder / "local"
    ordered = archive.local_contents().in_fixed_order()
    archive.write_contents(ordered, local)
    if settings.clean:
        drops = archive.folder / "drops"
        archive.write_contents(archive.local_contents().only_drops(), drops)
        with _pg_restore(
            programs, target, drops, "--clean", "--if-exists", "--no-owner", "--no-acl"
        ) as child:
            dropped = _judge(child.wait(timeout_s=left_s()))
        if not dropped.clean:
            return dropped
    defined = restore(local, "restoring definitions", "--section=pre-data")
    if not defined.clean:
        return defined
    with target.connect(autocommit=True) as connection:
        prepare_session(connection)
        looking = looking_tables(connection)
    for stage, rows in enumerate(_stages(archive, looking)):
        folder = local
        if looking and rows.files is not None:
            folder = archive.folder / f"rows-{stage}"
            archive.write_contents(ordered.only_data_of(rows.files), folder)
        loaded = _load_rows(programs, target, folder, encoding, settings, rows, left_s, progress)
        if not loaded.clean or loaded.damaged:
            return loaded
    return restore(
        local, "restoring indexes and constraints", "--section=post-data", f"--jobs={settings.jobs}"
    )


@dataclass(frozen=True)
class _Stage:
    """Rows that may be loaded in any order.

    :param parts: what is streamed.
    :param files: what pg_restore loads; None for no file at all.
    """

    parts: tuple[Rows, ...]
    files: frozenset[str] | None


def _stages(archive: ArchiveSource, looking: Collection[tuple[str, str]]) -> list[_Stage]:
    """Return what is loaded one after another: each table that looks at others alone, and last."""
    parts = archive.rows()
    data = [e for e in archive.local_contents().entries if e.section == Section.DATA]
    first = _Stage(
        tuple(part for part in parts if part.table not in looking),
        frozenset(e.file_name or "" for e in data if (e.schema, e.tag) not in looking),
    )
    stages = [first]
    for entry in archive.contents.of_kind("TABLE DATA"):
        if (entry.schema, entry.tag) not in looking:
            continue
        streamed = tuple(part for part in parts if part.table == (entry.schema, entry.tag))
        stages.append(_Stage(streamed, None if streamed else frozenset((entry.file_name or "",))))
    return stages


def _load_rows(
    programs: Programs,
    target: Endpoint,
    folder: Path,
    encoding: str,
    settings: LoadSettings,
    stage: _Stage,
    left_s: Callable[[], float | None],
    progress: Progress,
) -> Loaded:
    parts = stage.parts
    total = sum(part.size for part in parts)
    past_the_wal = unlogged(target, parts) if settings.unlogged else contextlib.nullcontext()
    with (
        past_the_wal,
        RowLoader(target, parts, jobs=settings.jobs, encoding=encoding) as rows,
        contextlib.ExitStack() as stack,
    ):
        child = None
        if stage.files is not None:
            child = stack.enter_context(
                _pg_restore(
                    programs,
                    target,
                    folder,
                    *settings.options,
                    "--section=data",
                    f"--jobs={settings.jobs}",
                )
            )

        def watch() -> None:
            limit_s = left_s()
            if limit_s is not None and limit_s <= 0:
                raise ProcessTimeout(f"it did not end within {settings.timeout_s:g} s")
            if rows.errors or rows.damaged:
                raise _Enough
            progress(Step("restoring", rows.done_bytes, total, "bytes", rows=rows.done_rows))

        small = Loaded((), False)
        try:
            if child is not None:
                small = _judge(child.wait(timeout_s=left_s(), watch=watch))
            rows.wait(watch)
        except _Enough:
            small = Loaded((), False)
    errors = (*rows.errors, *small.errors)
    return Loaded(
        errors[:_ERRORS_SHOWN],
        bool(errors)
        and (small.clean or small.environment)
        and all(_ENVIRONMENT.search(error) for error in rows.errors),
        rows.damaged,
    )


@contextmanager
def unlogged(target: Endpoint, parts: Sequence[Rows]) -> Iterator[None]:
    """Have tables written without WAL, and call them what they were afterwards.

    COPY skips the WAL by itself (``wal_level = minimal``) only in the transaction that made the
    table, so on one connection. ``SET LOGGED`` would write every table again; the catalogue's word
    is enough where nobody asks for the tables after a crash.
    """
    is_unlogged = "SELECT oid FROM pg_catalog.pg_class WHERE relpersistence = 'u'"
    with target.connect(autocommit=True) as connection:
        before = [row[0] for row in connection.execute(is_unlogged)]
        for table in dict.fromkeys(part.table for part in parts):
            # A table that can't be is loaded as it is.
            with contextlib.suppress(psycopg.Error):
                connection.execute(
                    sql.SQL("ALTER TABLE ONLY {} SET UNLOGGED").format(sql.Identifier(*table))
                )
        yield
        # Toast tables and sequences have gone with them.
        connection.execute(
            "UPDATE pg_catalog.pg_class SET relpersistence = 'p' "
            "WHERE relpersistence = 'u' AND oid <> ALL (%s::pg_catalog.oid[])",
            [before],
        )


class _Enough(Exception):
    """There is nothing to wait for any more."""


def _pg_restore(programs: Programs, target: Endpoint, folder: Path, *options: str) -> Child:
    return Child(
        [
            *dies_with_us("TERM"),
            programs.path("pg_restore"),
            "--no-password",
            "--no-tablespaces",
            *options,
            *target.child_arguments(),
            folder,
        ],
        env=target.child_environment(),
        name="pg_restore",
    )
