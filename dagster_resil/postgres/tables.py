"""A database's tables: those that hold rows of their own, their columns, their batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql

from dagster_resil.postgres.connection import Connection

_SMALL_BYTES = 1 << 20
_AT_ONCE = 50
"""How many small tables one query reads."""


@dataclass(frozen=True)
class Column:
    """A column that a row's fingerprint covers.

    :param base_type: the name of its type in pg_catalog, of a domain the name of the type below
        it; empty for a type of any other schema, and for arrays, composites and ranges.
    :param by_text: for the "hash" form: its type has no hash that means the same after a restore.
    """

    name: str
    base_type: str
    by_text: bool


@dataclass(frozen=True)
class Relation:
    """A table that holds rows of its own: plain, leaf partition, inheritance parent or child.

    :param moves_within: the partitioned table among whose leaves a restore may spread the rows
        anew, as "schema" and "name": a hash of an enum is a hash of OIDs.
    :param file_node: the number of its file as the snapshot's catalogue shows it.
    :param bytes: its size on disk, with TOAST, without indexes.
    :param pages: the pages of its main file when it was looked at; 0 where rows have no ctid that
        ranges can be made of (an access method other than heap).
    :param stored: the columns that COPY writes, in their order: not the generated ones.
    :param is_unlogged: its rows are lost in a crash, and no replica or clone has them.
    :param extension: the extension that it belongs to, whose rows a dump leaves out unless the
        extension asks for them.
    """

    oid: int
    schema: str
    name: str
    file_node: int
    bytes: int
    extension: str | None
    readable: bool
    row_security: bool
    columns: tuple[Column, ...]
    pages: int = 0
    stored: tuple[str, ...] = ()
    moves_within: tuple[str, str] | None = None
    is_unlogged: bool = False

    @property
    def identifier(self) -> sql.Identifier:
        """Return its quoted, qualified name."""
        return sql.Identifier(self.schema, self.name)


# Tables whose rows are theirs: not views, foreign tables or materialized views; nor a partitioned
# table, whose rows are in its leaves. Temporary tables belong to their sessions.
_RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relfilenode, pg_catalog.pg_table_size(c.oid),
       (SELECT e.extname FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           AND d.objsubid = 0 AND d.deptype = 'e'
           AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass),
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       pg_catalog.row_security_active(c.oid),
       CASE WHEN a.amname = 'heap' THEN pg_catalog.pg_relation_size(c.oid)
         / pg_catalog.current_setting('block_size')::pg_catalog.int8 ELSE 0 END,
       c.relpersistence = 'u'
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
 WHERE c.relkind = 'r' AND c.relpersistence <> 't'
   AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
 ORDER BY n.nspname COLLATE pg_catalog."C", c.relname COLLATE pg_catalog."C"
"""

_MOVING = """
SELECT DISTINCT ON (c.oid) c.oid, n.nspname, p.relname
  FROM pg_catalog.pg_class c,
       pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (relid, level)
  JOIN pg_catalog.pg_partitioned_table pt ON pt.partrelid = a.relid AND pt.partstrat = 'h'
  JOIN pg_catalog.pg_class p ON p.oid = pt.partrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
 WHERE c.relispartition AND c.relkind = 'r'
   AND EXISTS (SELECT FROM pg_catalog.pg_attribute k
                 JOIN pg_catalog.pg_type t ON t.oid = k.atttypid AND t.typtype IN ('e', 'c', 'd')
                WHERE k.attrelid = pt.partrelid
                  AND k.attnum = ANY (pt.partattrs::pg_catalog.int2[]))
 ORDER BY c.oid, a.level DESC
"""

# A virtual generated column (18) is not stored: there is nothing of it to compare.
_COLUMNS = """
SELECT a.attrelid, a.attname, a.atttypid, a.attcollation, a.attgenerated = ''
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
 WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
   AND a.attrelid >= 16384
 ORDER BY a.attrelid, a.attnum
"""

_TYPES = """
SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory, t.typrelid,
       CASE WHEN t.typtype = 'b' AND t.typcategory <> 'A' AND t.oid < 16384
             AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
            THEN t.typname ELSE '' END,
       (t.typname LIKE 'reg%' OR t.typname = 'aclitem')
         AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace,
       EXISTS (SELECT FROM pg_catalog.pg_opclass o
                 JOIN pg_catalog.pg_am am ON am.oid = o.opcmethod AND am.amname = 'hash'
                 JOIN pg_catalog.pg_amproc p ON p.amprocfamily = o.opcfamily
                  AND p.amproclefttype = o.opcintype AND p.amprocrighttype = o.opcintype
                  AND p.amprocnum = 2
                WHERE o.opcdefault AND (o.opcintype = t.oid
                  -- varchar has no class of its own and uses text's
                  OR (t.oid = 1043 AND o.opcintype = 25)))
  FROM pg_catalog.pg_type t
"""


