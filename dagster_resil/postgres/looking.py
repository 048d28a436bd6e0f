"""Tables of which rows are checked, when they are written, by functions of the database's owner.

Such a function may look at other tables, and then it matters what is in them by then.
"""

from __future__ import annotations

from dagster_resil.postgres.connection import Connection

# Functions in C do not look anywhere, as a rule, and geometries have them in every check.
_LOOKING = """
WITH RECURSIVE functions AS (
    SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
     WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')
), calls AS (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
     WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
       AND d.refobjid IN (SELECT oid FROM functions)
    UNION
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid
     WHERE d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
       AND o.oprcode IN (SELECT oid FROM functions)
), checks AS (
    SELECT k.conrelid, k.contypid FROM pg_catalog.pg_constraint k
     WHERE k.contype = 'c' AND EXISTS (SELECT FROM calls c WHERE c.objid = k.oid
       AND c.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass)
), types (oid) AS (
    SELECT contypid FROM checks WHERE contypid <> 0
    UNION
    SELECT t.oid FROM types y, pg_catalog.pg_type t
     WHERE t.typbasetype = y.oid OR (t.typelem = y.oid AND t.typcategory = 'A')
        OR EXISTS (SELECT FROM pg_catalog.pg_range r
                    WHERE r.rngtypid = t.oid AND r.rngsubtype = y.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = t.typrelid AND a.atttypid = y.oid AND a.attnum > 0)
), tables (oid) AS (
    SELECT conrelid FROM checks WHERE conrelid <> 0
    UNION
    SELECT a.attrelid FROM pg_catalog.pg_attribute a
     WHERE a.attnum > 0 AND a.atttypid IN (SELECT oid FROM types)
    UNION
    SELECT f.adrelid FROM pg_catalog.pg_attrdef f
      JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
     WHERE a.attgenerated <> '' AND EXISTS (SELECT FROM calls c WHERE c.objid = f.oid
       AND c.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass)
)
SELECT n.nspname, c.relname FROM tables t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


def looking_tables(connection: Connection) -> frozenset[tuple[str, str]]:
    """Return their schemas and names.

    They have a check constraint, a generated column or a column of a domain (also within arrays,
    ranges and composites) that calls a function of the owner's.
    """
    return frozenset((row[0], row[1]) for row in connection.execute(_LOOKING))
