"""The table of contents of an archive: read and written byte for byte, whatever is in it."""

from __future__ import annotations

import itertools
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from dagster_resil.demo.databases import load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.table_of_contents import (
    ArchiveUnreadable,
    Entry,
    Section,
    TableOfContents,
    for_server,
    read_contents,
    sequence_value,
)
from dagster_resil.process import Completed, run
from tests.conftest import Source, stock

FORMATS = {15: (1, 14), 16: (1, 15), 17: (1, 16), 18: (1, 16)}
SEED = 3


def dumped(programs: Programs, endpoint: Endpoint, folder: Path, *options: str) -> bytes:
    done = run(
        [
            programs.path("pg_dump"),
            "--format=directory",
            f"--file={folder}",
            *options,
            *endpoint.child_arguments(),
        ],
        env=endpoint.child_environment(),
    )
    assert done.ok, done.complaint
    return (folder / "toc.dat").read_bytes()


def listed(programs: Programs, folder: Path) -> Completed:
    return run([programs.path("pg_restore"), "--list", folder])


@pytest.mark.parametrize("which", ["shop", "hostile"])
@pytest.mark.parametrize("major", FORMATS)
def test_it_round_trips_byte_for_byte(
    servers: Callable[[int], Source],
    major: int,
    which: Literal["shop", "hostile"],
    tmp_path: Path,
) -> None:
    programs = stock(major)
    source = servers(major)
    endpoint = source.create()
    load(endpoint, programs, which, scale=0.01)
    data = dumped(programs, endpoint, tmp_path / "archive", "--exclude-table-data=*.*")
    source.drop_all()

    toc = read_contents(data)

    assert toc.version == FORMATS[major]
    assert toc.database == endpoint.parameters["dbname"]
    assert toc.dump_version.startswith(programs.version)
    assert toc.to_bytes() == data
    written_anew = TableOfContents(
        **{**toc.__dict__, "entries": tuple(_without_raw(entry) for entry in toc.entries)}
    )
    assert written_anew.to_bytes() == data

    tables = toc.of_kind("TABLE")
    assert tables
    assert not toc.of_kind("TABLE DATA")
    ours = toc.with_table_data(
        {table.oid: ("COPY t (a) FROM stdin;\n", f"table_{table.oid}.dat") for table in tables}
    )
    assert read_contents(ours.to_bytes()) == ours
    (tmp_path / "archive" / "toc.dat").write_bytes(ours.to_bytes())
    there = listed(programs, tmp_path / "archive")
    assert (there.returncode, there.stderr) == (0, "")
    assert there.stdout.count(" TABLE DATA ") == len(tables)
    assert there.stdout.count("\n") > len(toc.entries)


def _without_raw(entry: Entry) -> Entry:
    return Entry(**{**entry.__dict__, "raw": None})


@pytest.fixture(scope="module")
def small(
    servers: Callable[[int], Source], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], bytes]:
    def make(major: int) -> bytes:
        programs = stock(major)
        source = servers(major)
        endpoint = source.create()
        source.execute(
            endpoint,
            'CREATE TABLE "naïve\n" (id serial PRIMARY KEY, b text)',
            "SELECT lo_create(7)",
        )
        data = dumped(programs, endpoint, tmp_path_factory.mktemp("small") / "archive")
        source.drop_all()
        return data

    return make


@pytest.mark.parametrize(
    ("major", "encoding"), [*((major, "UTF8") for major in FORMATS), (17, "LATIN1"), (17, "EUC_JP")]
)
def test_damage_is_never_another_error(
    small: Callable[[int], bytes], major: int, encoding: str
) -> None:
    """Whoever verifies a damaged archive is to hear FAIL, not a traceback."""
    data = small(major)

    def read(damaged: bytes) -> bool:
        try:
            toc = read_contents(damaged, encoding)
            for entry in toc.of_kind("SEQUENCE SET"):
                sequence_value(entry)
            toc.to_bytes()
            toc.only_drops().to_bytes()
        except ArchiveUnreadable:
            return False
        return True

    assert read(data)
    assert not any(read(data[:length]) for length in range(len(data)))
    assert not read(data + b"\0")
    chance = random.Random(SEED)
    survived = 0
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5))):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        survived += read(bytes(damaged))
    # Most of the bytes are text, where one letter is as good as another.
    assert 0 < survived < 2000


