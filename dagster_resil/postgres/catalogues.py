"""What a database has that pg_dump does not write: the catalogues themselves, one query a class.

pg_dump leaves out what belongs to PostgreSQL or to an extension, since a restore makes it anew; so
it leaves out too what users have changed there. The queries here find that. Some list everything
of a class; others only what has been changed, by the transaction that has written its row: a row of
initdb's is no newer than what initdb makes last; a row of an extension's is of the same transaction
and command as its membership in the extension. What is
listed for no good reason does no harm: it is equal in a restored database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.inventory import EXTENSION_VERSION, SchemaDifference
from dagster_resil.records.inventory import Item

_SYSTEM = "{schema} IN ('pg_catalog', 'information_schema')"

_MEMBER = (
    "EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = "
    "'pg_catalog.{catalog}'::pg_catalog.regclass AND m.objid = {alias}.oid "
    "AND m.deptype = 'e'{further})"
)


def _member(catalog: str, alias: str) -> str:
    return _MEMBER.format(catalog=catalog, alias=alias, further="")


def altered(catalog: str, alias: str) -> str:
    """Return SQL for whether an extension's member was changed after the extension made it.

    After pg_upgrade, which makes members anew, that is so of all of them.
    """
    other = (
        f" AND (m.xmin::pg_catalog.text, m.cmin::pg_catalog.text) <> "
        f"({alias}.xmin::pg_catalog.text, {alias}.cmin::pg_catalog.text)"
    )
    return _MEMBER.format(catalog=catalog, alias=alias, further=other)


def altered_later(catalog: str, alias: str) -> str:
    """Return SQL for whether a later transaction has changed an extension's member.

    That of the extension itself writes some rows twice: an operator's when its commutator is made.
    """
    other = f" AND m.xmin::pg_catalog.text <> {alias}.xmin::pg_catalog.text"
    return _MEMBER.format(catalog=catalog, alias=alias, further=other)


def changed(alias: str) -> str:
    """Return SQL for whether a row of initdb's was changed since."""
    return f"({alias}.oid < 16384 AND {_since_initdb(alias)})"


# Transactions of initdb have low numbers, which no later one has before 2^32 have passed. Its last
# ones in a database made the views of information_schema, in the order of their OIDs, and
# plpgsql. A user may have dropped either, or have changed a view or its type.
_LAST_OF_INITDB = """GREATEST(
    (SELECT LEAST(r.xmin::pg_catalog.text::pg_catalog.int8,
                  t.xmin::pg_catalog.text::pg_catalog.int8)
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid
       JOIN pg_catalog.pg_type t ON t.oid = c.reltype
      WHERE n.nspname = 'information_schema' AND c.relkind = 'v' AND c.oid < 16384
      ORDER BY c.oid DESC LIMIT 1),
    (SELECT e.xmin::pg_catalog.text::pg_catalog.int8 FROM pg_catalog.pg_extension e
      WHERE e.extname = 'plpgsql' AND e.oid < 16384))"""


def _since_initdb(alias: str) -> str:
    return f"{alias}.xmin::pg_catalog.text::pg_catalog.int8 > (SELECT {_LAST_OF_INITDB})"


def made_in_system(catalog: str, alias: str, schema: str = "n.nspname") -> str:
    """Return SQL for whether users have made an object in a schema of the system's."""
    return (
        f"({alias}.oid >= 16384 AND {_SYSTEM.format(schema=schema)} "
        f"AND NOT {_member(catalog, alias)})"
    )