class _Types:
    """What the fingerprints need to know of types."""

    def __init__(self, connection: Connection) -> None:
        self._rows = {row[0]: row[1:] for row in connection.execute(_TYPES)}
        version = connection.info.server_version
        ranges = "SELECT rngtypid, rngsubtype FROM pg_catalog.pg_range"
        if version >= 140000:
            ranges += " UNION ALL SELECT rngmultitypid, rngsubtype FROM pg_catalog.pg_range"
        self._ranges: dict[int, int] = dict(connection.execute(ranges).fetchall())
        self._attributes: dict[int, list[int]] = {}
        for relation, type_oid in connection.execute(
            "SELECT a.attrelid, a.atttypid FROM pg_catalog.pg_attribute a "
            "JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
            "WHERE a.attnum > 0 AND NOT a.attisdropped AND (c.relkind = 'c' OR a.attrelid IN "
            "(SELECT typrelid FROM pg_catalog.pg_type WHERE typtype = 'c'))"
        ):
            self._attributes.setdefault(relation, []).append(type_oid)
        self._known: dict[int, bool] = {}

    def base_type(self, oid: int) -> str:
        """Return the name of a built-in base type, or of that below a domain; else nothing."""
        while oid in self._rows:
            kind, base, *_ = self._rows[oid]
            if kind != "d":
                return str(self._rows[oid][5])
            oid = base
        return ""

    def hashable(self, oid: int) -> bool:
        """Return whether a type hashes by its value, so that a faithful copy hashes the same."""
        if oid not in self._known:
            self._known[oid] = False  # a type that holds itself goes by its text
            self._known[oid] = self._look(oid)
        return self._known[oid]

    def _look(self, oid: int) -> bool:
        if oid not in self._rows:
            return False
        kind, base, element, category, relation, _, by_oid, has_hash = self._rows[oid]
        if by_oid or kind in ("e", "p"):
            return False
        if kind == "d":
            return self.hashable(base)
        if kind in ("r", "m"):
            return self.hashable(self._ranges.get(oid, 0))
        if kind == "c":
            return all(self.hashable(part) for part in self._attributes.get(relation, []))
        if category == "A" and element:
            return self.hashable(element)
        return bool(has_hash)


def list_tables(connection: Connection) -> list[Relation]:
    """Return every table with rows of its own, sorted by schema and name.

    They are those that the transaction's snapshot shows.
    """
    types = _Types(connection)
    fickle = {
        row[0]
        for row in connection.execute(
            # A nondeterministic collation hashes by ICU's sort keys, which change with ICU.
            "SELECT oid FROM pg_catalog.pg_collation WHERE NOT collisdeterministic"
        )
    }
    columns: dict[int, list[Column]] = {}
    stored: dict[int, list[str]] = {}
    for relation, name, type_oid, collation, is_stored in connection.execute(_COLUMNS):
        if is_stored:
            stored.setdefault(relation, []).append(name)
        by_text = not types.hashable(type_oid) or collation in fickle
        columns.setdefault(relation, []).append(Column(name, types.base_type(type_oid), by_text))
    moving = {row[0]: (row[1], row[2]) for row in connection.execute(_MOVING)}
    return [
        Relation(
            oid=oid,
            schema=schema,
            name=name,
            file_node=file_node,
            bytes=size,
            extension=extension,
            readable=readable,
            row_security=row_security,
            columns=tuple(sorted(columns.get(oid, []), key=lambda column: column.name)),
            pages=pages or 0,
            stored=tuple(stored.get(oid, [])),
            moves_within=moving.get(oid),
            is_unlogged=is_unlogged,
        )
        for (
            oid,
            schema,
            name,
            file_node,
            size,
            extension,
            readable,
            row_security,
            pages,
            is_unlogged,
        ) in connection.execute(_RELATIONS)
    ]


def read_writers(
    connection: Connection, relations: Sequence[Relation]
) -> dict[int, tuple[int, int]]:
    """Return, by their OIDs, how many rows tables have and the sum of who wrote them.

    With both equal nothing was written in between: what is written later has a transaction with a
    higher number than everything that was there, so that with as many rows the sum is higher.
    """
    found: dict[int, tuple[int, int]] = {}
    for batch in in_batches(relations):
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL(
                "SELECT {}::pg_catalog.int4, pg_catalog.count(*), COALESCE(pg_catalog.sum("
                "xmin::pg_catalog.text::pg_catalog.int8), 0)::pg_catalog.text FROM ONLY {}"
            ).format(sql.Literal(number), relation.identifier)
            for number, relation in enumerate(batch)
        )
        found |= {
            batch[number].oid: (rows, int(writers))
            for number, rows, writers in connection.execute(query)
        }
    return found


def in_batches(tables: Iterable[Relation]) -> list[tuple[Relation, ...]]:
    """Put tables together that are read by one query, the largest alone and first.

    A query costs a round trip and a plan, which for small tables is most of it.
    """
    batches: list[tuple[Relation, ...]] = []
    small: list[Relation] = []
    for table in sorted(tables, key=lambda table: -table.bytes):
        if table.bytes > _SMALL_BYTES:
            batches.append((table,))
        else:
            small.append(table)
    batches += [tuple(small[n : n + _AT_ONCE]) for n in range(0, len(small), _AT_ONCE)]
    return batches
