"""Manifests: what a backup holds, of what, and of which moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from dagster_resil.records.base import (
    BACKUP_ID_PATTERN,
    NAME_PATTERN,
    Bytes,
    Record,
    Seconds,
    Time,
)


class Collation(Record):
    """A database's locale: provider "libc", "icu" or "builtin"."""

    provider: str
    collate: str
    ctype: str
    locale: str | None = None
    version: str | None = None


class Source(Record):
    """The database that was backed up."""

    host: str
    port: int
    instance: str | None = None
    database: str
    server_version: str
    """As the server says it, for example "15.18"."""
    system_identifier: str | None
    """pg_control_system(): the same for a server and its physical copies, another for any other."""
    encoding: str
    client_encoding: Literal["UTF8", "LATIN1"] = "UTF8"
    """The encoding in which its names were read: LATIN1 of a database of encoding SQL_ASCII, where
    each character stands for a byte."""
    collation: Collation
    monetary_locale: str | None = None
    """The locale by which it writes values of type money; None where it has none, and of earlier
    releases."""
    bootstrap_role: str
    """The name of the role with OID 10, which owns what initdb made."""

    @property
    def text_encoding(self) -> str:
        """Return the encoding that turns names back into the bytes that the archive has."""
        return self.client_encoding if self.encoding == "SQL_ASCII" else self.encoding

    @property
    def major(self) -> int:
        """Return the server's major version."""
        return int(self.server_version.split(".")[0])


class Snapshot(Record):
    """The one moment that the whole backup shows.

    :param taken_at: the moment, in whole milliseconds.
    :param in_progress: how many transactions that had written were under way at that moment, or
        have ended about then; None where nobody looked. A recovery to the moment may have them
        committed or not.
    """

    id: str
    lsn: str
    taken_at: Time
    in_progress: int | None = None


class Recovered(Record):
    """Where the state of a past moment came from: a temporary instance that was recovered to it.

    :param instance: the instance whose past it is, ``project:region:name``.
    :param moment: the moment, which is also the snapshot's ``taken_at``.
    :param by_way_of: the temporary instance, gone since.
    """

    instance: str
    moment: Time
    by_way_of: str


class Partition(Record):
    """The time window that the backup belongs to; ``late`` when within the grace after its end."""

    key: str
    start: Time
    end: Time
    late: bool = False


class Table(Record):
    """A table (or leaf partition) as the snapshot shows it.

    ``kind`` is "table" or, for the one row that stands for all large objects,
    "large_objects" (rows are objects). ``fingerprint`` is a decimal number, as described in
    :mod:`dagster_resil.postgres.fingerprints`; None when only the rows were counted. ``parts``
    are the names of the objects that hold its rows, in the order in which they are one file.
    ``settled`` is false where the table was written to while it was exported, without a snapshot:
    what its rows have to equal is not known then.
    """

    schema_: str = Field(alias="schema")
    name: str
    kind: Literal["table", "large_objects"] = "table"
    rows: Annotated[int, Field(ge=0)]
    fingerprint: str | None
    bytes: Bytes
    parts: tuple[str, ...] = ()
    settled: bool = True

    @property
    def title(self) -> str:
        """Return the table's name for a person."""
        return "large objects" if self.kind == "large_objects" else f"{self.schema_}.{self.name}"


def _inside(name: str) -> str:
    # A manifest is read from outside: no name in it may lead out of the backup's folder.
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"not a name inside a backup: {name!r}")
    return name


class StoredObject(Record):
    """An object of the backup; ``name`` is relative to the backup's folder.

    ``crc32c`` is base64 of the big-endian value, as Cloud Storage writes it; ``sha256`` is hex.
    """

    name: Annotated[str, AfterValidator(_inside)]
    size: Bytes
    crc32c: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{6}==$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Expectations(Record):
    """What the restored database has to equal, beyond the tables' rows.

    :param fingerprint: the form of the fingerprints: "identity" (every change that a value's text
        shows), "text" (the same, by the text of every value), "hash" (an earlier release's, which
        follows the types' own equality), or "none" when only the rows were counted.
    :param schema_object: the name of the object that holds ``pg_dump --schema-only`` of the
        source, made under the snapshot.
    :param inventory_object: the name of the object that holds what such a dump does not show.
    """

    fingerprint: Literal["identity", "hash", "text", "none"] = "hash"
    schema_object: str
    inventory_object: str


Engine = Literal["pg_dump", "cloudsql_export"]
"""What read the data: this package's own engine, or Cloud SQL's export."""


@dataclass(frozen=True)
class Capabilities:
    """What a backup can be relied on for, by the engine that read its data.

    Code asks for these, never for an engine's name: another engine is another entry below.

    :param title: the engine, for users.
    :param product: what it makes, in one word: the *dump* of a table.
    :param under_snapshot: whether it reads the rows and definitions of the snapshot's moment.
    :param by_own_login: whether it signs in as the login that reads everything else, so that the
        archive lacks what PostgreSQL hides from that login.
    :param straight_into_vault: whether nobody else holds the data on the way into the vault.
    """

    title: str
    product: str
    under_snapshot: bool
    by_own_login: bool
    straight_into_vault: bool


CAPABILITIES: dict[Engine, Capabilities] = {
    "pg_dump": Capabilities(
        title="pg_dump and sessions that copy tables",
        product="dump",
        under_snapshot=True,
        by_own_login=True,
        straight_into_vault=True,
    ),
    "cloudsql_export": Capabilities(
        title="Cloud SQL's export",
        product="export",
        # In a clone too something may write by itself, pg_cron for example.
        under_snapshot=False,
        by_own_login=False,
        straight_into_vault=False,
    ),
}


class Manifest(Record):
    """A backup. Written last: no manifest, no backup."""

    format: Annotated[int, Field(ge=1)]
    backup_id: Annotated[str, Field(pattern=BACKUP_ID_PATTERN)]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    engine: Engine = "pg_dump"
    partition: Partition | None = None
    recovered: Recovered | None = None
    left_out: tuple[str, ...] = ()
    """What the database has and the backup has not, a sentence each."""
    source: Source
    snapshot: Snapshot
    tools: dict[str, str]
    """Program → version, for example {"pg_dump": "15.18", "dagster_resil": "0.1.0"}."""
    started_at: Time
    finished_at: Time
    seconds: dict[str, Seconds] = {}  # noqa: RUF012 - a model copies its defaults
    tables: tuple[Table, ...]
    objects: tuple[StoredObject, ...]
    database_bytes: Bytes
    """The size of the source's database on its disk: what a scratch server needs room for."""
    expectations: Expectations
    settings: dict[str, str | int | float | bool | None] = {}  # noqa: RUF012 - a model copies its defaults
    """The settings that shaped the backup."""

    @property
    def capabilities(self) -> Capabilities:
        """Return what the backup can be relied on for."""
        return CAPABILITIES[self.engine]

    @property
    def rows(self) -> int:
        """Return the number of rows in all tables."""
        return sum(table.rows for table in self.tables if table.kind == "table")

    @property
    def table_count(self) -> int:
        """Return the number of tables; the row that stands for large objects is none."""
        return sum(table.kind == "table" for table in self.tables)

    @property
    def bytes(self) -> int:
        """Return the size of the backup in the vault."""
        return sum(item.size for item in self.objects)

    def head(self) -> dict[str, Any]:
        """Return what identifies the backup and its size, without the long lists."""
        document = self.to_json()
        document |= {"tables": self.table_count, "objects": len(self.objects)}
        return document | {"rows": self.rows, "bytes": self.bytes}
