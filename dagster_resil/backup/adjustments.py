"""Statements that put back what pg_dump does not write, as a part of the archive.

pg_dump makes an extension's members, PostgreSQL's own objects and the triggers that keep a
constraint as they are by default. What users have changed there is put back by statements among the
archive's entries, so that every way of restoring it runs them. Most of them need a superuser. One
that can't be done where it is restored gives a warning, and the restore goes on: it is not to be in
the way of the data, and a comparison finds what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from dagster_resil.postgres.catalogues import (
    COMMENTABLE,
    COMMENTED,
    COMMENTS,
    altered,
    altered_later,
    changed,
    made_in_system,
    owned,
)
from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.table_of_contents import Adjustment, Section

_FUNCTIONS = f"""
SELECT f.oid::pg_catalog.regprocedure::pg_catalog.text, pg_catalog.pg_get_functiondef(f.oid),
       (SELECT e.extname FROM pg_catalog.pg_depend d
          JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = f.oid
           AND d.deptype = 'e' LIMIT 1),
       NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                      AND d.objid = f.oid AND d.refobjid >= 16384)
  FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
 WHERE f.prokind <> 'a' AND ({made_in_system("pg_proc", "f")} OR {changed("f")}
       OR {altered("pg_proc", "f")})
 ORDER BY 1
"""

_DICTIONARIES = f"""
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(d.dictname),
       d.dictinitoption,
       (SELECT e.extname FROM pg_catalog.pg_depend m
          JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid
         WHERE m.classid = 'pg_catalog.pg_ts_dict'::pg_catalog.regclass AND m.objid = d.oid
           AND m.deptype = 'e' LIMIT 1)
  FROM pg_catalog.pg_ts_dict d JOIN pg_catalog.pg_namespace n ON n.oid = d.dictnamespace
 WHERE d.dictinitoption IS NOT NULL AND ({changed("d")} OR {altered("pg_ts_dict", "d")})
 ORDER BY 1
"""

# A mapping that was changed has a row newer than initdb's; one that was taken away has none.
_CONFIGURATIONS = f"""
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.cfgname),
       (SELECT pg_catalog.array_agg(t.alias ORDER BY t.tokid)
          FROM pg_catalog.ts_token_type(c.cfgparser) t),
       (SELECT pg_catalog.array_agg(q.mapping ORDER BY q.mapping) FROM (
           SELECT t.alias || ' WITH ' || pg_catalog.string_agg(
                      m.mapdict::pg_catalog.regdictionary::pg_catalog.text, ', '
                      ORDER BY m.mapseqno) AS mapping
             FROM pg_catalog.pg_ts_config_map m
             JOIN pg_catalog.ts_token_type(c.cfgparser) t ON t.tokid = m.maptokentype
            WHERE m.mapcfg = c.oid GROUP BY t.alias) q)
  FROM pg_catalog.pg_ts_config c JOIN pg_catalog.pg_namespace n ON n.oid = c.cfgnamespace
 WHERE c.oid < 16384 AND (
       EXISTS (SELECT FROM (SELECT m.mapcfg AS oid, m.xmin FROM pg_catalog.pg_ts_config_map m) x
                WHERE x.oid = c.oid AND {changed("x")})
       OR (SELECT pg_catalog.count(DISTINCT m.maptokentype) FROM pg_catalog.pg_ts_config_map m
            WHERE m.mapcfg = c.oid)
          < (SELECT pg_catalog.count(DISTINCT m.maptokentype)
               FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg =
                    (SELECT s.oid FROM pg_catalog.pg_ts_config s
                      WHERE s.cfgname = 'simple' AND s.oid < 16384)))
 ORDER BY 1
"""

_TRIGGERS = """
SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text,
       k.conrelid::pg_catalog.regclass::pg_catalog.text,
       CASE WHEN k.conparentid = 0 THEN k.conname END, f.proname,
       CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                        ELSE 'ENABLE ALWAYS' END
  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_constraint k ON k.oid = t.tgconstraint
  JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
 WHERE t.tgisinternal AND t.tgenabled <> 'O' ORDER BY 1, 2, 3, 4
"""

# pg_dump takes what initdb has granted on schema public for granted, under whatever name.
_RENAMED_PUBLIC = """
SELECT n.nspname, r.rolname, a.privilege_type FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_init_privs i ON i.objoid = n.oid
   AND i.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
  CROSS JOIN pg_catalog.aclexplode(i.initprivs) a
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
 WHERE n.oid = 2200 AND n.nspname <> 'public' ORDER BY 2 NULLS FIRST, 3