# The types of all values that are kept, or stand in an expression; also those within arrays,
# domains, ranges and composites.
_USED = """
WITH RECURSIVE used (oid) AS (
    {first}
    UNION
    SELECT x.oid FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.oid
      CROSS JOIN LATERAL (
        SELECT t.typbasetype WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typcategory = 'A'
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r
                   WHERE r.rngtypid = t.oid{multirange}
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                   WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0
                     AND NOT a.attisdropped) AS x (oid)
     WHERE x.oid <> 0
)
"""
_IN_COLUMNS_AND_EXPRESSIONS = """
    SELECT a.atttypid FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.oid >= 16384 AND c.relpersistence <> 't'
    UNION
    SELECT d.refobjid FROM pg_catalog.pg_depend d
     WHERE d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid >= 16384
       AND d.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass,
                         'pg_catalog.pg_constraint'::pg_catalog.regclass,
                         'pg_catalog.pg_policy'::pg_catalog.regclass,
                         'pg_catalog.pg_rewrite'::pg_catalog.regclass,
                         'pg_catalog.pg_trigger'::pg_catalog.regclass)
"""
# What a function makes, by a body that is text to everybody but the function's language. A
# function that only takes such a value finds its columns by their names.
_MADE_BY_FUNCTIONS = """
    SELECT d.refobjid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc f ON f.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid >= 16384
       AND d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
       AND (d.refobjid = f.prorettype OR d.refobjid = ANY (f.proallargtypes)
            OR f.proargdefaults IS NOT NULL{parsed})
"""
# A row type's text has no names: where the columns are in another order, so are the values.
_ROW_TYPES = """
SELECT '{kind}', q.name, 'columns ' || q.columns FROM (
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
           (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
              FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384 AND {chosen}) q
"""
_ROW_TYPE = "ROW TYPE"
MADE_ROW_TYPE = "ROW TYPE OF FUNCTIONS"
"""The kind of a row type whose columns change places, where a function makes values of it: whether
they are the source's values nobody can tell."""

_CONFIGURATION = """
SELECT 'TEXT SEARCH CONFIGURATION', q.name, q.mapping FROM (
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.cfgname) AS name,
           pg_catalog.md5(COALESCE((
               SELECT pg_catalog.string_agg(m.maptokentype || ' ' || m.mapseqno || ' ' ||
                          m.mapdict::pg_catalog.regdictionary::pg_catalog.text, ', '
                          ORDER BY m.maptokentype, m.mapseqno)
                 FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = c.oid), '')) AS mapping
      FROM pg_catalog.pg_ts_config c JOIN pg_catalog.pg_namespace n ON n.oid = c.cfgnamespace
     WHERE {chosen}) q
"""

_DICTIONARY = """
SELECT 'TEXT SEARCH DICTIONARY', q.name, q.options FROM (
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(d.dictname) AS name,
           COALESCE(d.dictinitoption, '') AS options
      FROM pg_catalog.pg_ts_dict d JOIN pg_catalog.pg_namespace n ON n.oid = d.dictnamespace
     WHERE {chosen}) q
"""

_FUNCTION = """
SELECT 'FUNCTION', q.name, 'definition ' || pg_catalog.md5(pg_catalog.pg_get_functiondef(q.oid))
  FROM (SELECT f.oid, f.oid::pg_catalog.regprocedure::pg_catalog.text AS name
          FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
         WHERE f.prokind <> 'a' AND {chosen} OFFSET 0) q
"""

_AGGREGATE = """
SELECT 'AGGREGATE', q.name, q.properties FROM (
    SELECT f.oid::pg_catalog.regprocedure::pg_catalog.text AS name,
           'by ' || g.aggtransfn::pg_catalog.regproc::pg_catalog.text || ', ' ||
               g.aggfinalfn::pg_catalog.regproc::pg_catalog.text || ', from ' ||
               COALESCE(pg_catalog.quote_literal(g.agginitval), 'nothing') AS properties
      FROM pg_catalog.pg_aggregate g JOIN pg_catalog.pg_proc f ON f.oid = g.aggfnoid
      JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
     WHERE {chosen}) q
"""

