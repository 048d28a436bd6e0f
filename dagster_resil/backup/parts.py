"""Which tables are read in parts, and which rows each part has.

A part is a range of pages, so several connections read one table at a time, each with
``WHERE ctid >= '(a,0)' AND ctid < '(b,0)'``: a TID range scan, from PostgreSQL 14 on. The ranges
follow on one another without a gap; the first is open below and the last above, so that together
they are every row that the snapshot shows, whatever the table's size was thought to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.tables import Relation

"""Up to this size a table is left to pg_dump, which does many small ones at little cost."""
LEFT_BYTES = 256 << 20
"""The most, in bytes of tables, that is left to pg_dump: it has one connection."""
_MOST_PARTS = 9_999
"""Parts have four digits, so that their names sort as they follow."""


@dataclass(frozen=True)
class Part:
    """Some of a table's rows, and the object that keeps them.

    :param number: from 0, of ``count``.
    :param pages: the pages from the first to before the last; None stands for no bound.
    :param bytes: about how much of the table's size on disk it is.
    """

    table: Relation
    number: int
    count: int
    pages: tuple[int | None, int | None]
    bytes: int

    @property
    def is_last(self) -> bool:
        """Return whether it ends the table's data."""
        return self.number == self.count - 1

    @property
    def object_name(self) -> str:
        """Return the object's name in the backup; parts joined by name are one gzip file."""
        name = f"archive/{data_file(self.table)}.gz"
        return name if self.count == 1 else f"{name}.{self.number:04d}"

    def copy_statement(self, connection: Connection) -> str:
        """Return the statement that reads its rows."""
        low, high = self.pages
        bounds = []
        if low is not None:
            bounds.append(sql.SQL(f"ctid OPERATOR(pg_catalog.>=) '({low},0)'"))
        if high is not None:
            bounds.append(sql.SQL(f"ctid OPERATOR(pg_catalog.<) '({high},0)'"))
        query = sql.SQL("SELECT {} FROM ONLY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, self.table.stored)), self.table.identifier
        )
        if bounds:
            query += sql.SQL(" WHERE ") + sql.SQL(" AND ").join(bounds)
        return sql.SQL("COPY ({}) TO STDOUT").format(query).as_string(connection)


def data_file(table: Relation) -> str:
    """Return the name of a table's file in the archive, without ".gz"."""
    return f"table_{table.oid}.dat"


def restore_statement(table: Relation, connection: Connection) -> str:
    """Return the statement that loads a table's rows, as pg_dump writes it."""
    return (
        sql.SQL("COPY {} ({}) FROM stdin;\n")
        .format(table.identifier, sql.SQL(", ").join(map(sql.Identifier, table.stored)))
        .as_string(connection)
    )


def to_read_in_parts(tables: Sequence[Relation], *, small_bytes: int) -> list[Relation]:
    """Return the tables that are not left to pg_dump, the largest first.

    Left to it are small tables, as long as they are not too much together; and those that only it
    can do: of extensions, without columns, and leaves whose rows are restored by way of their
    partitioned table.

    :param small_bytes: how large on disk a small table is at most.
    """
    able = [
        table
        for table in tables
        if table.readable and table.extension is None and table.stored and not table.moves_within
    ]
    left = 0
    chosen = []
    for table in sorted(able, key=lambda table: table.bytes):
        left += table.bytes
        if table.bytes > small_bytes or left > LEFT_BYTES:
            chosen.append(table)
    return chosen[::-1]


def cut(table: Relation, *, part_bytes: int, server_version: int) -> list[Part]:
    """Cut a table into parts of about the same size.

    :param part_bytes: of the table's size on disk, TOAST included.
    :param server_version: 150018 for 15.18. Before 14 a range of ctids costs a scan of the whole
        table, so it is not cut.
    """
    count = 1
    if server_version >= 140000 and table.pages:
        # Rounded: a last part of a few pages would cost a session's time for nothing.
        wanted = max(1, round(table.bytes / part_bytes))
        count = min(wanted, table.pages, _MOST_PARTS)
    edges: list[int | None] = [None, *(table.pages * n // count for n in range(1, count)), None]
    return [
        Part(table, number, count, (edges[number], edges[number + 1]), table.bytes // count)
        for number in range(count)
    ]
