"""pg_dump's custom format, as it is written: the same archive as its directory format."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_resil.demo.databases import load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.custom import CustomArchive
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.table_of_contents import ArchiveUnreadable, read_contents
from dagster_resil.process import run
from tests.conftest import Source, stock
from tests.postgres.test_table_of_contents import FORMATS, dumped

LARGE_OBJECTS = (
    "SELECT lo_from_bytea(4711, ''), lo_from_bytea(4712, 'hello'), "
    "lo_from_bytea(4713, (SELECT string_agg(sha512(n::text::bytea), '') "
    "FROM generate_series(1, 50000) n)), lo_from_bytea(4714, repeat('x', 5000000)::bytea)"
)


def custom(programs: Programs, endpoint: Endpoint, file: Path, *options: str) -> bytes:
    done = run(
        [
            programs.path("pg_dump"),
            "--format=custom",
            f"--file={file}",
            *options,
            *endpoint.child_arguments(),
        ],
        env=endpoint.child_environment(),
    )
    assert done.ok, done.complaint
    return file.read_bytes()


def opened(data: bytes, piece_bytes: int = 1000) -> CustomArchive:
    stream = io.BytesIO(data)
    return CustomArchive(lambda: stream.read(piece_bytes), "UTF8")


def read(data: bytes, piece_bytes: int = 1000) -> dict[str, bytes]:
    return {file.name: b"".join(file.pieces) for file in opened(data, piece_bytes).files()}


def inflated(data: bytes) -> bytes:
    text = b""
    while data:
        inflate = zlib.decompressobj(31)
        text += inflate.decompress(data)
        assert inflate.eof
        data = inflate.unused_data
    return text


@pytest.mark.parametrize("major", FORMATS)
def test_it_is_the_directory_archive(
    servers: Callable[[int], Source], major: int, tmp_path: Path
) -> None:
    programs = stock(major)
    source = servers(major)
    endpoint = source.create()
    load(endpoint, programs, "hostile", scale=0.01)
    source.execute(endpoint, LARGE_OBJECTS)
    # pg_dump numbers what it reads as the server finds it, which new statistics may change.
    source.execute(endpoint, "ANALYZE pg_class, pg_proc, pg_type, pg_depend, pg_namespace")
    toc = dumped(programs, endpoint, tmp_path / "archive", "--compress=1")
    data = custom(programs, endpoint, tmp_path / "custom", "--compress=1")
    source.drop_all()

    archive = opened(data)
    # The date of the dump is in the header.
    assert archive.contents.entries == read_contents(toc).entries
    ours, theirs = archive.contents.to_bytes(), toc
    assert len(ours) == len(theirs)
    assert ours[:13] == theirs[:13]
    assert ours[60:] == theirs[60:]
    lines = {}
    files = {}
    for file in archive.files():
        files[file.name] = b"".join(file.pieces)
        lines[file.name] = file.lines
    there = {file.name: file.read_bytes() for file in (tmp_path / "archive").iterdir()}
    del there["toc.dat"]
    assert files.keys() == there.keys()
    for name, content in there.items():
        if name.endswith(".gz"):
            assert inflated(files[name]) == inflated(content), name
            assert lines[name] == inflated(content).count(b"\n")
        else:
            assert files[name] == content


@pytest.fixture(scope="module")
def small(servers: Callable[[int], Source], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = servers(15)
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 300) n",
        "CREATE TABLE u (a int)",
        "SELECT lo_from_bytea(4712, 'hello')",
    )
    return custom(stock(15), endpoint, tmp_path_factory.mktemp("custom") / "file")


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
def test_pieces_may_have_any_length(small: bytes, piece_bytes: int) -> None:
    assert read(small, piece_bytes) == read(small)
    assert sorted(len(inflated(data)) for data in read(small).values() if data[:1] == b"\x1f") == [
        5,
        5,
        10_997,
    ]


def test_what_ends_early_is_no_archive(small: bytes) -> None:
    for length in (0, 3, 20, *range(100, len(small), 97), len(small) - 1):
        with pytest.raises(ArchiveUnreadable):
            read(small[:length])


def test_what_is_damaged_is_no_archive(small: bytes) -> None:
    """zlib's own sum, or where things end, tells it."""
    whole = read(small)
    where = small.index(b"\x78\x9c")
    # But for the OID that a large object has.
    until = small.index((4712).to_bytes(4, "little"), where)
    refused = 0
    for at in range(where + 2, until, 13):
        damaged = bytearray(small)
        damaged[at] ^= 0x10
        try:
            # A bit may mean nothing: the sign of a 0.
            assert read(bytes(damaged)) == whole
        except ArchiveUnreadable:
            refused += 1
    assert refused > 400


def test_bytes_behind_the_end_are_not_passed_over(small: bytes) -> None:
    with pytest.raises(ArchiveUnreadable, match="after its end"):
        read(small + b"\1")


def test_what_is_not_compressed_is_refused(
    servers: Callable[[int], Source], tmp_path: Path
) -> None:
    source = servers(15)
    endpoint = source.create()
    source.execute(endpoint, "CREATE TABLE t AS SELECT 1 AS n")
    data = custom(stock(15), endpoint, tmp_path / "file", "--compress=0")
    with pytest.raises(ArchiveUnreadable):
        read(data)


def test_a_bomb_takes_no_memory(small: bytes) -> None:
    """A megabyte may hold a gigabyte, and what it holds is counted."""
    where = small.index(b"\x78\x9c")
    head, dump_id = small[: where - 11], small[where - 10 : where - 5]
    deflate = zlib.compressobj(1)
    bomb = b"".join(deflate.compress(b"\n" * (1 << 20)) for _ in range(256)) + deflate.flush()
    piece = b"\0" + len(bomb).to_bytes(4, "little") + bomb
    archive = opened(head + b"\1" + dump_id + piece + bytes(5), 1 << 20)
    tracemalloc.start()
    file = next(archive.files())
    size = sum(map(len, file.pieces))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.lines == 256 << 20
    assert size < 2 << 20
    assert peak < 16 << 20
