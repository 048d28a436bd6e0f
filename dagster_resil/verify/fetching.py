"""``archive_intact``: a backup's objects on their way to a restore, every checksum looked at.

What is restored is what was summed: the same bytes, read once. Large tables go from the vault
straight into the database, so their sums are known when the load is over; the other objects are
copied into a local folder first.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster_resil.errors import (
    ArrivedDamaged,
    ObjectDamaged,
    ObjectMissing,
    VaultError,
    VaultUnreachable,
)
from dagster_resil.postgres.load import Rows
from dagster_resil.postgres.table_of_contents import (
    ArchiveUnreadable,
    TableOfContents,
    codec,
    read_contents,
)
from dagster_resil.progress import Progress, Step
from dagster_resil.records.manifest import Manifest, StoredObject, Table
from dagster_resil.records.receipt import Check
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.layout import manifest_name
from dagster_resil.verify.compare import DETAILS_SHOWN

log = logging.getLogger(__name__)

STREAMED_BYTES = 1 << 20
"""By default a table of which the backup has less is left to pg_restore, by way of the folder."""
_OTHER_CONTENTS = "has other contents than its checksums say"
_OTHER_THAN_TOLD = "arrived with other contents than the vault says it has"
_PART = re.compile(r"(archive/(?P<file>.+?))\.gz(\.[0-9]{4,})?")


@dataclass(frozen=True)
class _Streamed:
    """A table whose rows go straight into the database."""

    table: Table
    file: str
    parts: tuple[StoredObject, ...]


class Archive:
    """The objects of one backup, while it is being restored.

    :param folder: where the objects go that are copied first.
    :param streamed_bytes: a table of which the backup has as much goes straight into the database.
    :ivar extension_versions: in which versions extensions are restored, where not in the server's
        default.
    """

    def __init__(
        self,
        backups: Backups,
        manifest: Manifest,
        folder: Path,
        *,
        streamed_bytes: int = STREAMED_BYTES,
    ) -> None:
        self._backups = backups
        self._manifest = manifest
        self._streamed_bytes = streamed_bytes
        self.folder = folder
        self._objects = {item.name: item for item in manifest.objects}
        self._lock = threading.Lock()
        self._wrong: dict[str, str] = {}
        # Of objects that are whole in the vault, as far as it tells.
        self._damaged_on_the_way: dict[str, str] = {}
        self._out_of_reach = ""
        self._seen: set[str] = set()
        # Of those damaged on the way, the parts that had gone into a database when it was noticed.
        self._passed_on: set[str] = set()
        self._other_problems: list[str] = []
        self._streamed = [streamed for table in manifest.tables if (streamed := self._large(table))]
        self._by_way_of_folder = self._objects.keys() - {
            part.name for streamed in self._streamed for part in streamed.parts
        }
        self._contents: TableOfContents | None = None
        self.extension_versions: Mapping[str, str] = {}

    def _large(self, table: Table) -> _Streamed | None:
        """Return how a table is streamed, if it is large enough for that.

        What is in several parts always is: pg_restore knows them only when they are joined.
        """
        parts = [self._objects[name] for name in table.parts if name in self._objects]
        size = sum(part.size for part in parts)
        if len(parts) != len(table.parts) or (len(parts) < 2 and size < self._streamed_bytes):
            return None
        files = {found["file"] for name in table.parts if (found := _PART.fullmatch(name))}
        return _Streamed(table, files.pop(), tuple(parts)) if len(files) == 1 else None

    @property
    def local_bytes(self) -> int:
        """Return how much room the folder needs."""
        return sum(self._objects[name].size for name in self._by_way_of_folder)

    @property
    def contents(self) -> TableOfContents:
        """Return the archive's table of contents, once it is fetched."""
        if self._contents is None:
            raise ArchiveUnreadable("the archive's toc.dat was not read")
        return self._contents

    def fetch(self, *, jobs: int, progress: Progress) -> bool:
        """Copy what is not streamed; return whether nothing is known to be wrong."""
        items = [item for item in self._manifest.objects if item.name in self._by_way_of_folder]
        streamed = [part for each in self._streamed for part in each.parts]
        total = sum(item.size for item in items)
        done = 0

        def fetch_one(item: StoredObject) -> None:
            nonlocal done
            target = self.folder / item.name
            target.parent.mkdir(parents=True, exist_ok=True)

            def write(chunks: Iterator[bytes]) -> None:
                with target.open("wb") as file:
                    for chunk in chunks:
                        file.write(chunk)

            self._read(item, write)
            done += item.size
            progress(Step("fetching", done, total, "bytes"))

        with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="fetch") as pool:
            list(pool.map(fetch_one, items))
            list(pool.map(self._look, streamed))
        self._other_problems = [
            f"object {part} of table {table.schema_}.{table.name} is not in the manifest's list"
            for table in self._manifest.tables
            for part in table.parts
            if part not in self._objects
        ] + [
            f"the parts of table {table.title} are not in sequence"
            for table in self._manifest.tables
            if list(table.parts) != sorted(set(table.parts))
        ]
        if self.intact_so_far:
            self._other_problems += self._parse()
        return self.intact_so_far

    def _read(self, item: StoredObject, take: Callable[[Iterator[bytes]], None]) -> None:
        """Read an object whole; once more when it arrives damaged. What goes wrong is noted.

        :param take: takes the chunks; what it has made of them is void when it is called again.
        """
        if self._out_of_reach:
            return  # each object would be tried for as long again
        with contextlib.suppress(VaultError):
            try:
                with self.open(item) as chunks:
                    take(chunks)
            except ArrivedDamaged as error:
                if item.name in self._wrong:
                    raise
                log.warning("reading it again: %s", error.message)
                with self.open(item) as chunks:
                    take(chunks)
                with self._lock:
                    del self._damaged_on_the_way[item.name]

    def _look(self, item: StoredObject) -> None:
        """See that a large object is there and as large as it should be."""
        if self._out_of_reach:
            return
        try:
            size = self._backups.object_size(self._manifest.backup_id, item.name)
            if size != item.size:  # no checksum guards what a vault tells: it may be damaged
                size = self._backups.object_size(self._manifest.backup_id, item.name)
        except ObjectMissing:
            self._note_missing(item)
        except VaultError as error:
            self._note_failure(item, error)
        else:
            if size != item.size:
                self._note(item, _other_size(size, item))

    def _parse(self) -> list[str]:
        toc = self._objects.get("archive/toc.dat")
        if toc is None:
            return ["the archive has no toc.dat"]
        try:
            file = self.folder / toc.name
            read = [file.read_bytes()] if file.exists() else []
            if not read:
                self._read(toc, lambda chunks: read.append(b"".join(chunks)))
            if not read:
                return []  # noted
            self._contents = read_contents(read[-1], self._manifest.source.text_encoding)
        except ArchiveUnreadable as error:
            return [error.message]
        named = {
            entry.file_name
            for entry in self._contents.of_kind("TABLE DATA")
            if entry.copy_statement
        }
        return [
            f"the archive does not name the data of table {each.table.title}"
            for each in self._streamed
            if each.file not in named
        ]

    def _note(self, item: StoredObject, wrong: str) -> None:
        with self._lock:
            self._wrong[item.name] = wrong
            self._seen.add(item.name)

    def _note_arrival(self, item: StoredObject, error: ArrivedDamaged) -> None:
        """Note that an object arrived damaged; where the vault has another, it is the object."""
        if error.size != item.size:
            self._note(item, _other_size(error.size, item))
        elif error.crc32c != item.crc32c:
            self._note(item, _OTHER_CONTENTS)
        else:
            with self._lock:
                again = item.name in self._damaged_on_the_way
                self._damaged_on_the_way[item.name] = _OTHER_THAN_TOLD + ", twice" * again

    def _note_missing(self, item: StoredObject) -> None:
        """Note that an object is not there; where the manifest is not either, the vault is gone."""
        try:
            self._backups.vault.size(manifest_name(self._manifest.backup_id))
        except VaultError as error:
            self._out_of_reach = error.message
        else:
            self._note(item, "is missing")

    def _note_failure(self, item: StoredObject, error: VaultError) -> None:
        """Note that an object can't be read: its own fault, or a passing one of the vault."""
        if error.transient or isinstance(error, VaultUnreachable):
            self._out_of_reach = error.message
        else:
            self._note(item, f"can't be read: {error.message}")

    @contextmanager
    def open(self, item: StoredObject) -> Iterator[Iterator[bytes]]:
        """Read an object, and see at its end that it is what the manifest says.

        :raises VaultError: it is missing, can't be read, or is another: ObjectDamaged. It is
            noted for the check.
        """
        try:
            with self._backups.open_object(self._manifest.backup_id, item.name) as chunks:
                yield self._summed(item, chunks)
        except ArrivedDamaged as error:
            self._note_arrival(item, error)
            raise
        except ObjectDamaged:  # noted
            raise
        except ObjectMissing:
            self._note_missing(item)
            raise
        except VaultError as error:
            self._note_failure(item, error)
            raise

    def _summed(self, item: StoredObject, chunks: Iterable[bytes]) -> Iterator[bytes]:
        sums = Checksums()
        for chunk in chunks:
            sums.update(chunk)
            yield chunk
        wrong = ""
        if sums.size != item.size:
            wrong = _other_size(sums.size, item)
        elif sums.crc32c != item.crc32c or sums.sha256 != item.sha256:
            wrong = _OTHER_CONTENTS
        if wrong:
            self._note(item, wrong)
            raise ObjectDamaged(f"object {item.name} of {self._manifest.backup_id} {wrong}")
        with self._lock:
            self._seen.add(item.name)

    @contextmanager
    def _open_to_pass_on(self, item: StoredObject) -> Iterator[Iterator[bytes]]:
        """Read a part on its way into a database, which can't give it back."""
        try:
            with self.open(item) as chunks:
                yield chunks
        except ArrivedDamaged:
            with self._lock:
                self._passed_on.add(item.name)
            raise

    @property
    def intact_so_far(self) -> bool:
        """Return whether nothing is known to be wrong."""
        return not (
            self._wrong or self._other_problems or self._out_of_reach or self._damaged_on_the_way
        )

    def rows(self) -> list[Rows]:
        """Return the parts that are to be streamed, those of the largest table first."""
        statements = {
            entry.file_name: entry.copy_statement.encode(
                codec(self.contents.encoding), "surrogateescape"
            )
            for entry in self.contents.of_kind("TABLE DATA")
            if entry.file_name and entry.copy_statement
        }
        return [
            Rows(
                table=(each.table.schema_, each.table.name),
                statement=statements[each.file],
                part=part.name,
                size=part.size,
                is_last=part is each.parts[-1],
                open=lambda part=part: self._open_to_pass_on(part),  # type: ignore[misc]
            )
            for each in sorted(self._streamed, key=lambda each: -each.table.bytes)
            for part in each.parts
        ]

    def write_contents(self, contents: TableOfContents, folder: Path) -> None:
        """Make a folder that pg_restore takes for an archive with other contents."""
        folder.mkdir()
        for file in (self.folder / "archive").iterdir():
            if file.name != "toc.dat":
                (folder / file.name).hardlink_to(file)  # pg_restore refuses symbolic links
        (folder / "toc.dat").write_bytes(contents.to_bytes())

    def local_contents(self) -> TableOfContents:
        """Return the table of contents without what is streamed."""
        return self.contents.without_data_of(
            {each.file for each in self._streamed}
        ).with_extension_versions(self.extension_versions)

    def check(self, *, jobs: int, progress: Progress) -> Check:
        """Return ``archive_intact``; what no restore has read so far is read for it."""
        done_with = self._seen | self._damaged_on_the_way.keys()
        left = [item for item in self._manifest.objects if item.name not in done_with]
        done = 0

        def sum_one(item: StoredObject) -> None:
            nonlocal done
            self._read(item, _read_through)
            done += item.size
            progress(Step("reading the archive", done, sum(i.size for i in left), "bytes"))

        with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="sum") as pool:
            list(pool.map(sum_one, left))
        if self._contents is None and self.intact_so_far:
            self._other_problems += self._parse()
        problems = [
            self._named(item, self._wrong[item.name])
            for item in self._manifest.objects
            if item.name in self._wrong
        ] + self._other_problems
        if problems:
            more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
            return Check(
                name="archive_intact",
                verdict=Verdict.FAIL,
                summary=problems[0] + more,
                details=tuple(problems[:DETAILS_SHOWN]),
            )
        if self._out_of_reach:
            return Check(
                name="archive_intact",
                verdict=Verdict.INCONCLUSIVE,
                summary=f"the vault is out of reach: {self._out_of_reach}",
            )
        if self._damaged_on_the_way:
            arrived = [
                self._named(
                    item,
                    self._damaged_on_the_way[item.name]
                    + " while it was restored" * (item.name in self._passed_on)
                    + ": try again",
                )
                for item in self._manifest.objects
                if item.name in self._damaged_on_the_way
            ]
            more = f" (and {len(arrived) - 1:,} more)" if len(arrived) > 1 else ""
            return Check(
                name="archive_intact",
                verdict=Verdict.INCONCLUSIVE,
                summary=arrived[0] + more,
                details=tuple(arrived[:DETAILS_SHOWN]),
            )
        return Check(
            name="archive_intact",
            verdict=Verdict.PASS,
            summary=f"{len(self._objects):,} objects, {self._manifest.bytes / 1e6:,.1f} MB, every "
            "size, crc32c and sha256 as in the manifest",
        )

    def _named(self, item: StoredObject, wrong: str) -> str:
        """Name the table whose rows an object holds: that is what its owner knows."""
        for table in self._manifest.tables:
            if item.name in table.parts:
                return f"{table.schema_}.{table.name}: object {item.name} {wrong}"
        return f"object {item.name} {wrong}"


def _read_through(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _other_size(size: int, item: StoredObject) -> str:
    return f"has {size:,} bytes, the manifest says {item.size:,}"
