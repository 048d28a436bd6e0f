"""Taking a backup by Cloud SQL's own export.

The instance writes a directory archive into a landing bucket, by an identity of its own and, if
wanted, on a machine of its own, so that the source has no more to do than pg_dump asks of it. From
there it is read once: each file, compressed once more than pg_dump's are, goes into the vault as a
stock archive's, its rows counted as they pass.

An export has no snapshot that others could read under. So it is made of a clone, which nobody
knows of, and what was written meanwhile all the same is found out and said: see
:func:`dagster_resil.backup.take`.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from isal import igzip_lib

from dagster_resil.backup.data import Data, Key, Method, Reading
from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.crew import Crew
from dagster_resil.errors import BackupFailed, ObjectMissing
from dagster_resil.postgres.load import END_OF_DATA, inflated
from dagster_resil.postgres.table_of_contents import (
    ArchiveUnreadable,
    Entry,
    TableOfContents,
    read_contents,
)
from dagster_resil.records.manifest import Engine, StoredObject
from dagster_resil.vault.base import Vault

_TOC = "toc.dat"
_FILE = re.compile(r"(?P<name>toc\.dat|blobs(_[0-9]+)?\.toc|[0-9]+\.dat\.gz|blob_[0-9]+\.dat\.gz)")
"""The files of a directory archive, as pg_dump calls them."""
_LISTED = re.compile(rb"[0-9]+ (blob_[0-9]+\.dat)")
"""A line of a list of large objects."""


@dataclass(frozen=True)
class ExportSettings:
    """How an export is made.

    :param instance: the instance to export, in ``project`` (by default the client's).
    :param landing: the bucket that it is written to; the instance's own service account needs to
        create, list and delete objects there, and a lifecycle rule may remove them after a day.
    :param offload: whether Google makes it on a machine of its own, which takes some minutes more.
    """

    instance: str
    landing: Vault
    project: str | None = None
    offload: bool = False


def exporting(cloud: CloudSql, settings: ExportSettings) -> Method:
    """Return the method that reads by way of an export."""

    def method(reading: Reading) -> Data:
        return ExportData(reading, cloud, settings)

    return method


class ExportData(Crew):
    """A thread that has an instance exported, and reads what lands; started by entering it."""

    engine: Engine = "cloudsql_export"

    def __init__(self, reading: Reading, cloud: CloudSql, settings: ExportSettings) -> None:
        self._reading = reading
        self._cloud = cloud
        self._settings = settings
        self._lock = threading.Lock()
        self._exported = threading.Event()
        self._contents: TableOfContents | None = None
        self._entries: dict[str, Entry] = {}
        self._files: frozenset[str] = frozenset()
        self._large_objects: set[str] = set()
        self._sizes = {(table.schema, table.name): table.bytes for table in reading.snapshot.tables}
        self.done_bytes = 0
        self.done_rows = 0
        self.objects: dict[str, StoredObject] = {}
        self.rows: dict[Key, int] = {}
        self.parts: dict[Key, tuple[str, ...]] = {}
        super().__init__(self._work, name="export", size=1, interrupt=lambda: None)

    @property
    def contents(self) -> TableOfContents:
        """Return the archive's table of contents, once it was read."""
        if self._contents is None:
            raise ArchiveUnreadable("the export's table of contents was not read")
        return self._contents

    @property
    def tools(self) -> Mapping[str, str]:
        """Return the version of the program that Cloud SQL has exported with."""
        return {"archive": self.contents.dump_version}

    def wait_for_definitions(self, watch: Callable[[], None]) -> None:
        """Wait for the export's end; what it has read by then is read."""
        while not self._exported.wait(0.05):
            watch()
        self.check()

    # -- the thread's

    def _stay(self) -> None:
        if self.stopping.is_set():
            raise BackupFailed("the backup was stopped while an export was running")

    def _work(self) -> None:
        try:
            self._export()
        finally:
            self._exported.set()  # or never any more

    def _export(self) -> None:
        settings = self._settings
        folder = self._reading.backup_id
        database = str(self._reading.snapshot.endpoint.parameters["dbname"])
        self._cloud.export(
            settings.instance,
            database=database,
            uri=f"{settings.landing.url.rstrip('/')}/{folder}",
            project=settings.project,
            offload=settings.offload,
            threads=self._reading.jobs,
            watch=self._stay,
        )
        self._exported.set()
        self._land(folder)

    def _land(self, folder: str) -> None:
        """Read what the export has written, and see that it is all that its contents name."""
        files: dict[str, str] = {}
        for name in self._settings.landing.names(f"{folder}/"):
            file = name.removeprefix(f"{folder}/")
            # Google's own are compressed once more than pg_dump's; nothing says that they stay so.
            found = _FILE.fullmatch(file) or _FILE.fullmatch(file.removesuffix(".gz"))
            if found is None:
                raise self._wrong(f"it holds {file!r}, which is no file of a directory archive")
            if found["name"] in files:
                raise self._wrong(f"it holds {found['name']} twice")
            files[found["name"]] = name
        toc = files.pop(_TOC, None)
        if toc is None:
            raise self._wrong("it holds no toc.dat")
        with self._telling(toc), self._settings.landing.open(toc) as chunks:
            data = b"".join(_unpacked(chunks, more=toc.endswith(".gz")))
            self._contents = read_contents(data, self._reading.snapshot.encoding)
        self._files = frozenset(files)
        self._check_complete(files)
        todo = deque(sorted(files.items()))

        def read() -> None:
            while not self.stopping.is_set() and not readers.stopping.is_set():
                try:
                    file, name = todo.popleft()
                except IndexError:
                    return
                self._read(file, name)

        jobs = self._reading.jobs
        readers = Crew(read, name="landing", size=jobs, interrupt=lambda: None)
        with readers:
            readers.wait(self._stay)
        if unknown := {file for file in files if file.startswith("blob_")} - self._large_objects:
            raise self._wrong(f"no list of large objects names {min(unknown)}")

    def _check_complete(self, files: Mapping[str, str]) -> None:
        large_objects = False
        for entry in self.contents.entries:
            if not entry.had_dumper or entry.file_name is None:
                continue
            if entry.kind == "BLOBS":
                large_objects = True
                name = entry.file_name
            else:
                name = f"{entry.file_name}.gz"
            if name not in files:
                raise self._wrong(f"its contents name {name}, which is not there")
            self._entries[name] = entry
        unknown = [
            name
            for name in files
            if name not in self._entries and not (large_objects and name.startswith("blob_"))
        ]
        if unknown:
            raise self._wrong(f"its contents do not name {min(unknown)}")

    def _read(self, file: str, name: str) -> None:
        """Read a file from the landing bucket into the vault."""
        lines = 0

        def count(more: int) -> None:
            nonlocal lines
            lines += more

        target = f"archive/{file}"
        with self._telling(name), self._settings.landing.open(name) as chunks:
            pieces = _unpacked(self._watched(chunks), more=not name.endswith(f"/{file}"))
            if file.endswith(".gz"):
                pieces = _counting(pieces, count)
            else:
                pieces = iter([self._checked(file, b"".join(pieces))])
            stored = self._reading.store(target, pieces)
        entry = self._entries.get(file)
        with self._lock:
            self.objects[target] = stored
            if entry is not None and entry.kind == "TABLE DATA" and entry.schema is not None:
                key = (entry.schema, entry.tag)
                self.rows[key] = lines - END_OF_DATA.count(b"\n")
                self.parts[key] = (target,)
                self.done_rows += self.rows[key]
                self.done_bytes += self._sizes.get(key, 0)

    def _checked(self, file: str, listed: bytes) -> bytes:
        """See that each large object of a list is there."""
        for line in listed.splitlines():
            found = _LISTED.fullmatch(line)
            if found is None:
                raise self._wrong(f"{file} is no list of large objects")
            name = f"{found[1].decode()}.gz"
            if name not in self._files:
                raise self._wrong(f"{file} names {name}, which is not there")
            with self._lock:
                self._large_objects.add(name)
        return listed

    def _watched(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._stay()
            yield chunk

    def _telling(self, name: str) -> AbstractContextManager[None]:
        return _telling(f"{self._settings.landing.url.rstrip('/')}/{name}")

    def _wrong(self, what: str) -> BackupFailed:
        return BackupFailed(
            f"the export of instance {self._settings.instance} to {self._settings.landing.url}/"
            f"{self._reading.backup_id} is not whole: {what}",
            hint="nothing of it was kept; run the backup again",
        )


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say of what has landed that it is damaged or gone, not that the vault is."""
    try:
        yield
    except (EOFError, igzip_lib.IsalError, ArchiveUnreadable) as error:  # type: ignore[misc]
        raise BackupFailed(
            f"{what}, of an export, is damaged: {error}",
            hint="nothing of it was kept; run the backup again",
        ) from None
    except ObjectMissing:
        raise BackupFailed(
            f"{what}, of an export, is gone",
            hint="does a lifecycle rule of the landing bucket remove it too soon?",
        ) from None


def _counting(chunks: Iterable[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a gzip file's chunks, and tell how many newlines its text has.

    :raises EOFError: the file is not whole.
    """
    passed: deque[bytes] = deque()
    seen = False

    def noted() -> Iterator[bytes]:
        nonlocal seen
        for chunk in chunks:
            seen = seen or bool(chunk)
            passed.append(chunk)
            yield chunk

    for text in inflated(noted()):
        while passed:
            yield passed.popleft()
        tell(text.count(b"\n"))
    if not seen:
        raise EOFError("it is empty")
    yield from passed


def _unpacked(chunks: Iterable[bytes], *, more: bool) -> Iterator[bytes]:
    """Yield what chunks are once the compression is off that an export has put on top."""
    return inflated(chunks) if more else iter(chunks)
