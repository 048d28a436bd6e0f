"""Fingerprints of what tables hold.

A fingerprint is the sum of a 64-bit hash of every row, as a decimal number, so the order of the
rows does not matter. It guards against accidents, not against somebody who makes two contents
with one sum on purpose. There are three forms; a manifest names the one that it was written with.

"identity", the default, sees every change of a value that the value's text shows. A row's hash is
the exclusive or of one hash for each column, each with a seed of its own, so that an exchange
between columns shows; the columns are sorted by name, because a restore may put an inherited
table's columns in another order. That row's hash is mixed once more before it is added, because a
sum of hashes that are not would stay the same when two rows exchange values. How a column goes in
depends on its type (:data:`DIRECT`, :data:`PACKED`): a type whose hash function reads all of
the value goes in by that function; a type whose own hash is blind for a part of it (the sign of a
numeric, 32 bits of a timestamp) by its binary form; every other type, among them arrays,
composites, ranges, enums and the types of extensions, by the text that its output function writes,
as COPY does.

"text" takes every value by its text. It finds the same changes at several times the cost, and is
the only form that a server before version 14 knows.

"hash" is what earlier releases have written: the sum of ``hash_record_extended(ROW(columns), 0)``.
It follows each type's own equality (1.0 = 1.00), does not see the sign of a numeric nor values
that rows exchange, and is there to verify what was written with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from psycopg import sql

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.tables import Column, Relation

FingerprintForm = Literal["identity", "hash", "text", "none"]

UNSEEN = {
    "hash": "changes of a value that its type takes for equal (case in citext, 1.0 for 1.00), of a "
    "numeric's sign, and values of a column that rows have exchanged: the backup's fingerprints "
    "are of an earlier release's form"
}
"""What a form does not see, for the receipt; of the others nothing is known."""

_TEXT: LiteralString = (
    'pg_catalog.hashtextextended({}::pg_catalog.text COLLATE pg_catalog."C", {{seed}})'
)
"""The hash of a cstring's bytes: what an output function returns. No cast of a user's applies."""

DIRECT: dict[str, LiteralString] = {
    # The hash functions of these types read every bit of a value, and nothing else.
    "int2": "pg_catalog.hashint2extended({value}, {seed})",
    "int4": "pg_catalog.hashint4extended({value}, {seed})",
    "oid": "pg_catalog.hashoidextended({value}, {seed})",
    "bool": "pg_catalog.hashint4extended(pg_catalog.int4({value}), {seed})",
    "char": "pg_catalog.hashcharextended({value}, {seed})",
    "name": "pg_catalog.hashnameextended({value}, {seed})",
    "uuid": "pg_catalog.uuid_hash_extended({value}, {seed})",
    "inet": "pg_catalog.hashinetextended({value}, {seed})",
    "cidr": "pg_catalog.hashinetextended({value}, {seed})",
    "macaddr": "pg_catalog.hashmacaddrextended({value}, {seed})",
    "macaddr8": "pg_catalog.hashmacaddr8extended({value}, {seed})",
    # So that no collation's idea of equality applies: under "C" the bytes are hashed.
    "text": 'pg_catalog.hashtextextended({value} COLLATE pg_catalog."C", {seed})',
    "varchar": 'pg_catalog.hashtextextended({value} COLLATE pg_catalog."C", {seed})',
    # Its hash folds the value's halves into 32 bits, where 1 and 4294967296 are one. The value is
    # in the seed too, of which all 64 bits count.
    "int8": "pg_catalog.hashint8extended({value}, pg_catalog.int8xor({value}, {seed}))",
    # Zero and minus zero hash alike, and a NaN is a NaN, as in its text.
    "float4": "CASE WHEN {value} OPERATOR(pg_catalog.=) 0 THEN "
    + _TEXT.format("pg_catalog.float4out({value})")
    + " ELSE pg_catalog.hashfloat4extended({value}, {seed}) END",
    "float8": "CASE WHEN {value} OPERATOR(pg_catalog.=) 0 THEN "
    + _TEXT.format("pg_catalog.float8out({value})")
    + " ELSE pg_catalog.hashfloat8extended({value}, {seed}) END",
    # Its hash is blind for scale, sign and nesting, and its binary form is its text.
    "jsonb": _TEXT.format("pg_catalog.jsonb_out({value})"),
}
"""Built-in types by the hash of their own: the SQL of a column's hash."""

PACKED: dict[str, LiteralString] = {
    # Their hashes read 64 bits as 32; the binary form has all of them.
    "timestamp": "pg_catalog.timestamp_send({value})",
    "timestamptz": "pg_catalog.timestamptz_send({value})",
    "time": "pg_catalog.time_send({value})",
    "timetz": "pg_catalog.timetz_send({value})",
    # Months, days and time apart: 1 month is not 30 days.
    "interval": "pg_catalog.interval_send({value})",
    # With sign and scale, of which its hash knows nothing.
    "numeric": "pg_catalog.numeric_send({value})",
    # A number of cents, however a locale writes it.
    "money": "pg_catalog.cash_send({value})",
    # Their hashes read every bit, but have no name that every version knows.
    "date": "{value}",
    "bytea": "{value}",
}
"""Built-in types that are hashed together, in one record of a row's bytea and date values."""


