"""Reading and writing the table of contents of a pg_dump directory archive (``toc.dat``).

The format is that of PostgreSQL's pg_backup_archiver.c, versions 1.14 (servers 12 to 15),
1.15 (16) and 1.16 (17 and later). An integer is a sign byte and its bytes, low first; a string is
its length as an integer (-1: none) and its bytes. The custom format begins with the same, where
only two things are other: the format's number, and behind each entry the offset of its data instead
of the name of the file that holds it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial

from dagster_resil.errors import ResilError

_OLDEST = (1, 14)
_NEWEST = (1, 16)
_FORMAT_AT = 10
"""Where the format's number is: behind the magic word, the version and two sizes."""
_CUSTOM = (1,)
_DIRECTORY = (3, 5)
"""pg_dump writes the number of the tar format there, for a directory that was untarred."""


class ArchiveUnreadable(ResilError):
    """The table of contents is not one, or is damaged, or is of an unknown version."""

    code = "archive_unreadable"


class Section(IntEnum):
    """The part of a restore that an entry belongs to."""

    NONE = 1
    PRE_DATA = 2
    DATA = 3
    POST_DATA = 4


@dataclass(frozen=True)
class Entry:
    """An item of the archive: an object's definition, or data and the file that holds it.

    :param had_dumper: 1 when it holds data.
    :param relkind: pg_class's letter as a number, 0 for none; in archives from 1.16 on.
    :param dependencies: dump ids, in decimal.
    :param raw: the bytes it was read from; None for one that was made or changed.
    """

    dump_id: int
    had_dumper: int
    table_oid: int
    oid: int
    tag: str
    kind: str
    section: int
    definition: str | None = None
    drop_statement: str | None = None
    copy_statement: str | None = None
    schema: str | None = None
    tablespace: str | None = None
    access_method: str | None = None
    relkind: int = 0
    owner: str | None = None
    with_oids: str | None = "false"
    dependencies: tuple[str, ...] = ()
    file_name: str | None = None
    raw: bytes | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Adjustment:
    """A statement of ours that puts back what pg_dump does not write.

    :param tag: what it is about, for a list of the archive.
    :param section: before the data, or behind the indexes and constraints.
    :param after: the kind and tag of the entry that it follows at once, if there is such an entry.
    :param first: whether it comes before every object of its section, and not behind them.
    """

    tag: str
    statement: str
    section: Section
    after: tuple[str, str] | None = None
    first: bool = False


ADJUSTMENT = "ADJUSTMENT"
"""The kind of such an entry; pg_restore runs what it does not know by kind as it is."""
_SESSION_KINDS = ("ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES")
_SESSION_SETTINGS = (
    "SELECT pg_catalog.set_config('search_path', '', false);\n"
    # Money is written in this locale, which every machine has; and NULL in an array is no word.
    "SELECT pg_catalog.set_config('lc_monetary', 'C', false);\n"
    "SELECT pg_catalog.set_config('array_nulls', 'on', false);\n"
)
_LAST_KINDS = ("MATERIALIZED VIEW DATA", "EVENT TRIGGER")


def _first(entries: Sequence[Entry], wanted: Callable[[Entry], bool]) -> int:
    """Return where the first entry is of which something holds; where there is none, the end."""
    return next((n for n, entry in enumerate(entries) if wanted(entry)), len(entries))


STATE_OF_MADE_UP_TRIGGER = re.compile(
    r"ALTER TABLE [^;]* TRIGGER \"?RI_ConstraintTrigger_[ac]_[0-9]+\"?;"
)
"""What pg_dump writes where such a trigger of a partition is off: its name has an OID in it, and is
another one in a restored database. An adjustment does the same by the constraint's name."""


def _names_a_made_up_trigger(entry: Entry) -> bool:
    return entry.kind == "TRIGGER" and bool(
        STATE_OF_MADE_UP_TRIGGER.fullmatch((entry.definition or "").strip())
    )


def _is(name: tuple[str, str] | None, entry: Entry) -> bool:
    return (entry.kind, entry.tag) == name


