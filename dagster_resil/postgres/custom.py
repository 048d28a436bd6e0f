"""Reading an archive of pg_dump's custom format while it is written.

The format is that of PostgreSQL's pg_backup_custom.c. Behind the table of contents comes a block
for each entry that has data: a byte (1: a table's rows, 3: large objects) and the entry's number.
Rows are pieces, each its length as an integer and its bytes, up to one of length 0; large objects
are an OID each and then its pieces, up to an OID of 0. The pieces of a table, or of one large
object, make one zlib stream (RFC 1950).

So all that pg_dump reads comes through one pipe, where its directory format makes a file for every
table and large object first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from isal import igzip_lib, isal_zlib

from dagster_resil.postgres.table_of_contents import (
    ArchiveUnreadable,
    Entry,
    Reader,
    TableOfContents,
    read_custom_contents,
)

_ROWS = 1
_LARGE_OBJECTS = 3
_ZLIB = 15
"""zlib's window bits for a zlib stream."""
_ZLIB_HEADER_BYTES = 2
_ZLIB_TRAILER_BYTES = 4
_DICTIONARY_FLAG = 0x20
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Deflate, no name, no time, an unknown system (RFC 1952, section 2.3)."""
_PIECE_BYTES = 1 << 17
"""How much is inflated at a time; of compressed zeros a megabyte holds a gigabyte."""
_FORGOTTEN_BYTES = 1 << 20


@dataclass
class DataFile:
    """A file of a directory archive, as it comes.

    :param name: with ".gz" where it is compressed.
    :param entry: whose data it is.
    :param pieces: its bytes; to be read before the next file.
    :ivar lines: the newlines in its text, once it is read.
    """

    name: str
    entry: Entry
    pieces: Iterator[bytes]
    lines: int = 0


class CustomArchive:
    """An archive that arrives.

    :param read: returns the next bytes, none at the end.
    :param encoding: the database's, in PostgreSQL's words.
    :ivar contents: its table of contents, as that of a directory archive.
    :raises ArchiveUnreadable: it is none.
    """

    def __init__(self, read: Callable[[], bytes], encoding: str) -> None:
        self._reader = Reader(b"", encoding, more=read)
        self.contents: TableOfContents = read_custom_contents(self._reader)
        self._reader.forget()

    def files(self) -> Iterator[DataFile]:
        """Yield the files of data that a directory archive has.

        :raises ArchiveUnreadable: the archive ends early, has bytes after its end, or is damaged.
        """
        reader = self._reader
        left = {entry.dump_id: entry for entry in self.contents.entries if entry.had_dumper}
        while left:
            kind = reader.byte()
            dump_id = reader.integer()
            entry = left.pop(dump_id, None)
            if entry is None:
                raise ArchiveUnreadable(f"the archive has data for {dump_id}, which wants none")
            if kind == _ROWS:
                yield self._file(f"{entry.file_name}.gz", entry)
            elif kind == _LARGE_OBJECTS:
                yield from self._large_objects(entry)
            else:
                raise ArchiveUnreadable(f"the archive has a block of unknown kind {kind}")
        if not reader.ends():
            raise ArchiveUnreadable("the archive has bytes after its end")

    def _large_objects(self, entry: Entry) -> Iterator[DataFile]:
        names = []
        while number := self._reader.integer():
            oid = number & 0xFFFFFFFF  # it is written as a signed number
            name = f"blob_{oid}.dat"
            names.append(f"{oid} {name}\n")
            yield self._file(f"{name}.gz", entry)
        yield DataFile(entry.file_name or "", entry, iter(["".join(names).encode()]))

    def _file(self, name: str, entry: Entry) -> DataFile:
        file = DataFile(name, entry, iter(()))

        def pieces() -> Iterator[bytes]:
            gzip = _Gzip()
            yield _GZIP_HEADER
            while length := self._reader.integer():
                if length < 0:
                    raise ArchiveUnreadable("the archive has a piece of negative length")
                yield gzip.convert(self._reader.take(length))
                if self._reader.at > _FORGOTTEN_BYTES:
                    self._reader.forget()
            yield gzip.trailer()
            file.lines = gzip.lines

        file.pieces = pieces()
        return file


class _Gzip:
    """Makes a gzip member (RFC 1952) of a zlib stream: the same deflated bytes, framed otherwise.

    They are inflated on the way, for the sums and for the lines.
    """

    def __init__(self) -> None:
        self._inflate = isal_zlib.decompressobj(_ZLIB)
        self._head = b""
        self._held = b""
        self._crc = 0
        self._size = 0
        self.lines = 0

    def convert(self, data: bytes) -> bytes:
        """Return what can be passed on of the stream's deflated bytes."""
        self._sum(data)
        missing = _ZLIB_HEADER_BYTES - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            data = data[missing:]
        held = self._held + data
        self._held = held[-_ZLIB_TRAILER_BYTES:]
        return held[:-_ZLIB_TRAILER_BYTES]

    def _sum(self, data: bytes) -> None:
        try:
            text = self._inflate.decompress(data, _PIECE_BYTES)
            while text:
                self._crc = isal_zlib.crc32(text, self._crc)
                self._size += len(text)
                self.lines += text.count(b"\n")
                text = b""
                if not self._inflate.eof:
                    text = self._inflate.decompress(self._inflate.unconsumed_tail, _PIECE_BYTES)
        except igzip_lib.IsalError as error:  # type: ignore[misc]
            raise ArchiveUnreadable(f"the archive's data is damaged: {error}") from None

    def trailer(self) -> bytes:
        """Return what ends the member.

        :raises ArchiveUnreadable: the stream is not at its end.
        """
        if not self._inflate.eof or self._inflate.unused_data:
            raise ArchiveUnreadable("the archive's data does not end where it should")
        if self._head[1] & _DICTIONARY_FLAG:
            raise ArchiveUnreadable("the archive's data was compressed with a dictionary")
        return self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