# What an extension has: a user may have given it something, or taken something away from it.
_MEMBERS = """
SELECT 'EXTENSION MEMBER', q.name, q.properties FROM (
    SELECT pg_catalog.quote_ident(e.extname) || ' ' || i.type || ' ' || i.identity AS name,
           CASE WHEN pg_catalog.age(m.xmin) < pg_catalog.age(e.xmin) THEN 'added' ELSE '' END
               AS properties
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_depend m ON m.refobjid = e.oid AND m.deptype = 'e'
       AND m.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
      CROSS JOIN pg_catalog.pg_identify_object(m.classid, m.objid, m.objsubid) i) q
"""

# Tables and views in the system's schemas, or of an extension; with what users have put on tables
# of the server's or of an extension.
_RELATION = """
SELECT 'RELATION', q.name, q.properties FROM (
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
           c.relkind::pg_catalog.text || ', columns ' || pg_catalog.md5(COALESCE((
               SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' ||
                          pg_catalog.format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull,
                          ', ' ORDER BY a.attnum)
                 FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), ''))
           || CASE WHEN c.relkind IN ('v', 'm')
                   THEN ', query ' || pg_catalog.md5(pg_catalog.pg_get_viewdef(c.oid))
                   ELSE '' END AS properties
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {chosen}) q
"""

_ON_MEMBERS = """
SELECT q.kind, q.name, q.properties FROM (
    SELECT 'INDEX' AS kind, pg_catalog.quote_ident(n.nspname) || '.' ||
           pg_catalog.quote_ident(i.relname) AS name,
           pg_catalog.pg_get_indexdef(x.indexrelid) AS properties, x.indrelid AS relid, i.oid,
           i.xmin::pg_catalog.text AS writer
      FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
    UNION ALL
    SELECT 'TRIGGER', t.tgrelid::pg_catalog.regclass::pg_catalog.text || ' ' ||
           pg_catalog.quote_ident(t.tgname),
           'enabled ' || t.tgenabled::pg_catalog.text || ', ' ||
               pg_catalog.pg_get_triggerdef(t.oid),
           t.tgrelid, t.oid, t.xmin::pg_catalog.text
      FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'CONSTRAINT', k.conrelid::pg_catalog.regclass::pg_catalog.text || ' ' ||
           pg_catalog.quote_ident(k.conname), pg_catalog.pg_get_constraintdef(k.oid), k.conrelid,
           k.oid, k.xmin::pg_catalog.text
      FROM pg_catalog.pg_constraint k WHERE k.conrelid <> 0 AND k.contype <> 'n'
    UNION ALL
    SELECT 'RULE', r.ev_class::pg_catalog.regclass::pg_catalog.text || ' ' ||
           pg_catalog.quote_ident(r.rulename), pg_catalog.md5(pg_catalog.pg_get_ruledef(r.oid)),
           r.ev_class, r.oid, r.xmin::pg_catalog.text
      FROM pg_catalog.pg_rewrite r) q
  LEFT JOIN pg_catalog.pg_depend m ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
   AND m.objid = q.relid AND m.objsubid = 0 AND m.deptype = 'e'
 WHERE (m.objid IS NOT NULL OR q.relid < 16384) AND {chosen}
"""

_TYPE = """
SELECT 'TYPE', q.name, q.properties FROM (
    SELECT pg_catalog.format_type(t.oid, NULL) AS name,
           t.typtype::pg_catalog.text || COALESCE(' ' ||
               (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ' '
                           ORDER BY e.enumsortorder)
                  FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '') || COALESCE(' ' ||
               (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(k.oid), ' '
                           ORDER BY k.conname)
                  FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid), '')
               || CASE WHEN t.typtype = 'b' THEN pg_catalog.concat_ws(' ', ' storage',
                      t.typstorage, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typanalyze)
                  ELSE '' END AS properties
      FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
     WHERE t.typelem = 0 AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c
               WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND {chosen}) q
"""

_OPERATOR = """
SELECT 'OPERATOR', i.identity, pg_catalog.concat_ws(' ', 'estimated by', o.oprrest, o.oprjoin,
           CASE WHEN o.oprcanmerge THEN 'merges' END, CASE WHEN o.oprcanhash THEN 'hashes' END)
  FROM pg_catalog.pg_operator o, pg_catalog.pg_identify_object(
       'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid, 0) i
 WHERE {chosen}
"""