def _comes_last(entry: Entry) -> bool:
    # pg_restore treats what is about an event trigger as it does the trigger, by the same signs.
    return entry.kind in _LAST_KINDS or (
        entry.kind in ("COMMENT", "SECURITY LABEL") and entry.tag.startswith("EVENT TRIGGER ")
    )


_OF_SEVERAL_TABLES = ("CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER")


def _locks_several_tables(entries: Sequence[Entry]) -> dict[int, Entry]:
    """Return the entries behind the data that lock a table with its partitions or children.

    pg_restore knows of one table for each entry, so two of them could wait for each other's.
    """
    tables = {entry.dump_id: entry for entry in entries if entry.kind == "TABLE"}
    related = {number for number, table in tables.items() if "\nPARTITION BY " in _text(table)}
    for entry in entries:
        if entry.kind == "TABLE ATTACH" or "\nINHERITS (" in _text(entry):
            # A table depends on its schema too, which every other table in it does.
            related |= tables.keys() & set(map(int, entry.dependencies))
            related.add(entry.dump_id)
    needed = {entry.dump_id: set(map(int, entry.dependencies)) for entry in entries}
    return {
        entry.dump_id: entry
        for entry in entries
        if entry.section == Section.POST_DATA
        and entry.kind in _OF_SEVERAL_TABLES
        # A foreign key depends on the key that it refers to, and that one on its table.
        and any(
            number in related or needed.get(number, set()) & related
            for number in needed[entry.dump_id]
        )
    }


def _text(entry: Entry) -> str:
    return entry.definition or ""


def _dependent(entries: Iterable[Entry], needed: Collection[int]) -> set[int]:
    """Return which entries depend on some, over however many others."""
    found = set(needed)
    for entry in entries:  # what is needed stands before what needs it
        if found.intersection(map(int, entry.dependencies)):
            found.add(entry.dump_id)
    return found


def _chained(entries: Iterable[Entry], first: Sequence[str]) -> list[Entry]:
    """Have each of some entries depend on the one before it, and the first on others."""
    made: list[Entry] = []
    needed = tuple(first)
    for entry in entries:
        wanted = tuple(dict.fromkeys((*entry.dependencies, *needed)))
        made.append(
            entry if wanted == entry.dependencies else replace(entry, dependencies=wanted, raw=None)
        )
        needed = (str(entry.dump_id),)
    return made


_LOGGED = re.compile(
    r"( AS IDENTITY \(\n    SEQUENCE NAME [^\n]*)\n    LOGGED(?=\n    START WITH )"
)


def for_server(text: str, version: int) -> str:
    """Return pg_dump's text without what only servers of later versions understand.

    pg_dump writes for servers of its own version and later. Until 14 the sequence of an identity
    column is permanent also where its table is unlogged, and there is no word for that.

    :param version: the server's: 140023 for 14.23.
    """
    return text if version >= 150000 else _LOGGED.sub(r"\1", text)


