"""pg_dump's archive on its way into the vault.

pg_dump writes its custom format into a pipe; each table's rows and each large object become a file
of a directory archive, and are in the vault before the dump ends. Nothing goes over the local disk,
and memory holds a few dozen small files at the most.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from dagster_resil.backup.dump import judge, source_error
from dagster_resil.backup.keeping import PAUSES_S, Store, StoreMany
from dagster_resil.crew import Crew
from dagster_resil.errors import VaultError
from dagster_resil.postgres.custom import CustomArchive, DataFile
from dagster_resil.postgres.load import END_OF_DATA
from dagster_resil.postgres.table_of_contents import ArchiveUnreadable, TableOfContents
from dagster_resil.process import Child, ProcessTimeout
from dagster_resil.records.manifest import StoredObject

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 1 << 20
"""Files that are no larger, together too, are in memory while the vault takes them."""
_TOGETHER = 16
"""How many files are written together at the most."""
_WRITERS = 12
"""Small objects cost waiting, for a disk's sync or a network's answer, not work."""
_LAST_WORDS_S = 60


class ArchiveReader(Crew):
    """A thread that reads pg_dump's output into the vault; started by entering it.

    Leaving it ends pg_dump.

    :param child: pg_dump, with pipes, writing its custom format.
    :param where: the database's name for messages.
    :param store: writes an object, and ``store_many`` several small ones.
    :ivar objects: what is in the vault, by its name.
    :ivar rows: a table's schema and name → the rows that its file has.
    :ivar parts: a table's schema and name → the object that its rows are in.
    """

    def __init__(
        self, child: Child, *, where: str, encoding: str, store: Store, store_many: StoreMany
    ) -> None:
        self._child = child
        self._where = where
        self._encoding = encoding
        self._store = store
        self._store_many = store_many
        self._contents: TableOfContents | None = None
        self.objects: dict[str, StoredObject] = {}
        self.rows: dict[tuple[str, str], int] = {}
        self.parts: dict[tuple[str, str], str] = {}
        super().__init__(self._read, name="archive", size=1, interrupt=child.kill)

    @property
    def contents(self) -> TableOfContents:
        """Return the archive's table of contents, once it was read."""
        if self._contents is None:
            raise ArchiveUnreadable("pg_dump's table of contents was not read")
        return self._contents

    def _read(self) -> None:
        _, pipe = self._child.ends()
        try:
            archive = CustomArchive(lambda: os.read(pipe, _CHUNK_BYTES), self._encoding)
            self._contents = archive.contents
            with _Writing(self._put_small) as writing:
                for file in archive.files():
                    self._take(file, writing)
        except ArchiveUnreadable:
            self._judge()  # it ends early where pg_dump did, which knows why
            raise
        self._judge()

    def _judge(self) -> None:
        try:
            judge(self._child.wait(timeout_s=_LAST_WORDS_S), self._where)
        except ProcessTimeout as error:
            raise source_error("pg_dump", str(error), self._where) from None

    def _take(self, file: DataFile, writing: _Writing) -> None:
        """Write a file: a small one beside others, a large one as it comes."""
        name = f"archive/{file.name}"
        begun: list[bytes] = []
        size = 0
        for piece in file.pieces:
            begun.append(piece)
            size += len(piece)
            if size > _SMALL_BYTES:
                self.objects[name] = self._store(name, itertools.chain(begun, file.pieces))
                break
        else:
            writing.add(name, b"".join(begun))
        entry = file.entry
        if entry.kind == "TABLE DATA" and entry.schema is not None:
            self.rows[entry.schema, entry.tag] = file.lines - END_OF_DATA.count(b"\n")
            self.parts[entry.schema, entry.tag] = name

    def _put_small(self, files: dict[str, bytes]) -> None:
        """Write small files together; after a passing failure, those that are left one by one."""
        try:
            for stored in self._store_many((name, (data,)) for name, data in files.items()):
                self.objects[stored.name] = stored
        except VaultError as error:
            if not error.transient:
                raise
            for name, data in files.items():
                if name not in self.objects:
                    self.objects[name] = self._put_again(name, data, error)

    def _put_again(self, name: str, data: bytes, error: VaultError) -> StoredObject:
        for pause_s in PAUSES_S:
            log.warning("writing %s again: %s", name, error.message)
            if self.stopping.wait(pause_s):
                break
            try:
                return self._store(name, (data,))
            except VaultError as again:
                if not again.transient:
                    raise
                error = again
        raise error


class _Writing:
    """Threads that write small files, several together.

    :raises BaseException: by every method, and at the end: what made one of them fail.
    """

    def __init__(self, put: Callable[[dict[str, bytes]], None]) -> None:
        self._put = put
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="keep")
        self._under_way: deque[Future[None]] = deque()
        self._next: dict[str, bytes] = {}

    def __enter__(self) -> _Writing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._pool:
            if error is None:
                self._begin()
                while self._under_way:
                    self._under_way.popleft().result()

    def add(self, name: str, data: bytes) -> None:
        """Have a file written soon; wait while too many are under way."""
        if sum(map(len, self._next.values())) + len(data) > _SMALL_BYTES:
            self._begin()
        self._next[name] = data
        if len(self._next) == _TOGETHER:
            self._begin()

    def _begin(self) -> None:
        if self._next:
            self._under_way.append(self._pool.submit(self._put, self._next))
            self._next = {}
        while len(self._under_way) > _WRITERS:
            self._under_way.popleft().result()