# What a user has added to an operator family of the server's or of an extension.
_LOOSE = """
SELECT q.kind, q.name, q.does FROM (
    SELECT pg_catalog.upper(i.type) AS kind, i.identity AS name, a.does, a.family,
           a.xmin::pg_catalog.text AS writer, m.xmin::pg_catalog.text AS made_by
      FROM (SELECT o.oid, 'pg_catalog.pg_amop'::pg_catalog.regclass AS class, o.xmin,
                   o.amopfamily AS family, o.amopopr::pg_catalog.regoperator::pg_catalog.text
                       AS does FROM pg_catalog.pg_amop o
            UNION ALL
            SELECT f.oid, 'pg_catalog.pg_amproc'::pg_catalog.regclass, f.xmin, f.amprocfamily,
                   f.amproc::pg_catalog.regprocedure::pg_catalog.text
              FROM pg_catalog.pg_amproc f) a
      LEFT JOIN pg_catalog.pg_depend m ON m.objid = a.family AND m.deptype = 'e'
       AND m.classid = 'pg_catalog.pg_opfamily'::pg_catalog.regclass
      CROSS JOIN pg_catalog.pg_identify_object(a.class, a.oid, 0) i
     WHERE a.oid >= 16384 AND (a.family < 16384 OR m.objid IS NOT NULL)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend c JOIN pg_catalog.pg_depend e
                           ON e.classid = c.refclassid AND e.objid = c.refobjid
                        WHERE c.classid = a.class AND c.objid = a.oid AND c.deptype = 'i'
                          AND c.refclassid = 'pg_catalog.pg_opclass'::pg_catalog.regclass
                          AND e.deptype = 'e')) q
 WHERE {chosen}
"""

# No pg_dump writes who may use a language that is not a procedural one.
_LANGUAGE = """
SELECT 'LANGUAGE', l.lanname, COALESCE((
           SELECT pg_catalog.string_agg(CASE a.grantee WHEN 10 THEN 'the first role' WHEN 0
                      THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(
                      a.grantee)) END || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ' '
                      ORDER BY a.grantee, a.is_grantable)
             FROM pg_catalog.aclexplode(COALESCE(l.lanacl,
                  pg_catalog.acldefault('l', l.lanowner))) a), '')
  FROM pg_catalog.pg_language l WHERE l.oid < 16384 AND NOT l.lanispl AND {chosen}
"""

_OWNED = {
    "pg_class": "relowner",
    "pg_collation": "collowner",
    "pg_conversion": "conowner",
    "pg_foreign_data_wrapper": "fdwowner",
    "pg_foreign_server": "srvowner",
    "pg_language": "lanowner",
    "pg_namespace": "nspowner",
    "pg_opclass": "opcowner",
    "pg_operator": "oprowner",
    "pg_opfamily": "opfowner",
    "pg_proc": "proowner",
    "pg_ts_config": "cfgowner",
    "pg_ts_dict": "dictowner",
    "pg_type": "typowner",
}
"""Catalogues and their columns for the owner."""


def owned() -> str:
    """Return SQL for who owns what is the server's or an extension's: kind, name, role, is_changed.

    What is changed belongs to a role that it did not belong to when it was made.
    """
    return " UNION ALL ".join(
        "SELECT i.type AS kind, i.identity AS name, "
        f"CASE c.{owner} WHEN 10 THEN NULL ELSE pg_catalog.pg_get_userbyid(c.{owner}) END AS role, "
        f"c.{owner} <> 10 AND ({changed('c')} OR {altered(catalog, 'c')}) "
        "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e "
        f"ON e.oid = d.refobjid WHERE d.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass "
        f"AND d.objid = c.oid AND d.deptype = 'e' AND e.extowner = c.{owner}) AS is_changed "
        f"FROM pg_catalog.{catalog} c CROSS JOIN LATERAL pg_catalog.pg_identify_object("
        f"'pg_catalog.{catalog}'::pg_catalog.regclass, c.oid, 0) i "
        # 2200 is schema public. Indexes, and rows' types, belong to whom their table does.
        + {
            "pg_namespace": "WHERE c.oid <> 2200",
            "pg_class": "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')",
            "pg_type": "WHERE c.typrelid = 0 AND c.typelem = 0",
        }.get(catalog, "")
        for catalog, owner in _OWNED.items()
    )