@dataclass(frozen=True)
class Content:
    """What a table holds."""

    rows: int
    fingerprint: str | None


def default_form(server_version: int) -> FingerprintForm:
    """Return the form of fingerprint that a server of that version (140005) is able to make."""
    return "identity" if server_version >= 140000 else "text"


def fingerprint_query(relation: Relation, form: FingerprintForm) -> sql.Composed:
    """Return the query for a table's row count and fingerprint, in one pass over the table."""
    if form == "none":
        return sql.SQL("SELECT pg_catalog.count(*), NULL::pg_catalog.text FROM ONLY {}").format(
            relation.identifier
        )
    if not relation.columns:
        return sql.SQL("SELECT pg_catalog.count(*), '0' FROM ONLY {}").format(relation.identifier)
    if form == "identity":
        # In a subquery that stays one, so that a row is hashed once.
        return sql.SQL(
            "SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum(pg_catalog.int8xor(q.h, "
            "pg_catalog.hashint8extended(q.h, {})))::pg_catalog.text, '0') "
            "FROM (SELECT {} AS h FROM ONLY {} AS r OFFSET 0) AS q"
        ).format(_constant(0), _row_hash(relation.columns), relation.identifier)
    return sql.SQL(
        "SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum({})::pg_catalog.text, '0') "
        "FROM ONLY {} AS r"
    ).format(_linear_row_hash(relation.columns, form), relation.identifier)


def _constant(number: int) -> sql.Literal:
    """Return one of a series of 64-bit numbers that have nothing in common."""
    value = number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019
    return sql.Literal((value + (1 << 63)) % (1 << 64) - (1 << 63))


def _row_hash(columns: Sequence[Column]) -> sql.Composable:
    """Return the SQL of a row's hash in the "identity" form; never NULL."""
    hashes: list[sql.Composable] = []
    packed: list[sql.Composable] = []
    for number, column in enumerate(columns, start=1):
        value: sql.Composable = sql.SQL("r.{}").format(sql.Identifier(column.name))
        if column.base_type in PACKED:
            packed.append(sql.SQL(PACKED[column.base_type]).format(value=value))
            continue
        template = DIRECT.get(column.base_type)
        if template is None:
            value = _output(value)
            template = DIRECT["text"]
        hashed = sql.SQL(template).format(value=value, seed=_constant(2 * number))
        # NULL has a number of its own in each column, as a value has.
        hashes.append(sql.SQL("COALESCE({}, {})").format(hashed, _constant(2 * number + 1)))
    if packed:
        hashes.append(
            sql.SQL("pg_catalog.hash_record_extended(ROW({}), {})").format(
                sql.SQL(", ").join(packed), _constant(1)
            )
        )
    # As a tree, not a chain: a table has up to 1,600 columns, and a server's stack an end.
    while len(hashes) > 1:
        pairs = [hashes[n : n + 2] for n in range(0, len(hashes), 2)]
        hashes = [
            sql.SQL("pg_catalog.int8xor({})").format(sql.SQL(", ").join(pair))
            if len(pair) == 2
            else pair[0]
            for pair in pairs
        ]
    return hashes[0]


def _output(value: sql.Composable) -> sql.Composable:
    """Return the SQL of a value's text by its type's output function, as COPY writes it.

    A cast to text gives other bytes for xml and char(n), and may be a user's own function. %L tells
    NULL and 'NULL' apart.
    """
    return sql.SQL("pg_catalog.format('%L', {})").format(value)


def _linear_row_hash(columns: Sequence[Column], form: FingerprintForm) -> sql.Composable:
    """Return the SQL of a row's hash in the forms "hash" and "text"."""
    values = sql.SQL(", ").join(
        sql.SQL('{} COLLATE pg_catalog."C"').format(_output(value))
        if form == "text" or column.by_text
        else value
        for column in columns
        for value in (sql.SQL("r.{}").format(sql.Identifier(column.name)),)
    )
    if form == "hash":
        return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(values)
    return sql.SQL("pg_catalog.hashtextextended(ROW({})::pg_catalog.text, 0)").format(values)


def read_contents(
    connection: Connection, relations: Sequence[Relation], form: FingerprintForm
) -> dict[int, Content]:
    """Return what whole tables hold, by their OIDs, as the transaction's snapshot shows them."""
    query = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}::pg_catalog.int4, q.* FROM ({}) q").format(
            sql.Literal(number), fingerprint_query(relation, form)
        )
        for number, relation in enumerate(relations)
    )
    return {
        relations[number].oid: Content(rows, fingerprint)
        for number, rows, fingerprint in connection.execute(query).fetchall()
    }