"""

# Until 14 everybody may create objects in a new database's schema public. A pg_dump of 15 and later
# takes for granted that they may not.
_CLOSED_PUBLIC = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'public' AND NOT EXISTS (
       SELECT FROM pg_catalog.aclexplode(COALESCE(n.nspacl,
              pg_catalog.acldefault('n', n.nspowner))) a
        WHERE a.grantee = 0 AND a.privilege_type = 'CREATE'))
"""

_OPERATORS = f"""
SELECT i.identity, o.oprrest::pg_catalog.oid <> 0, o.oprrest::pg_catalog.text,
       o.oprjoin::pg_catalog.oid <> 0, o.oprjoin::pg_catalog.text
  FROM pg_catalog.pg_operator o CROSS JOIN LATERAL pg_catalog.pg_identify_object(
       'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid, 0) i
 WHERE {changed("o")} OR {altered_later("pg_operator", "o")} ORDER BY 1
"""

_LANGUAGES = f"""
SELECT l.lanname, CASE a.grantee WHEN 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
       a.is_grantable
  FROM pg_catalog.pg_language l LEFT JOIN LATERAL pg_catalog.aclexplode(COALESCE(l.lanacl,
       pg_catalog.acldefault('l', l.lanowner))) a ON a.grantee <> l.lanowner
 WHERE NOT l.lanispl AND {changed("l")} ORDER BY 1, 2 NULLS FIRST
"""

# A table that was made a child of one whose check is not valid yet has it as a valid one; pg_dump
# adds the check to both at once.
_VALIDATED = """
SELECT k.conrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(k.conname)
  FROM pg_catalog.pg_constraint k
 WHERE k.contype = 'c' AND k.convalidated AND k.conrelid >= 16384 AND EXISTS (
       SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_constraint p
           ON p.conrelid = i.inhparent AND p.conname = k.conname AND p.contype = 'c'
        WHERE i.inhrelid = k.conrelid AND NOT p.convalidated)
 ORDER BY 1, 2
"""

_HAS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public'),
       EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'plpgsql')