_BUILT_IN = {
    "pg_am": "",
    "pg_cast": "",
    "pg_collation": "'collowner', 'collversion'",
    "pg_conversion": "'conowner'",
    "pg_language": "'lanowner', 'lanacl'",
    "pg_opclass": "'opcowner'",
    "pg_operator": "'oprowner'",
    "pg_opfamily": "'opfowner'",
    "pg_ts_parser": "",
    "pg_ts_template": "",
    "pg_type": "'typowner', 'typacl'",
}
"""Catalogues of which a row of initdb's is compared whole, and the columns that are not."""


def _built_in() -> str:
    return " UNION ALL ".join(
        f"SELECT pg_catalog.upper(i.type), i.identity, 'definition ' || pg_catalog.md5("
        f"(pg_catalog.to_jsonb(c) - ARRAY[{columns}]::pg_catalog.text[])::pg_catalog.text) "
        f"FROM pg_catalog.{catalog} c CROSS JOIN LATERAL pg_catalog.pg_identify_object("
        f"'pg_catalog.{catalog}'::pg_catalog.regclass, c.oid, 0) i WHERE {{chosen}}"
        for catalog, columns in _BUILT_IN.items()
    )


COMMENTABLE = {
    "access method": "ACCESS METHOD",
    "aggregate": "ROUTINE",
    "cast": "CAST",
    "collation": "COLLATION",
    "composite type column": "COLUMN",
    "conversion": "CONVERSION",
    "extension": "EXTENSION",
    "foreign table": "FOREIGN TABLE",
    "foreign table column": "COLUMN",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
    "function": "FUNCTION",
    "index": "INDEX",
    "language": "LANGUAGE",
    "materialized view": "MATERIALIZED VIEW",
    "materialized view column": "COLUMN",
    "operator": "OPERATOR",
    "operator class": "OPERATOR CLASS",
    "operator family": "OPERATOR FAMILY",
    "procedure": "PROCEDURE",
    "rule": "RULE",
    "schema": "SCHEMA",
    "sequence": "SEQUENCE",
    "server": "SERVER",
    "table": "TABLE",
    "table column": "COLUMN",
    "table constraint": "CONSTRAINT",
    "text search configuration": "TEXT SEARCH CONFIGURATION",
    "text search dictionary": "TEXT SEARCH DICTIONARY",
    "text search parser": "TEXT SEARCH PARSER",
    "text search template": "TEXT SEARCH TEMPLATE",
    "trigger": "TRIGGER",
    "type": "TYPE",
    "view": "VIEW",
    "view column": "COLUMN",
}
"""What pg_identify_object calls a kind of object, and what COMMENT does."""

# A comment on what a restore makes anew is in no dump, but for schema public's.
COMMENTED = f"""((d.objoid < 16384 AND {_since_initdb("d")}
      AND NOT (d.objoid = 2200 AND d.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass)
      AND d.classoid <> 'pg_catalog.pg_largeobject'::pg_catalog.regclass)
  OR EXISTS (SELECT FROM pg_catalog.pg_depend m
              WHERE m.classid = d.classoid AND m.objid = d.objoid AND m.deptype = 'e'
                AND m.xmin::pg_catalog.text <> d.xmin::pg_catalog.text))"""
"""SQL for whether a comment is one of those."""

