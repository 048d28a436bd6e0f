"""What reads a backup's data, while its snapshot is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, Self

from dagster_resil.backup.dump import Dumper
from dagster_resil.backup.dump_archive import ArchiveReader
from dagster_resil.backup.keeping import Store, StoreMany
from dagster_resil.backup.parts import Part, cut, data_file, restore_statement, to_read_in_parts
from dagster_resil.backup.reader import TableReader
from dagster_resil.backup.snapshot import HeldSnapshot
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.table_of_contents import TableOfContents
from dagster_resil.records.manifest import Engine, StoredObject

_SLOWEST = 3
"""The highest of ISA-L's compression levels."""

Key = tuple[str, str]
"""A table's schema and name."""


@dataclass(frozen=True)
class Reading:
    """What is to be read, and where it goes.

    :param backup_id: the backup that it is for.
    :param store: writes an object of the backup, and ``store_many`` several small ones.
    """

    backup_id: str
    snapshot: HeldSnapshot
    programs: Programs
    dumper: Dumper
    store: Store
    store_many: StoreMany
    jobs: int
    part_bytes: int
    small_table_bytes: int
    compress_level: int


class Data(Protocol):
    """Reads the data of a backup into the vault; started by entering it.

    Leaving it ends whatever it has started.
    """

    @property
    def engine(self) -> Engine:
        """Return what the manifest calls it."""

    @property
    def done_bytes(self) -> int:
        """Return the share of the tables' sizes on disk that was read so far."""

    @property
    def done_rows(self) -> int:
        """Return the rows read so far."""

    @property
    def objects(self) -> Mapping[str, StoredObject]:
        """Return what is in the vault, by its name; all but the table of contents in the end."""

    @property
    def rows(self) -> Mapping[Key, int]:
        """Return how many rows of each table were read, counted as they passed."""

    @property
    def parts(self) -> Mapping[Key, tuple[str, ...]]:
        """Return the names of the objects that each table's rows are in."""

    @property
    def contents(self) -> TableOfContents:
        """Return the archive's table of contents, once it was read."""

    @property
    def tools(self) -> Mapping[str, str]:
        """Return the programs that have read, and their versions."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...

    def check(self) -> None:
        """Raise what made it fail, if something did."""

    def wait_for_definitions(self, watch: Callable[[], None]) -> None:
        """Wait until the definitions are read; ``watch`` is called some twenty times a second."""

    def wait(self, watch: Callable[[], None]) -> None:
        """Wait until everything is read."""


Method = Callable[[Reading], Data]
"""A way to read a backup's data."""


class SnapshotData:
    """This package's own engine: pg_dump and sessions of our own, all under one snapshot."""

    engine: Engine = "pg_dump"

    def __init__(self, reading: Reading) -> None:
        snapshot = reading.snapshot
        self._reading = reading
        self._in_parts = to_read_in_parts(snapshot.tables, small_bytes=reading.small_table_bytes)
        self._parts: list[Part] = [
            part
            for table in self._in_parts
            for part in cut(
                table, part_bytes=reading.part_bytes, server_version=snapshot.server_version
            )
        ]
        self._tables = TableReader(
            snapshot,
            reading.programs,
            self._parts,
            sessions=reading.jobs,
            level=min(reading.compress_level, _SLOWEST),
            store=reading.store,
            kept_bytes=reading.part_bytes,
        )
        self._archive: ArchiveReader | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        reading = self._reading
        with ExitStack() as stack:
            stack.enter_context(self._tables)
            dump = stack.enter_context(
                reading.dumper.start_archive(
                    compress_level=reading.compress_level, without=self._in_parts
                )
            )
            self._archive = ArchiveReader(
                dump,
                where=reading.snapshot.endpoint.describe(),
                encoding=reading.snapshot.encoding,
                store=reading.store,
                store_many=reading.store_many,
            )
            stack.enter_context(self._archive)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @property
    def _dumped(self) -> ArchiveReader:
        if self._archive is None:
            raise ValueError("nothing was begun")
        return self._archive

    @property
    def done_bytes(self) -> int:
        """Return the share of the tables' sizes on disk that was read so far."""
        return self._tables.done_bytes

    @property
    def done_rows(self) -> int:
        """Return the rows read so far, those of parts under way too."""
        return self._tables.done_rows + sum(list(self._dumped.rows.values()))

    @property
    def objects(self) -> Mapping[str, StoredObject]:
        """Return what is in the vault, by its name."""
        return {**self._dumped.objects, **self._tables.objects}

    @property
    def rows(self) -> Mapping[Key, int]:
        """Return how many rows of each table were read."""
        return {
            **self._dumped.rows,
            **{(t.schema, t.name): self._tables.rows[t.oid] for t in self._in_parts},
        }

    @property
    def parts(self) -> Mapping[Key, tuple[str, ...]]:
        """Return the names of the objects that each table's rows are in."""
        places: dict[Key, tuple[str, ...]] = {
            table: (name,) for table, name in self._dumped.parts.items()
        }
        for part in self._parts:
            key = (part.table.schema, part.table.name)
            places[key] = (*places.get(key, ()), part.object_name)
        return places

    @property
    def contents(self) -> TableOfContents:
        """Return the archive's table of contents, with what was read in parts."""
        connection = self._reading.snapshot.connection
        return self._dumped.contents.with_table_data(
            {
                table.oid: (restore_statement(table, connection), data_file(table))
                for table in self._in_parts
            }
        )

    @property
    def tools(self) -> Mapping[str, str]:
        """Return pg_dump's version."""
        return {"pg_dump": self._reading.programs.version}

    def check(self) -> None:
        """Raise what made a session fail, if one did."""
        self._tables.check()

    def wait_for_definitions(self, watch: Callable[[], None]) -> None:
        """Wait for pg_dump."""
        self._dumped.wait(watch)

    def wait(self, watch: Callable[[], None]) -> None:
        """Wait for the sessions."""
        self._tables.wait(watch)