def test_a_length_that_lies_takes_no_memory(small: Callable[[int], bytes]) -> None:
    data = small(17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for position in range(len(data) - 5):
        # A sign byte and the largest integer there is, at every place where one could be.
        lying = data[:position] + b"\0\xff\xff\xff\xff" + data[position + 5 :]
        try:
            read_contents(lying)
        except ArchiveUnreadable:
            continue
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 50_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (b"PK\3\4\0\0", "does not begin as one"),
        (b"PGDMP\1\x0d\0\4\x08\3", "format 1.13, unknown"),
        (b"PGDMP\1\x11\0\4\x08\3", "format 1.17, unknown"),
        (b"PGDMP\1\x0e\0\4\x08\1", "not in the directory format"),
    ],
)
def test_what_is_no_table_of_contents_is_called_so(data: bytes, words: str) -> None:
    with pytest.raises(ArchiveUnreadable, match=words):
        read_contents(data)


def test_data_goes_before_what_comes_after_data(small: Callable[[int], bytes]) -> None:
    toc = read_contents(small(17))
    bare = toc.without_data_of({entry.file_name or "" for entry in toc.of_kind("TABLE DATA")})
    (table,) = toc.of_kind("TABLE")

    made = bare.with_table_data({table.oid: ("COPY …;\n", "table_1.dat")})

    sections = [entry.section for entry in made.entries]
    (data,) = made.of_kind("TABLE DATA")
    first_post = sections.index(Section.POST_DATA)
    assert made.entries[first_post - 1] == data
    assert (data.tag, data.schema, data.owner) == (table.tag, table.schema, table.owner)
    assert data.dependencies == (str(table.dump_id),)
    assert len({entry.dump_id for entry in made.entries}) == len(made.entries)
    # Two entries for one table are what pg_restore loses rows over.
    with pytest.raises(ArchiveUnreadable, match="without its data"):
        made.with_table_data({table.oid: ("COPY …;\n", "table_2.dat")})
    with pytest.raises(ArchiveUnreadable, match="without its data"):
        bare.with_table_data({1: ("COPY …;\n", "table_1.dat")})


def test_what_locks_several_tables_is_restored_when_nothing_else_is(
    source: Source, tmp_path: Path
) -> None:
    """Two that wait for each other's table are a deadlock, which pg_restore knows nothing of."""
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE a (id int PRIMARY KEY, b_id int) PARTITION BY RANGE (id)",
        "CREATE TABLE a1 PARTITION OF a FOR VALUES FROM (0) TO (10) PARTITION BY HASH (id)",
        "CREATE TABLE a11 PARTITION OF a1 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (b_id) REFERENCES b",
        "CREATE INDEX ON a (b_id)",
        "CREATE TABLE parent (id int)",
        "CREATE TABLE child () INHERITS (parent)",
        "ALTER TABLE parent ADD CHECK (id > 0) NOT VALID",
        "CREATE TABLE apart (id int PRIMARY KEY)",
        "CREATE TABLE apart_too (id int REFERENCES apart)",
    )
    toc = read_contents(dumped(source.programs, endpoint, tmp_path / "archive", "--schema-only"))

    ordered = toc.in_fixed_order()

    late = [entry for entry in ordered.entries if entry.section == Section.POST_DATA]
    wide = [entry for entry in late if entry.kind in ("FK CONSTRAINT", "CHECK CONSTRAINT")]
    apart = [entry for entry in wide if entry.tag.startswith("apart_too ")]
    wide = [entry for entry in wide if entry not in apart]
    assert sorted(entry.tag for entry in wide) == [
        "a a_b_id_fkey",
        "b b_a_id_fkey",
        "parent parent_id_check",
    ]
    others = {str(entry.dump_id) for entry in late} - {str(entry.dump_id) for entry in wide}
    assert others <= set(wide[0].dependencies)
    for before, entry in itertools.pairwise(wide):
        assert str(before.dump_id) in entry.dependencies
    # Those of tables that have nothing to do with others are restored side by side.
    plain = {entry.dump_id: entry for entry in toc.entries}
    assert all(plain[entry.dump_id] == entry for entry in apart)
    assert ordered.in_fixed_order() == ordered


def test_a_word_that_an_old_server_does_not_know_is_left_out() -> None:
    """pg_dump 15 and later writes it for an unlogged table's identity column."""
    text = (
        "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (\n"
        "    SEQUENCE NAME public.t_id_seq\n    LOGGED\n    START WITH 1\n);\n"
    )
    assert for_server(text, 150000) == text
    assert for_server(text, 140023) == text.replace("    LOGGED\n", "")
    quoted = "COMMENT ON TABLE t IS '\n    LOGGED\n    START WITH 1';\n"
    assert for_server(quoted, 130023) == quoted