COMMENTS = """
SELECT i.type AS kind, i.identity AS name, d.description AS said
  FROM pg_catalog.pg_description d CROSS JOIN LATERAL
       pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) i
 WHERE i.type IS NOT NULL AND {chosen}
"""


_WRAPPER = """
SELECT q.kind, q.name, 'options ' || pg_catalog.md5(q.options) FROM (
    SELECT 'FOREIGN DATA WRAPPER' AS kind, w.fdwname::pg_catalog.text AS name,
           COALESCE(pg_catalog.array_to_string(w.fdwoptions, ', '), '') AS options,
           {wrapper} AS is_altered
      FROM pg_catalog.pg_foreign_data_wrapper w
    UNION ALL
    SELECT 'SERVER', s.srvname::pg_catalog.text,
           COALESCE(pg_catalog.array_to_string(s.srvoptions, ', '), ''), {server}
      FROM pg_catalog.pg_foreign_server s) q
 WHERE {chosen}
"""

# Triggers that keep a constraint are of PostgreSQL's own making, and pg_dump makes them anew as
# they are by default. Those of a partition's constraint are named by the parent's.
_CONSTRAINT_TRIGGERS = """
SELECT 'CONSTRAINT TRIGGER', q.name, pg_catalog.string_agg(DISTINCT q.state, ' ' ORDER BY q.state)
  FROM (SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text || ' ' ||
               k.conrelid::pg_catalog.regclass::pg_catalog.text ||
               CASE WHEN k.conparentid = 0 THEN ' ' || pg_catalog.quote_ident(k.conname)
                    ELSE '' END || ' ' || f.proname AS name,
               'enabled ' || t.tgenabled::pg_catalog.text AS state
          FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint k ON k.oid = t.tgconstraint
          JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
         WHERE t.tgisinternal AND t.tgenabled <> 'O') q
 GROUP BY q.name
"""

_OBJECT_CLASSES = (
    "pg_am",
    "pg_cast",
    "pg_collation",
    "pg_conversion",
    "pg_foreign_data_wrapper",
    "pg_language",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_transform",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
)
"""The classes that the inventory has no query for."""


def _objects() -> str:
    return " UNION ALL ".join(
        f"SELECT pg_catalog.upper(i.type), i.identity, '' FROM pg_catalog.{catalog} c, "
        f"pg_catalog.pg_identify_object('pg_catalog.{catalog}'::pg_catalog.regclass, c.oid, 0) i "
        f"WHERE c.oid >= 16384 AND NOT {_member(catalog, 'c')} "
        "AND COALESCE(i.schema, '') !~ '^pg_(temp|toast)'"
        # A shell of an operator, which another one has named.
        + (" AND c.oprcode::pg_catalog.oid <> 0" if catalog == "pg_operator" else "")
        # pg_import_system_collations makes them of what the machine has.
        + (" AND i.schema <> 'pg_catalog'" if catalog == "pg_collation" else "")
        for catalog in _OBJECT_CLASSES
    )


@dataclass(frozen=True)
class _Part:
    """A class of objects.

    :param query: its columns are kind, name and properties; ``{chosen}`` stands for a condition.
    :param chosen: the condition on the source.
    :param everywhere: whether it is the condition on the restored database too. Where it is not,
        what was chosen on the source is looked for by its name.
    """

    query: str
    chosen: str = "true"
    everywhere: bool = False


def _used(version: int, first: str = _IN_COLUMNS_AND_EXPRESSIONS) -> str:
    multirange, parsed = "", ""
    if version >= 140000:
        multirange, parsed = " OR r.rngmultitypid = t.oid", " OR f.prosqlbody IS NOT NULL"
    return (
        _USED.replace("{first}", first)
        .replace("{multirange}", multirange)
        .replace("{parsed}", parsed)
    )


def _row_types(version: int, kind: str, first: str) -> _Part:
    return _Part(
        _used(version, first) + _ROW_TYPES.replace("{kind}", kind),
        "c.reltype IN (SELECT u.oid FROM used u)",
    )


