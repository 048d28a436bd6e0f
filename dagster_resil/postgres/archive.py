"""Reading the table of contents of a pg_dump directory archive (``toc.dat``).

The format is that of PostgreSQL's pg_backup_archiver.c, versions 1.14 (servers 12 to 15),
1.15 (16) and 1.16 (17 and later). An integer is a sign byte and its bytes, low first; a string is
its length as an integer (-1: none) and its bytes.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from dagster_resil.errors import ResilError

_OLDEST = (1, 14)
_NEWEST = (1, 16)
_DIRECTORY = (3, 5)
"""pg_dump writes the number of the tar format there, for a directory that was untarred."""


class ArchiveUnreadable(ResilError):
    """The table of contents is not one, or is damaged, or is of an unknown version."""

    code = "archive_unreadable"


@dataclass(frozen=True)
class Entry:
    """An item of the archive: an object's definition, or data and the file that holds it."""

    dump_id: int
    table_oid: int
    oid: int
    tag: str
    kind: str
    definition: str
    copy_statement: str
    schema: str | None
    owner: str | None
    file_name: str | None


@dataclass(frozen=True)
class TableOfContents:
    """What an archive holds."""

    database: str
    server_version: str
    dump_version: str
    entries: tuple[Entry, ...]

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of one kind, "TABLE DATA" for example."""
        return [entry for entry in self.entries if entry.kind == kind]


# PostgreSQL's names of a server's encodings, where Python calls them something else; the others
# (EUC_JP, KOI8R…) Python knows by the same name.
_CODECS = {
    "SQL_ASCII": "utf-8",
    "EUC_CN": "gb2312",
    "EUC_TW": "big5",
    "EUC_JIS_2004": "euc_jis_2004",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "WIN866": "cp866",
    "WIN874": "cp874",
}


def _codec(encoding: str) -> str:
    if encoding.startswith("WIN125"):
        return "cp" + encoding.removeprefix("WIN")
    name = _CODECS.get(encoding, encoding)
    try:
        codecs.lookup(name)
    except LookupError:
        return "utf-8"
    return name


class _Reader:
    def __init__(self, data: bytes, encoding: str) -> None:
        self.codec = _codec(encoding)
        self.data = data
        self.at = 0
        self.int_size = 4

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise ArchiveUnreadable("the archive's toc.dat ends too early")
        self.at += count
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        sign = self.byte()
        value = int.from_bytes(self.take(self.int_size), "little")
        return -value if sign else value

    def string(self) -> str | None:
        length = self.integer()
        if length < 0:
            return None
        return self.take(length).decode(self.codec, "surrogateescape")


def read_contents(data: bytes, encoding: str = "UTF8") -> TableOfContents:
    """Read a ``toc.dat``.

    :param encoding: the database's, in PostgreSQL's words; names are written in it.
    :raises ArchiveUnreadable: it can't be read to its last byte.
    """
    reader = _Reader(data, encoding)
    if reader.take(5) != b"PGDMP":
        raise ArchiveUnreadable("the archive's toc.dat does not begin as one")
    version = (reader.byte(), reader.byte())
    reader.byte()  # the revision
    if not _OLDEST <= version <= _NEWEST:
        raise ArchiveUnreadable(
            f"the archive is of format {version[0]}.{version[1]}, unknown to this release",
            hint="upgrade dagster_resil",
        )
    reader.int_size = reader.byte()
    reader.byte()  # the size of offsets
    if reader.byte() not in _DIRECTORY:
        raise ArchiveUnreadable("the archive is not in the directory format")
    if version >= (1, 15):
        reader.byte()  # the compression's name, one byte
    else:
        reader.integer()  # its level
    for _ in range(7):
        reader.integer()  # the date
    database = reader.string() or ""
    server_version = reader.string() or ""
    dump_version = reader.string() or ""
    entries = tuple(_entry(reader, version) for _ in range(reader.integer()))
    if reader.at != len(data):
        raise ArchiveUnreadable("the archive's toc.dat has bytes behind its end")
    return TableOfContents(database, server_version, dump_version, entries)


def _entry(reader: _Reader, version: tuple[int, int]) -> Entry:
    dump_id = reader.integer()
    reader.integer()  # hadDumper
    table_oid = int(reader.string() or 0)
    oid = int(reader.string() or 0)
    tag = reader.string() or ""
    kind = reader.string() or ""
    reader.integer()  # the section
    definition = reader.string() or ""
    reader.string()  # the DROP statement
    copy_statement = reader.string() or ""
    schema = reader.string()
    reader.string()  # the tablespace
    reader.string()  # the access method
    if version >= (1, 16):
        reader.integer()  # relkind
    owner = reader.string()
    reader.string()  # WITH OIDS
    while reader.string() is not None:
        pass  # what it depends on
    file_name = reader.string()
    return Entry(
        dump_id,
        table_oid,
        oid,
        tag,
        kind,
        definition,
        copy_statement,
        schema,
        owner,
        file_name or None,
    )


_SETVAL = re.compile(r"setval\('.*', (-?\d+), (true|false)\);\s*$", re.DOTALL)


def sequence_value(entry: Entry) -> tuple[int, bool]:
    """Return what a SEQUENCE SET entry sets: the last value and whether it was used.

    :raises ArchiveUnreadable: the entry does not say.
    """
    found = _SETVAL.search(entry.definition)
    if not found:
        raise ArchiveUnreadable(f"the archive sets sequence {entry.tag} in an unknown way")
    return int(found.group(1)), found.group(2) == "true"