"""


def read_adjustments(connection: Connection) -> list[Adjustment]:
    """Return the statements for the connected database, as the transaction's snapshot shows it."""
    public, plpgsql = connection.execute(_HAS).fetchone() or (True, True)
    made: list[Adjustment] = []
    if not public:
        made.append(
            Adjustment(
                "schema public, which the source has not",
                _unless_refused(connection, "DROP SCHEMA IF EXISTS public"),
                Section.PRE_DATA,
                first=True,
            )
        )
    for schema, grantee, privilege in connection.execute(_RENAMED_PUBLIC).fetchall():
        grant = sql.SQL(f"GRANT {privilege} ON SCHEMA {{}} TO {{}}").format(
            sql.Identifier(schema), sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        )
        made.append(
            Adjustment(
                f"privileges on schema {schema}, which was public",
                _unless_refused(connection, grant.as_string(connection)),
                Section.PRE_DATA,
                after=("SCHEMA", schema),
            )
        )
    if connection.info.server_version < 150000 and connection.execute(
        _CLOSED_PUBLIC
    ).fetchone() == (True,):
        made.append(
            Adjustment(
                "privileges on schema public, where PUBLIC may not create objects",
                _unless_refused(connection, "REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
                Section.PRE_DATA,
                first=True,
            )
        )
    made += _functions(connection)
    made += _text_search(connection)
    made += _triggers(connection)
    made += _properties(connection)
    if not plpgsql:
        # The last, since the others are blocks of it.
        made.append(
            Adjustment(
                "extension plpgsql, which the source has not",
                _unless_refused(connection, "DROP EXTENSION IF EXISTS plpgsql"),
                Section.POST_DATA,
            )
        )
    return made


def _functions(connection: Connection) -> Iterator[Adjustment]:
    for name, definition, extension, is_plain in connection.execute(_FUNCTIONS).fetchall():
        yield Adjustment(
            f"function {name}",
            _unless_refused(connection, definition),
            Section.PRE_DATA,
            after=None if extension is None else ("EXTENSION", extension),
            first=is_plain,
        )


def _text_search(connection: Connection) -> Iterator[Adjustment]:
    for name, options, extension in connection.execute(_DICTIONARIES).fetchall():
        yield Adjustment(
            f"text search dictionary {name}",
            _unless_refused(connection, f"ALTER TEXT SEARCH DICTIONARY {name} ({options})"),
            Section.PRE_DATA,
            after=None if extension is None else ("EXTENSION", extension),
        )
    for name, tokens, mappings in connection.execute(_CONFIGURATIONS).fetchall():
        alter = f"ALTER TEXT SEARCH CONFIGURATION {name}"
        yield Adjustment(
            f"text search configuration {name}",
            _unless_refused(
                connection,
                f"{alter} DROP MAPPING IF EXISTS FOR {', '.join(tokens)}",
                *(f"{alter} ADD MAPPING FOR {mapping}" for mapping in mappings or ()),
            ),
            Section.PRE_DATA,
        )


def _properties(connection: Connection) -> Iterator[Adjustment]:
    """Yield what is set by a statement of its own, when everything is there."""
    statements: list[tuple[str, str]] = [
        (f"check {name} of {table}", f"ALTER TABLE ONLY {table} VALIDATE CONSTRAINT {name}")
        for table, name in connection.execute(_VALIDATED).fetchall()
    ]
    for name, restricts, restriction, joins, join in connection.execute(_OPERATORS).fetchall():
        settings = (
            f"RESTRICT = {restriction if restricts else 'NONE'}, JOIN = {join if joins else 'NONE'}"
        )
        statements.append((f"operator {name}", f"ALTER OPERATOR {name} SET ({settings})"))
    granted: dict[str, list[sql.Composable]] = {}
    for language, grantee, grantable in connection.execute(_LANGUAGES).fetchall():
        on = sql.SQL("ON LANGUAGE {}").format(sql.Identifier(language))
        some = granted.setdefault(language, [sql.SQL("REVOKE ALL {} FROM PUBLIC").format(on)])
        if grantable is None:
            continue  # it is the owner's alone
        role = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
        some.append(
            sql.SQL("GRANT ALL {} TO {}" + (" WITH GRANT OPTION" if grantable else "")).format(
                on, role
            )
        )
    statements += [
        (f"privileges on language {language}", statement.as_string(connection))
        for language, some in granted.items()
        for statement in some
    ]
    changed_owners = f"SELECT q.kind, q.name, q.role FROM ({owned()}) q WHERE q.is_changed"
    for kind, name, role in connection.execute(changed_owners).fetchall():
        owner = sql.Identifier(role).as_string(connection)
        alter = f"ALTER {COMMENTABLE.get(kind, kind.upper())} {name} OWNER TO {owner}"
        statements.append((f"owner of {kind} {name}", alter))
    for kind, name, said in connection.execute(COMMENTS.replace("{chosen}", COMMENTED)).fetchall():
        if kind in COMMENTABLE:
            comment = sql.Literal(said).as_string(connection)
            say = f"COMMENT ON {COMMENTABLE[kind]} {name} IS {comment}"
            statements.append((f"comment on {kind} {name}", say))
    for tag, text in statements:
        yield Adjustment(tag, _unless_refused(connection, text), Section.POST_DATA)


def _triggers(connection: Connection) -> Iterator[Adjustment]:
    for table, owner, constraint, function, state in connection.execute(_TRIGGERS).fetchall():
        # The triggers' own names have OIDs in them.
        found = sql.SQL(
            "SELECT 'ALTER TABLE ONLY ' || g.tgrelid::pg_catalog.regclass::pg_catalog.text || {} "
            "|| pg_catalog.quote_ident(g.tgname) FROM pg_catalog.pg_trigger g "
            "JOIN pg_catalog.pg_constraint k ON k.oid = g.tgconstraint "
            "JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid "
            "WHERE g.tgrelid = {}::pg_catalog.regclass AND k.conrelid = {}::pg_catalog.regclass "
            "AND {} AND f.proname = {}"
        ).format(
            sql.Literal(f" {state} TRIGGER "),
            sql.Literal(table),
            sql.Literal(owner),
            sql.SQL("k.conparentid <> 0")
            if constraint is None
            else sql.SQL("k.conname = {}").format(sql.Literal(constraint)),
            sql.Literal(function),
        )
        yield Adjustment(
            f"triggers of {owner} {constraint or 'of a partition'}",
            _block(
                connection,
                f"FOR s IN {found.as_string(connection)} LOOP EXECUTE s; END LOOP;",
            ),
            Section.POST_DATA,
        )


def _unless_refused(connection: Connection, *statements: str) -> str:
    return _block(
        connection,
        " ".join(
            f"EXECUTE {sql.Literal(statement).as_string(connection)};" for statement in statements
        ),
    )


def _block(connection: Connection, body: str) -> str:
    """Return a statement that runs some of PL/pgSQL, and goes on where that can't be done here."""
    block = (
        f"DECLARE s pg_catalog.text; BEGIN {body} "
        "EXCEPTION WHEN others THEN "
        "RAISE WARNING 'not put back as in the source: %', SQLERRM; END"
    )
    return f"DO LANGUAGE plpgsql {sql.Literal(block).as_string(connection)};"