def _parts(version: int) -> dict[str, _Part]:
    return {
        "functions": _Part(
            _FUNCTION,
            f"({made_in_system('pg_proc', 'f')} OR {changed('f')} OR {altered('pg_proc', 'f')})",
        ),
        "text search dictionaries": _Part(
            _DICTIONARY, f"({changed('d')} OR {altered('pg_ts_dict', 'd')})"
        ),
        # Who has taken a mapping away has left no row that would show it.
        "text search configurations": _Part(
            _CONFIGURATION,
            f"(c.oid < 16384 OR {_member('pg_ts_config', 'c')})",
            everywhere=True,
        ),
        "aggregates": _Part(_AGGREGATE, made_in_system("pg_proc", "f")),
        "members of extensions": _Part(_MEMBERS, everywhere=True),
        "relations": _Part(
            _RELATION, f"({made_in_system('pg_class', 'c')} OR {altered('pg_class', 'c')})"
        ),
        "on extensions' tables": _Part(
            _ON_MEMBERS,
            "(q.writer <> m.xmin::pg_catalog.text OR q.relid < 16384 AND q.oid >= 16384)",
        ),
        "types": _Part(
            _TYPE,
            f"({made_in_system('pg_type', 't')} OR (t.typtype IN ('d', 'e') "
            f"AND {_member('pg_type', 't')}) "
            f"OR (t.typtype = 'b' AND {altered_later('pg_type', 't')}))",
        ),
        "operators of extensions": _Part(_OPERATOR, altered_later("pg_operator", "o")),
        "operator families": _Part(_LOOSE, "(q.made_by IS NULL OR q.writer <> q.made_by)"),
        "languages": _Part(_LANGUAGE, everywhere=True),
        "owners": _Part(
            "SELECT 'OWNER OF ' || pg_catalog.upper(q.kind), q.name, COALESCE(q.role, "
            f"'the first role') FROM ({owned()}) q WHERE {{chosen}}",
            "q.is_changed",
        ),
        "built-in objects": _Part(_built_in(), changed("c")),
        "comments": _Part(
            "SELECT 'COMMENT', q.kind || ' ' || q.name, 'text ' || pg_catalog.md5(q.said) "
            f"FROM ({COMMENTS}) q WHERE q.kind IN ({', '.join(map(_literal, COMMENTABLE))})",
            COMMENTED,
        ),
        "foreign data wrappers": _Part(
            _WRAPPER.replace("{wrapper}", altered("pg_foreign_data_wrapper", "w")).replace(
                "{server}", altered("pg_foreign_server", "s")
            ),
            "q.is_altered",
        ),
        "row types": _row_types(version, _ROW_TYPE, _IN_COLUMNS_AND_EXPRESSIONS),
        "row types of functions": _row_types(version, MADE_ROW_TYPE, _MADE_BY_FUNCTIONS),
        "triggers of constraints": _Part(_CONSTRAINT_TRIGGERS, everywhere=True),
        "objects": _Part(_objects(), everywhere=True),
    }


def _literal(word: str) -> str:
    return f"'{word}'"


Catalogues = Mapping[str, tuple[Item, ...]]
"""Parts, by name, and what was found of each, sorted."""


def read_catalogues(connection: Connection) -> Catalogues:
    """Return what a source has that a dump does not carry, or that no dump shows."""
    return {
        name: _read(connection, part.query.replace("{chosen}", part.chosen))
        for name, part in _parts(connection.info.server_version).items()
    }


def parts_left_out(source: Catalogues) -> list[str]:
    """Return the parts that the source was not asked for, because an earlier release knew fewer."""
    return [name for name in _parts(0) if name not in source]  # each version has the same parts