@dataclass(frozen=True)
class TableOfContents:
    """What an archive holds.

    :param header: the bytes before the number of entries.
    """

    database: str
    server_version: str
    dump_version: str
    entries: tuple[Entry, ...]
    version: tuple[int, int]
    encoding: str
    int_size: int
    header: bytes = field(repr=False)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of one kind, "TABLE DATA" for example."""
        return [entry for entry in self.entries if entry.kind == kind]

    def with_table_data(self, tables: Mapping[int, tuple[str, str]]) -> TableOfContents:
        """Return it with an entry of data for each of some tables.

        There is one entry a table, whatever the number of objects its rows are in: with several
        pg_restore, run in parallel, truncates the table before the last one that it knows.

        :param tables: a table's OID → its COPY statement and its file's name, without ".gz".
        :raises ArchiveUnreadable: there is no such table in it, or it has data already.
        """
        owners = {entry.oid: entry for entry in self.of_kind("TABLE")}
        have = {entry.oid for entry in self.of_kind("TABLE DATA")}
        next_id = max((entry.dump_id for entry in self.entries), default=0) + 1
        made = []
        for number, (oid, (statement, file_name)) in enumerate(sorted(tables.items())):
            if oid not in owners or oid in have:
                raise ArchiveUnreadable(f"the archive does not have table {oid} without its data")
            table = owners[oid]
            made.append(
                Entry(
                    dump_id=next_id + number,
                    had_dumper=1,
                    table_oid=0,
                    oid=oid,
                    tag=table.tag,
                    kind="TABLE DATA",
                    section=Section.DATA,
                    copy_statement=statement,
                    schema=table.schema,
                    owner=table.owner,
                    dependencies=(str(table.dump_id),),
                    file_name=file_name,
                )
            )
        first = _first(self.entries, lambda entry: entry.section == Section.POST_DATA)
        return replace(self, entries=(*self.entries[:first], *made, *self.entries[first:]))

    def without_data_of(self, files: Collection[str]) -> TableOfContents:
        """Return it without the entries whose rows are in some files (names without ".gz")."""
        return replace(
            self, entries=tuple(entry for entry in self.entries if entry.file_name not in files)
        )

    def with_extension_versions(self, versions: Mapping[str, str]) -> TableOfContents:
        """Return it with some extensions to be created in a version other than the default.

        pg_dump leaves the version to the server that restores.

        :param versions: an extension's name → its version.
        """
        entries = []
        for entry in self.entries:
            version = versions.get(entry.tag) if entry.kind == "EXTENSION" else None
            if version is not None and entry.definition:
                create = entry.definition.rstrip().removesuffix(";")
                quoted = version.replace("'", "''")
                entries.append(
                    replace(entry, definition=f"{create} VERSION '{quoted}';\n\n\n", raw=None)
                )
            else:
                entries.append(entry)
        return replace(self, entries=tuple(entries))

    def for_server(self, version: int) -> TableOfContents:
        """Return it without what only servers of later versions understand.

        :param version: the server's: 140023 for 14.23.
        """
        entries = []
        for entry in self.entries:
            if entry.kind == "SEQUENCE" and entry.definition:
                text = for_server(entry.definition, version)
                if text != entry.definition:
                    entry = replace(entry, definition=text, raw=None)
            entries.append(entry)
        return replace(self, entries=tuple(entries))

    def with_session_settings(self) -> TableOfContents:
        """Return it with settings that the text of values needs, for whoever restores it.

        pg_restore runs the statement that sets the search path, as it is, in every session.
        """
        return replace(
            self,
            entries=tuple(
                replace(entry, definition=_SESSION_SETTINGS, raw=None)
                if entry.kind == "SEARCHPATH"
                else entry
                for entry in self.entries
            ),
        )

    def with_adjustments(self, adjustments: Sequence[Adjustment]) -> TableOfContents:
        """Return it with statements of our own, which every way of restoring it runs.

        Those before the data stand where they are needed first; those after it come when every
        index, constraint and trigger is there.
        """
        next_id = max((entry.dump_id for entry in self.entries), default=0) + 1
        entries = [entry for entry in self.entries if not _names_a_made_up_trigger(entry)]
        rest = tuple(
            str(entry.dump_id)
            for entry in self.entries
            if entry.section == Section.POST_DATA and entry.kind not in _LAST_KINDS
        )
        for number, adjustment in enumerate(adjustments):
            before = _first(entries, partial(_is, adjustment.after))
            late = adjustment.section == Section.POST_DATA
            dependencies = rest if late else ()
            if before < len(entries):
                dependencies = (str(entries[before].dump_id),)
                place = before + 1
            elif adjustment.first:
                # Behind what says how the session is set.
                place = _first(entries, lambda entry: entry.kind not in _SESSION_KINDS)
            elif late:
                place = len(entries)
            else:
                place = _first(entries, lambda entry: entry.section > Section.PRE_DATA)
            entries.insert(
                place,
                Entry(
                    dump_id=next_id + number,
                    had_dumper=0,
                    table_oid=0,
                    oid=0,
                    tag=adjustment.tag,
                    kind=ADJUSTMENT,
                    section=adjustment.section,
                    definition=adjustment.statement.rstrip() + "\n\n\n",
                    owner="",
                    dependencies=dependencies,
                ),
            )
        return replace(self, entries=tuple(entries))

    def in_fixed_order(self, looking: Collection[tuple[str, str]] = ()) -> TableOfContents:
        """Return it so that what looks at other objects always meets them in the same state.

        pg_restore with several jobs takes what comes next by chance, within what depends on what.
        A function may look at anything, without a dependency: one that a check constraint calls
        while rows are loaded, one in a materialized view, one of an event trigger. So tables with
        such constraints are loaded after the others, materialized views are refreshed one after
        another behind everything else, and event triggers come last of all. What locks several
        tables (a foreign key of a partitioned one) comes one after another, when nothing else is
        under way that could hold one of them; so do our own statements.

        :param looking: tables, by schema and name, of which rows are checked by users' functions.
        """
        last = {entry.dump_id: entry for entry in self.entries if _comes_last(entry)}
        looked = [
            entry
            for entry in self.entries
            if entry.kind == "TABLE DATA" and (entry.schema, entry.tag) in looking
        ]
        looking_ids = {entry.dump_id for entry in looked}
        data = [
            entry
            for entry in self.entries
            if entry.section == Section.DATA and entry.dump_id not in looking_ids
        ]
        looked = _chained(looked, [str(entry.dump_id) for entry in data])
        entries = [
            entry
            for entry in self.entries
            if entry.dump_id not in last and entry.dump_id not in looking_ids
        ]
        if looked:
            place = _first(entries, lambda entry: entry.section == Section.POST_DATA)
            entries[place:place] = looked
        wide = _locks_several_tables(entries)
        behind = _dependent(entries, wide)
        late = [e for e in entries if e.section == Section.POST_DATA and e.kind != ADJUSTMENT]
        narrow = [str(e.dump_id) for e in late if e.dump_id not in behind]
        in_turn = {e.dump_id: e for e in _chained(wide.values(), narrow)} | {
            e.dump_id: e
            for e in _chained(
                [e for e in entries if e.kind == ADJUSTMENT and e.section == Section.POST_DATA],
                [str(e.dump_id) for e in late],
            )
        }
        entries = [in_turn.get(e.dump_id, e) for e in entries]
        refreshes = [e for e in last.values() if e.kind == "MATERIALIZED VIEW DATA"]
        triggers = [e for e in last.values() if e.kind == "EVENT TRIGGER"]
        others = [e for e in last.values() if e.kind not in _LAST_KINDS]
        adjusted = [
            str(e.dump_id)
            for e in entries
            if e.kind == ADJUSTMENT and e.section == Section.POST_DATA
        ]
        return replace(
            self,
            entries=(*entries, *_chained([*refreshes, *triggers], adjusted), *others),
        )

    def only_data_of(self, files: Collection[str]) -> TableOfContents:
        """Return it with the data in some files, and no other data.

        :param files: names without ".gz"; an empty one stands for data in no file (sequences).
        """
        return replace(
            self,
            entries=tuple(
                entry
                for entry in self.entries
                if entry.section != Section.DATA or (entry.file_name or "") in files
            ),
        )

    def only_drops(self) -> TableOfContents:
        """Return one that, restored with ``--clean``, drops every object and creates none."""
        return replace(
            self,
            entries=tuple(
                # pg_restore passes over what has no definition at all.
                replace(entry, definition=";\n", copy_statement=None, raw=None)
                for entry in self.entries
                if entry.drop_statement and not entry.had_dumper
            ),
        )

    def to_bytes(self) -> bytes:
        """Return the ``toc.dat``; what was only read comes back byte for byte."""
        writer = _Writer(self.encoding, self.int_size)
        writer.parts.append(self.header)
        writer.integer(len(self.entries))
        for entry in self.entries:
            if entry.raw is not None:
                writer.parts.append(entry.raw)
            else:
                _write_entry(writer, entry, self.version)
        return b"".join(writer.parts)


# PostgreSQL's names of a server's encodings, where Python calls them something else; the others
# (EUC_JP, KOI8R…) Python knows by the same name.
_CODECS = {
    # Any byte may be anywhere; here each is one character.
    "SQL_ASCII": "latin-1",
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


def codec(encoding: str) -> str:
    """Return Python's name of a server's encoding; utf-8 where there is none."""
    if encoding.startswith("WIN125"):
        return "cp" + encoding.removeprefix("WIN")
    name = _CODECS.get(encoding, encoding)
    try:
        codecs.lookup(name)
    except LookupError:
        return "utf-8"
    return name


class Reader:
    """Reads the parts that an archive is made of.

    :param more: returns what follows ``data``, nothing at the end.
    :ivar data: what is known of the archive.
    :ivar at: how much of it was read.
    :raises ArchiveUnreadable: by every method: the archive ends too early, or is none.
    """

    def __init__(
        self, data: bytes, encoding: str, *, more: Callable[[], bytes] = lambda: b""
    ) -> None:
        self.encoding = encoding
        self.codec = codec(encoding)
        self.data = data
        self.at = 0
        self.int_size = 4
        self.offset_size = 8
        self._more = more

    def _read_on(self, end: int) -> None:
        while end > len(self.data):
            piece = self._more()
            if not piece:
                raise ArchiveUnreadable("the archive ends too early")
            self.data += piece

    def forget(self) -> None:
        """Let go of what was read."""
        self.data = self.data[self.at :]
        self.at = 0

    def ends(self) -> bool:
        """Return whether nothing follows."""
        if self.at == len(self.data):
            self.data += self._more()
        return self.at == len(self.data)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        end = self.at + count
        if end > len(self.data):
            self._read_on(end)
        part = self.data[self.at : end]
        self.at = end
        return part

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def integer(self) -> int:
        """Return the next integer."""
        # Not by way of take(): an archive of many tables has a million of these.
        begin = self.at + 1
        end = begin + self.int_size
        if end > len(self.data):
            self._read_on(end)
        self.at = end
        value = int.from_bytes(self.data[begin:end], "little")
        return -value if self.data[begin - 1] else value

    def string(self) -> str | None:
        """Return the next text; None stands for none."""
        length = self.integer()
        if length < 0:
            return None
        try:
            return self.take(length).decode(self.codec, "surrogateescape")
        except UnicodeDecodeError as error:
            raise ArchiveUnreadable(
                f"the archive's toc.dat has text that is none: {error}"
            ) from None

    def oid(self) -> int:
        """Return the next number that is written as text."""
        text = self.string() or "0"
        if not re.fullmatch("[0-9]{1,10}", text):
            raise ArchiveUnreadable(f"the archive's toc.dat has {text[:20]!r} for an OID")
        return int(text)


class _Writer:
    def __init__(self, encoding: str, int_size: int) -> None:
        self.codec = codec(encoding)
        self.int_size = int_size
        self.parts: list[bytes] = []

    def integer(self, value: int) -> None:
        self.parts.append(bytes([value < 0]) + abs(value).to_bytes(self.int_size, "little"))

    def string(self, text: str | None) -> None:
        if text is None:
            self.integer(-1)
            return
        data = text.encode(self.codec, "surrogateescape")
        self.integer(len(data))
        self.parts.append(data)


def read_contents(data: bytes, encoding: str = "UTF8") -> TableOfContents:
    """Read a ``toc.dat``.

    :param encoding: the database's, in PostgreSQL's words; names are written in it.
    :raises ArchiveUnreadable: it can't be read to its last byte.
    """
    reader = Reader(data, encoding)
    header = _read_header(reader, "directory", _DIRECTORY)
    entries = tuple(_read_entry(reader, header.version) for _ in range(reader.integer()))
    if reader.at != len(data):
        raise ArchiveUnreadable("the archive's toc.dat has bytes after its end")
    return replace(header, entries=entries)


def read_custom_contents(reader: Reader) -> TableOfContents:
    """Read what an archive of the custom format begins with, as a directory archive's.

    Each entry's data gets the file's name that pg_dump would have given it.

    :raises ArchiveUnreadable: it can't be read.
    """
    contents = _read_header(reader, "custom", _CUSTOM)
    header = bytearray(contents.header)
    header[_FORMAT_AT] = _DIRECTORY[0]
    entries = tuple(_read_custom_entry(reader, contents.version) for _ in range(reader.integer()))
    return replace(contents, header=bytes(header), entries=entries)


def _read_header(reader: Reader, name: str, numbers: Collection[int]) -> TableOfContents:
    """Read all that comes before the entries.

    :param name: the format that it has to be of, and ``numbers`` those that stand for it.
    """
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
    reader.offset_size = reader.byte()
    if not 1 <= reader.int_size <= 32:  # as pg_restore has it
        raise ArchiveUnreadable(f"the archive's integers can't have {reader.int_size} bytes")
    if reader.byte() not in numbers:
        raise ArchiveUnreadable(f"the archive is not in the {name} format")
    if version >= (1, 15):
        reader.byte()  # the compression's name, one byte
    else:
        reader.integer()  # its level
    for _ in range(7):
        reader.integer()  # the date
    return TableOfContents(
        database=reader.string() or "",
        server_version=reader.string() or "",
        dump_version=reader.string() or "",
        entries=(),
        version=version,
        encoding=reader.encoding,
        int_size=reader.int_size,
        header=reader.data[: reader.at],
    )


def _read_entry(reader: Reader, version: tuple[int, int]) -> Entry:
    began = reader.at
    entry = _read_definition(reader, version)
    file_name = reader.string()
    return replace(entry, file_name=file_name or None, raw=reader.data[began : reader.at])


def _read_custom_entry(reader: Reader, version: tuple[int, int]) -> Entry:
    began = reader.at
    entry = _read_definition(reader, version)
    definition = reader.data[began : reader.at]
    reader.take(1 + reader.offset_size)
    file_name = data_file(entry, version) if entry.had_dumper else None
    writer = _Writer(reader.encoding, reader.int_size)
    writer.parts.append(definition)
    writer.string(file_name or "")
    return replace(entry, file_name=file_name, raw=b"".join(writer.parts))


def data_file(entry: Entry, version: tuple[int, int]) -> str:
    """Return the name that pg_dump gives a file of data, without ".gz"."""
    if entry.kind != "BLOBS":
        return f"{entry.dump_id}.dat"
    return f"blobs_{entry.dump_id}.toc" if version >= (1, 16) else "blobs.toc"


def _read_definition(reader: Reader, version: tuple[int, int]) -> Entry:
    """Read what an entry has in every format."""
    dump_id = reader.integer()
    had_dumper = reader.integer()
    table_oid = reader.oid()
    oid = reader.oid()
    tag = reader.string() or ""
    kind = reader.string() or ""
    section = reader.integer()
    definition = reader.string()
    drop_statement = reader.string()
    copy_statement = reader.string()
    schema = reader.string()
    tablespace = reader.string()
    access_method = reader.string()
    relkind = reader.integer() if version >= (1, 16) else 0
    owner = reader.string()
    with_oids = reader.string()
    dependencies = []
    while (dependency := reader.string()) is not None:
        dependencies.append(dependency)
    return Entry(
        dump_id,
        had_dumper,
        table_oid,
        oid,
        tag,
        kind,
        section,
        definition,
        drop_statement,
        copy_statement,
        schema,
        tablespace,
        access_method,
        relkind,
        owner,
        with_oids,
        tuple(dependencies),
    )


def _write_entry(writer: _Writer, entry: Entry, version: tuple[int, int]) -> None:
    writer.integer(entry.dump_id)
    writer.integer(entry.had_dumper)
    writer.string(str(entry.table_oid))
    writer.string(str(entry.oid))
    writer.string(entry.tag)
    writer.string(entry.kind)
    writer.integer(entry.section)
    writer.string(entry.definition)
    writer.string(entry.drop_statement)
    writer.string(entry.copy_statement)
    writer.string(entry.schema)
    writer.string(entry.tablespace)
    writer.string(entry.access_method)
    if version >= (1, 16):
        writer.integer(entry.relkind)
    writer.string(entry.owner)
    writer.string(entry.with_oids)
    for dependency in entry.dependencies:
        writer.string(dependency)
    writer.string(None)
    # An empty string where there is no file: the directory format's own WriteExtraToc.
    writer.string(entry.file_name or "")


_SETVAL = re.compile(r"setval\('.*', (-?\d+), (true|false)\);\s*$", re.DOTALL)


def sequence_value(entry: Entry) -> tuple[int, bool]:
    """Return what a SEQUENCE SET entry sets: the last value and whether it was used.

    :raises ArchiveUnreadable: the entry does not say.
    """
    found = _SETVAL.search(entry.definition or "")
    if not found:
        raise ArchiveUnreadable(f"the archive sets sequence {entry.tag} in an unknown way")
    return int(found.group(1)), found.group(2) == "true"