def compare_catalogues(source: Catalogues, restored: Connection) -> list[SchemaDifference]:
    """Return what is missing or different in the connected, restored database, or too much.

    Only the parts that the source was asked for are compared: earlier releases asked for fewer.
    """
    differences: list[SchemaDifference] = []
    for name, part in _parts(restored.info.server_version).items():
        if name not in source:
            continue
        wanted = {(item.kind, item.identity): item.properties for item in source[name]}
        if part.everywhere:
            items = _read(restored, part.query.replace("{chosen}", part.chosen))
        else:
            items = _find(restored, part, [identity for _, identity in wanted])
        found = {(item.kind, item.identity): item.properties for item in items}
        if name == "members of extensions":
            differences += _other_members(wanted, found)
            continue
        differences += [
            _difference(key, wanted.get(key), found.get(key))
            for key in sorted(wanted.keys() | found.keys())
            if wanted.get(key) != found.get(key) and (part.everywhere or key in wanted)
        ]
    return differences


def _find(restored: Connection, part: _Part, names: list[str]) -> tuple[Item, ...]:
    if not names:
        return ()
    query = part.query.replace("{chosen}", "true")
    return _read(
        restored,
        f"SELECT w.* FROM ({query}) AS w (kind, name, properties) WHERE w.name = ANY (%s)",
        names,
    )


def _other_members(
    wanted: Mapping[tuple[str, str], str], found: Mapping[tuple[str, str], str]
) -> Iterator[SchemaDifference]:
    """Yield differences between extensions' members.

    What a user has added is lost. Otherwise the server may have another build of the extension,
    which says nothing about the backup, as another version of it does.
    """
    for key in sorted(wanted.keys() ^ found.keys()):
        kind, identity = key
        what = "missing" if key in wanted else "unexpected"
        if wanted.get(key) == "added":
            yield SchemaDifference(kind, identity, what)
        else:
            yield SchemaDifference(EXTENSION_VERSION, identity, what)


def _difference(key: tuple[str, str], wanted: str | None, found: str | None) -> SchemaDifference:
    kind, identity = key
    if kind == "CONSTRAINT TRIGGER":
        # Only those that are not as they are by default are listed.
        default = "enabled O"
        return SchemaDifference(
            kind, identity, "different", f"is {found or default}; in the source {wanted or default}"
        )
    if found is None:
        return SchemaDifference(kind, identity, "missing")
    if wanted is None:
        return SchemaDifference(kind, identity, "unexpected")
    detail = f"is {found}; in the source {wanted}"
    if kind == _ROW_TYPE:
        detail += "; values of this row type are kept in columns, and change places"
    elif kind == MADE_ROW_TYPE:
        detail += "; functions make values of this row type, which may change places"
    elif re.search(r"\b[0-9a-f]{32}\b", wanted):
        detail = "is not as in the source"
    return SchemaDifference(kind, identity, "different", detail)


def comments_left_out(connection: Connection) -> list[str]:
    """Return PostgreSQL's or extensions' objects whose comments no statement puts back."""
    return sorted(
        f"{kind} {name}"
        for kind, name, _ in connection.execute(COMMENTS.replace("{chosen}", COMMENTED))
        if kind not in COMMENTABLE
    )


def money_settings(connection: Connection) -> dict[str, str]:
    """Return the settings for dumping values of type money, if there are any.

    A locale writes them, and only the same locale reads them. Every machine has "C".
    """
    return {"lc_monetary": "C"} if _uses_money(connection) else {}


def _uses_money(connection: Connection) -> bool:
    row = connection.execute(
        _used(connection.info.server_version) + "SELECT EXISTS (SELECT FROM used WHERE oid = "
        "'pg_catalog.money'::pg_catalog.regtype)"
    ).fetchone()
    return bool(row and row[0])


def _read(connection: Connection, query: str, names: list[str] | None = None) -> tuple[Item, ...]:
    parameters = None if names is None else [names]
    items = [
        Item(kind=kind, identity=identity, properties=properties or "")
        for kind, identity, properties in connection.execute(query, parameters)
    ]
    return tuple(sorted(items, key=lambda item: (item.kind, item.identity, item.properties)))
