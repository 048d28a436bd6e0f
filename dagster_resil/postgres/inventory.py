"""A database's inventory: what a dump of its schema does not show, or could hide.

Definitions themselves (of tables, views, checks, indexes…) are compared as pg_dump writes them, in
:mod:`dagster_resil.verify.schema`. Here are existence, owners, grants and flags, read straight from
the catalogues. Objects of extensions are left out: the extension, with its version, stands for
them. System schemas are left out too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from dagster_resil.postgres.connection import Connection
from dagster_resil.records.inventory import Inventory, Item, LargeObjects, SequenceValue
from dagster_resil.records.text import is_readable, shown

_AROUND = {"ROLE MEMBERSHIP", "ROLE SETTING", "DATABASE SETTING"}
_UNREADABLE_WORD = re.compile(r" ?[^ ,]*[\ud800-\udfff][^ ,]*")
_CHUNK_BYTES = 16 << 20
"""How much of a large object is in the server's memory at once."""
_LARGE_OBJECTS_AT_ONCE = 1000
_SEQUENCES_AT_ONCE = 200

EXTENSION_VERSION = "EXTENSION VERSION"
"""The kind of a difference in nothing but an extension's version, which is the server's matter."""


@dataclass(frozen=True)
class SchemaDifference:
    """Something that is not as in the source.

    :param kind: the kind of object, in pg_dump's words ("FK CONSTRAINT", "TRIGGER"…).
    :param what: "missing", "unexpected" or "different".
    :param detail: how it differs; may have several lines.
    """

    kind: str
    identity: str
    what: str
    detail: str = ""

    def __str__(self) -> str:
        head = " ".join(part for part in (self.kind, self.identity) if part)
        text = f"{head.replace(chr(10), chr(92) + 'n')}: {self.what}"
        return shown(f"{text}: {self.detail}" if self.detail else text)


_OF_TEMPLATE0 = (("COMMENT", "schema public"), ("COMMENT", "extension plpgsql"))
"""Comments on what every new database has, and a source may have made anew: only there do they
count as users'. pg_dump's text has them."""


@dataclass(frozen=True)
class AvailableExtension:
    """An extension that a server can create: the version that it would take, and all of them."""

    default: str | None
    versions: frozenset[str]


# Not of an extension, and not in a system schema.
_OWN = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = {catalog}"
    "::pg_catalog.regclass AND x.objid = {oid} AND x.deptype = 'e') "
    "AND {schema} !~ '^pg_' AND {schema} <> 'information_schema'"
)


def _own(catalog: str, oid: str, schema: str) -> str:
    return _OWN.format(catalog=f"'pg_catalog.{catalog}'", oid=oid, schema=schema)


def _acl(column: str, kind: str, owner: str) -> str:
    """Return SQL for grants as sorted text. No entry means the default, so it is spelled out.

    Who granted is left out: it is the owner or a superuser, and differs after a restore.
    """
    return (
        "(SELECT pg_catalog.string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END || '=' || "
        "a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ' ' "
        "ORDER BY CASE a.grantee WHEN 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END || '=' || "
        "a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END) "
        f"FROM pg_catalog.aclexplode(COALESCE({column}, "
        f"pg_catalog.acldefault('{kind}', {owner}))) a)"
    )


def _owner(column: str) -> str:
    return f"'owner ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid({column}))"


_NAME = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident({})"
_RELATION_KIND = (
    "CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'TABLE' WHEN 'v' THEN 'VIEW' "
    "WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' "
    "WHEN 'c' THEN 'TYPE' ELSE c.relkind::pg_catalog.text END"
)


def _queries(version: int) -> dict[str, str]:
    """Return a query for each part: kind, identity, properties."""
    relation_name = _NAME.format("c.relname")
    own_relation = _own("pg_class", "c.oid", "n.nspname")
    role = 'r.rolname::pg_catalog.text COLLATE pg_catalog."C"'
    queries = {
        "extensions": (
            "SELECT 'EXTENSION', e.extname, 'version ' || e.extversion || ', schema ' || "
            "pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e "
            "JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
        ),
        "schemas": (
            # Before 15 public belongs to the bootstrap role, whose name the scratch server shares.
            f"SELECT 'SCHEMA', n.nspname, {_owner('n.nspowner')} || ', ' || "
            f"COALESCE({_acl('n.nspacl', 'n', 'n.nspowner')}, '') FROM pg_catalog.pg_namespace n "
            f"WHERE {_own('pg_namespace', 'n.oid', 'n.nspname')}"
        ),
        "relations": (
            f"SELECT {_RELATION_KIND}, {relation_name}, {_owner('c.relowner')} || ', ' || "
            "c.relpersistence::pg_catalog.text "
            "|| CASE WHEN c.relrowsecurity THEN ', row security' ELSE '' END "
            "|| CASE WHEN c.relforcerowsecurity THEN ', forced' ELSE '' END "
            "|| CASE WHEN c.relkind = 'm' THEN CASE WHEN c.relispopulated THEN ', populated' "
            "ELSE ', not populated' END ELSE '' END "
            "|| CASE WHEN c.relkind IN ('r', 'm') THEN ', access ' || "
            "COALESCE((SELECT amname FROM pg_catalog.pg_am WHERE oid = c.relam), '') "
            "|| ', identity ' || c.relreplident::pg_catalog.text ELSE '' END "
            "|| COALESCE(', ' || (SELECT pg_catalog.string_agg(o, ' ' ORDER BY o) "
            "FROM pg_catalog.unnest(c.reloptions) o), '') || ', ' || COALESCE(CASE WHEN c.relkind "
            f"= 'S' THEN {_acl('c.relacl', 's', 'c.relowner')} "
            f"ELSE {_acl('c.relacl', 'r', 'c.relowner')} END, '') "
            "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND c.relpersistence <> 't' "
            f"AND {own_relation}"
        ),
        "columns": (
            f"SELECT 'COLUMN', {relation_name} || '.' || pg_catalog.quote_ident(a.attname), "
            "'type ' || pg_catalog.format_type(a.atttypid, a.atttypmod) "
            "|| CASE WHEN a.attnotnull THEN ', not null' ELSE '' END "
            "|| CASE WHEN a.atthasdef THEN ', default' ELSE '' END "
            "|| CASE WHEN a.attidentity <> '' THEN ', identity ' || a.attidentity::pg_catalog.text "
            "ELSE '' END "
            "|| CASE WHEN a.attgenerated <> '' THEN ', generated ' || "
            "a.attgenerated::pg_catalog.text ELSE '' END || ', storage ' || "
            "a.attstorage::pg_catalog.text || ', collation ' || "
            "COALESCE((SELECT collname FROM pg_catalog.pg_collation WHERE oid = a.attcollation), "
            f"'') || COALESCE(', ' || CASE WHEN a.attacl IS NULL THEN NULL "
            f"ELSE {_acl('a.attacl', 'c', 'c.relowner')} END, '') "
            "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'c') "
            f"AND c.relpersistence <> 't' AND {own_relation}"
        ),
        "indexes": (
            # An index that is invalid in the source is in no dump, so it is not expected.
            f"SELECT 'INDEX', {_NAME.format('i.relname')}, 'on ' || {relation_name} "
            "|| CASE WHEN x.indisprimary THEN ', primary' ELSE '' END "
            "|| CASE WHEN x.indisunique THEN ', unique' ELSE '' END "
            "|| CASE WHEN x.indisexclusion THEN ', exclusion' ELSE '' END "
            "|| CASE WHEN x.indisclustered THEN ', clustered' ELSE '' END "
            "|| CASE WHEN x.indisreplident THEN ', replica identity' ELSE '' END "
            "FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid "
            "JOIN pg_catalog.pg_class c ON c.oid = x.indrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE (x.indisvalid AND x.indisready OR c.relkind = 'p') AND c.relkind <> 't' "
            f"AND c.relpersistence <> 't' AND {own_relation}"
        ),
        "constraints": (
            # The names of NOT NULL constraints (18) are made up by the server where none is given.
            "SELECT CASE k.contype WHEN 'f' THEN 'FK CONSTRAINT' WHEN 'c' THEN 'CHECK CONSTRAINT' "
            "ELSE 'CONSTRAINT' END, COALESCE("
            f"(SELECT {relation_name} FROM pg_catalog.pg_class c WHERE c.oid = k.conrelid), "
            "pg_catalog.format_type(k.contypid, NULL)) || ' ' || "
            "pg_catalog.quote_ident(k.conname), k.contype::pg_catalog.text "
            "|| CASE WHEN k.convalidated THEN '' ELSE ', not validated' END "
            "|| CASE WHEN k.condeferrable THEN ', deferrable' ELSE '' END "
            "|| CASE WHEN k.condeferred THEN ', deferred' ELSE '' END "
            "FROM pg_catalog.pg_constraint k "
            "JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace "
            "LEFT JOIN pg_catalog.pg_class c0 ON c0.oid = k.conrelid "
            "WHERE k.contype <> 'n' AND (k.conrelid <> 0 OR k.contypid <> 0) "
            "AND COALESCE(c0.relpersistence, 'p') <> 't' "
            f"AND {_own('pg_class', 'k.conrelid', 'n.nspname')} "
            f"AND {_own('pg_type', 'k.contypid', 'n.nspname')}"
        ),
        "triggers": (
            f"SELECT 'TRIGGER', {relation_name} || ' ' || pg_catalog.quote_ident(t.tgname), "
            "'enabled ' || t.tgenabled::pg_catalog.text || ', calls ' || "
            "t.tgfoid::pg_catalog.regprocedure::pg_catalog.text || ', type ' || t.tgtype "
            "FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE NOT t.tgisinternal AND {own_relation}"
        ),
        "rules": (
            f"SELECT 'RULE', {relation_name} || ' ' || pg_catalog.quote_ident(r.rulename), "
            "'enabled ' || r.ev_enabled::pg_catalog.text || ', on ' || "
            "r.ev_type::pg_catalog.text FROM pg_catalog.pg_rewrite r "
            "JOIN pg_catalog.pg_class c ON c.oid = r.ev_class "
            f"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {own_relation}"
        ),
        "event triggers": (
            f"SELECT 'EVENT TRIGGER', e.evtname, {_owner('e.evtowner')} || ', on ' || e.evtevent "
            "|| ', enabled ' || e.evtenabled::pg_catalog.text || ', calls ' || "
            "e.evtfoid::pg_catalog.regprocedure::pg_catalog.text "
            "FROM pg_catalog.pg_event_trigger e "
            f"WHERE {_own('pg_event_trigger', 'e.oid', chr(39) + chr(39))}"
        ),
        "policies": (
            f"SELECT 'POLICY', {relation_name} || ' ' || pg_catalog.quote_ident(p.polname), "
            "'for ' || p.polcmd::pg_catalog.text || CASE WHEN p.polpermissive "
            "THEN ', permissive' ELSE ', restrictive' END || ', to ' || "
            "(SELECT pg_catalog.string_agg(CASE r WHEN 0 THEN 'PUBLIC' "
            "ELSE pg_catalog.pg_get_userbyid(r) END, ' ' ORDER BY pg_catalog.pg_get_userbyid(r)) "
            "FROM pg_catalog.unnest(p.polroles) r) FROM pg_catalog.pg_policy p "
            "JOIN pg_catalog.pg_class c ON c.oid = p.polrelid "
            f"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {own_relation}"
        ),
        "functions": (
            "SELECT CASE f.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' "
            "ELSE 'FUNCTION' END, f.oid::pg_catalog.regprocedure::pg_catalog.text, "
            f"{_owner('f.proowner')} || ', language ' || (SELECT lanname FROM "
            "pg_catalog.pg_language WHERE oid = f.prolang) || ', ' || "
            "f.provolatile::pg_catalog.text || f.proparallel::pg_catalog.text "
            "|| CASE WHEN f.prosecdef THEN ', security definer' ELSE '' END "
            "|| CASE WHEN f.proleakproof THEN ', leakproof' ELSE '' END "
            "|| ', body ' || pg_catalog.md5(f.prosrc) "
            "|| COALESCE(', ' || pg_catalog.array_to_string(f.proconfig, ' '), '') || ', ' || "
            f"COALESCE({_acl('f.proacl', 'f', 'f.proowner')}, '') FROM pg_catalog.pg_proc f "
            "JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace "
            f"WHERE {_own('pg_proc', 'f.oid', 'n.nspname')}"
        ),
        "types": (
            f"SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, "
            f"{_NAME.format('t.typname')}, {_owner('t.typowner')} || ', ' || "
            "t.typtype::pg_catalog.text || COALESCE(' ' || "
            "(SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ' ' "
            "ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '') "
            f"|| ', ' || COALESCE({_acl('t.typacl', 'T', 't.typowner')}, '') "
            "FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace "
            "WHERE t.typtype IN ('d', 'e', 'r', 'b') AND t.typelem = 0 "
            f"AND {_own('pg_type', 't.oid', 'n.nspname')}"
        ),
        "default privileges": (
            "SELECT 'DEFAULT ACL', pg_catalog.quote_ident(pg_catalog.pg_get_userbyid("
            "d.defaclrole)) || COALESCE(' in ' || n.nspname, '') || ' on ' || "
            "d.defaclobjtype::pg_catalog.text, COALESCE("
            f"{_acl('d.defaclacl', 'r', 'd.defaclrole')}, '') FROM pg_catalog.pg_default_acl d "
            "LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace"
        ),
        "comments": (
            # A constraint's identity may hold a name that the server made up; its text is enough.
            "SELECT 'COMMENT', i.type || ' ' || i.identity, pg_catalog.md5(d.description) "
            "FROM pg_catalog.pg_description d, "
            "pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) i "
            # 2200 is schema public, which may have got another name. A large object has the number
            # that whoever made it has chosen.
            "WHERE (d.objoid >= 16384 OR d.objoid = 2200 AND d.classoid = "
            "'pg_catalog.pg_namespace'::pg_catalog.regclass OR d.classoid = "
            "'pg_catalog.pg_largeobject'::pg_catalog.regclass) "
            "AND i.identity !~ '^pg_(temp|toast)' "
            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = d.classoid "
            "AND x.objid = d.objoid AND x.deptype = 'e')"
        ),
        "security labels": (
            "SELECT 'SECURITY LABEL', l.objtype || ' ' || l.objname, l.provider || ' ' || l.label "
            "FROM pg_catalog.pg_seclabels l WHERE l.objoid >= 16384"
        ),
        "publications": (
            f"SELECT 'PUBLICATION', p.pubname, {_owner('p.pubowner')} || "
            "CASE WHEN p.puballtables THEN ', all tables' ELSE '' END || ', ' || "
            "COALESCE((SELECT pg_catalog.string_agg(pg_catalog.quote_ident(t.schemaname) || '.' "
            "|| pg_catalog.quote_ident(t.tablename), ' ' ORDER BY t.schemaname, t.tablename) "
            "FROM pg_catalog.pg_publication_tables t WHERE t.pubname = p.pubname), '') "
            "FROM pg_catalog.pg_publication p"
        ),
        "foreign servers": (
            f"SELECT 'SERVER', s.srvname, {_owner('s.srvowner')} || ', wrapper ' || w.fdwname "
            f"|| ', ' || COALESCE({_acl('s.srvacl', 'S', 's.srvowner')}, '') "
            "FROM pg_catalog.pg_foreign_server s "
            "JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw "
            f"WHERE {_own('pg_foreign_server', 's.oid', chr(39) + chr(39))}"
        ),
        "user mappings": (
            # Option values may be passwords: not even their hashes are kept.
            "SELECT 'USER MAPPING', COALESCE(u.usename, 'PUBLIC') || ' on ' || u.srvname, '' "
            "FROM pg_catalog.pg_user_mappings u"
        ),
        "statistics": (
            f"SELECT 'STATISTICS', {_NAME.format('s.stxname')}, {_owner('s.stxowner')} || ', ' || "
            "pg_catalog.array_to_string(s.stxkind, '') FROM pg_catalog.pg_statistic_ext s "
            "JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace "
            f"WHERE {_own('pg_statistic_ext', 's.oid', 'n.nspname')}"
        ),
        "large objects": (
            f"SELECT 'LARGE OBJECT', m.oid::pg_catalog.text, {_owner('m.lomowner')} || ', ' || "
            f"COALESCE({_acl('m.lomacl', 'L', 'm.lomowner')}, '') "
            "FROM pg_catalog.pg_largeobject_metadata m"
        ),
        "settings": (
            # One of every role in every database is about the server, as a role's own are.
            "SELECT CASE WHEN s.setrole = 0 AND s.setdatabase <> 0 THEN 'DATABASE SETTING' "
            "ELSE 'ROLE SETTING' END, COALESCE(r.rolname, CASE WHEN s.setdatabase = 0 THEN 'ALL' "
            "ELSE '' END) || CASE WHEN s.setdatabase = 0 THEN '' ELSE ' here' END "
            "|| ' ' || pg_catalog.split_part(c, '=', 1), c "
            "FROM pg_catalog.pg_db_role_setting s CROSS JOIN pg_catalog.unnest(s.setconfig) c "
            "LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole "
            "WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = "
            "pg_catalog.current_database())) AND COALESCE(r.rolname, '') !~ '^pg_'"
        ),
        "database": (
            f"SELECT 'DATABASE', '', {_owner('d.datdba')} || ', ' || "
            f"COALESCE({_acl('d.datacl', 'd', 'd.datdba')}, '') || ', limit ' || d.datconnlimit "
            "|| ', comment ' || COALESCE(pg_catalog.md5(pg_catalog.shobj_description(d.oid, "
            "'pg_database')), '') FROM pg_catalog.pg_database d "
            "WHERE d.datname = pg_catalog.current_database()"
        ),
        "memberships": (
            # From 16 on a role may be granted by several grantors, which a restore makes one.
            f"SELECT 'ROLE MEMBERSHIP', m.rolname, pg_catalog.array_agg(DISTINCT {role} "
            f"ORDER BY {role}) FROM pg_catalog.pg_auth_members a "
            "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
            "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
            "WHERE NOT (r.rolname ~ '^pg_' AND m.rolname ~ '^pg_') "
            "GROUP BY m.rolname"
        ),
    }
    del version  # every query reads what versions 12 to 18 have in common
    return queries


def _membership_options(version: int) -> str:
    """Return the query for what each membership allows, whoever has granted it."""
    options = {"admin": "admin_option"}
    if version >= 160000:
        options |= {"inherit": "inherit_option", "set": "set_option"}
    words = ", ".join(
        f"CASE WHEN pg_catalog.bool_or(a.{column}) THEN '{word}' END"
        for word, column in options.items()
    )
    return (
        "SELECT 'ROLE MEMBERSHIP', m.rolname || ' of ' || r.rolname, "
        f"pg_catalog.concat_ws(' ', 'with', {words}) FROM pg_catalog.pg_auth_members a "
        "JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
        "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
        "WHERE NOT (r.rolname ~ '^pg_' AND m.rolname ~ '^pg_') "
        "GROUP BY m.rolname, r.rolname"
    )


def take_inventory(connection: Connection) -> Inventory:
    """Return the inventory of the connected database, as the transaction's snapshot shows it."""
    version = connection.info.server_version
    return Inventory(
        items=_read_items(connection, _queries(version).values()),
        membership_options=_read_items(connection, [_membership_options(version)]),
        all_comments=True,
    )


def _read_items(connection: Connection, queries: Iterable[str]) -> tuple[Item, ...]:
    items = []
    for query in queries:
        for kind, identity, properties in connection.execute(query):
            if isinstance(properties, list):  # of roles
                roles = [role for role in properties if is_readable(role)]
                properties = f"of {' '.join(roles)}" if roles else None
            # globals.sql has no roles of other databases whose names are not in this one's
            # encoding, and no settings that are not.
            if kind == "DATABASE":
                properties = _UNREADABLE_WORD.sub("", properties)
                if not _comment_is_readable(connection):
                    properties = properties.rpartition(", comment ")[0] + ", comment "
            if kind not in _AROUND or (properties and is_readable(identity + properties)):
                items.append(Item(kind=kind, identity=identity, properties=properties or ""))
    return tuple(sorted(items, key=lambda item: (item.kind, item.identity, item.properties)))


def _comment_is_readable(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    return row is None or row[0] is None or is_readable(row[0])


def compare_inventories(source: Inventory, restored: Inventory) -> list[SchemaDifference]:
    """Return what of the source's inventory is missing, different or too much."""
    wanted, found = _by_identity(source.items), _by_identity(restored.items)
    for key in _OF_TEMPLATE0:
        wanted.pop(key, None)
        found.pop(key, None)
    if source.membership_options:
        wanted |= _by_identity(source.membership_options)
        found |= _by_identity(restored.membership_options)
    differences = []
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) == found.get(key):
            continue
        if key[0] == EXTENSION_VERSION and not (key in found and key in wanted):
            continue  # so is the extension
        if not source.all_comments and key not in wanted and _is_of_low_large_object(key):
            continue  # the release that took the backup did not list it
        if key not in found:
            what, detail = "missing", ""
        elif key not in wanted:
            what, detail = "unexpected", ""
        else:
            what = "different"
            detail = f"is {', '.join(found[key])}; in the source {', '.join(wanted[key])}"
        differences.append(SchemaDifference(key[0], key[1], what, detail))
    return differences


def _is_of_low_large_object(key: tuple[str, str]) -> bool:
    kind, identity = key
    number = identity.removeprefix("large object ")
    return kind == "COMMENT" and number.isdecimal() and int(number) < 16384


def available_extensions(connection: Connection) -> dict[str, AvailableExtension]:
    """Return the extensions that the server can create, by their names."""
    return {
        name: AvailableExtension(default, frozenset(versions))
        for name, default, versions in connection.execute(
            "SELECT e.name, e.default_version, pg_catalog.array_agg(v.version) "
            "FROM pg_catalog.pg_available_extensions e "
            "JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.name GROUP BY 1, 2"
        )
    }


def _by_identity(items: Iterable[Item]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for item in items:
        properties = item.properties
        if item.kind == "EXTENSION":
            version, _, properties = properties.partition(", ")
            found[EXTENSION_VERSION, item.identity] = [version]
        if item.kind == "ROLE MEMBERSHIP":
            # Earlier releases named a role once for each of its grantors.
            properties = " ".join(dict.fromkeys(properties.split(" ")))
        found.setdefault((item.kind, item.identity), []).append(properties)
    return {key: sorted(values) for key, values in found.items()}


def read_sequences(connection: Connection) -> list[SequenceValue]:
    """Return where every sequence stands now whose value is in a dump."""
    sequences = connection.execute(
        "SELECT n.nspname, c.relname, s.seqincrement, s.seqcycle FROM pg_catalog.pg_sequence s "
        "JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relpersistence <> 't' AND ("
        + _own("pg_class", "c.oid", "n.nspname")
        # What an extension has declared its configuration is dumped. What initdb made is not.
        + " OR EXISTS (SELECT FROM pg_catalog.pg_extension e "
        "WHERE e.oid >= 16384 AND c.oid = ANY (e.extconfig))) ORDER BY 1, 2"
    ).fetchall()
    values: list[SequenceValue] = []
    for first in range(0, len(sequences), _SEQUENCES_AT_ONCE):
        some = sequences[first : first + _SEQUENCES_AT_ONCE]
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("(SELECT {}::int, last_value, is_called FROM {})").format(
                sql.Literal(number), sql.Identifier(schema, name)
            )
            for number, (schema, name, _, _) in enumerate(some)
        )
        for number, last_value, is_called in connection.execute(query).fetchall():
            schema, name, increment, cycle = some[number]
            values.append(
                SequenceValue(
                    schema_name=schema,
                    name=name,
                    last_value=last_value,
                    is_called=is_called,
                    increment=increment,
                    cycle=cycle,
                )
            )
    return values


def read_large_objects(connection: Connection) -> LargeObjects:
    """Return the large objects with their sizes, and a fingerprint of what they hold.

    The fingerprint is the sum, over pieces of 16 MiB, of a 64-bit hash of the object's OID, the
    piece's offset and its MD5. The connection has to be in a transaction.
    """
    oids = [
        row[0]
        for row in connection.execute(
            "SELECT oid FROM pg_catalog.pg_largeobject_metadata ORDER BY oid"
        )
    ]
    sizes: list[tuple[int, int]] = []
    fingerprint = 0
    for first in range(0, len(oids), _LARGE_OBJECTS_AT_ONCE):
        some = oids[first : first + _LARGE_OBJECTS_AT_ONCE]
        # 0x40000 is INV_READ, 2 is SEEK_END.
        opened = connection.execute(
            "SELECT s.o, s.fd, pg_catalog.lo_lseek64(s.fd, 0, 2) FROM "
            "(SELECT o, pg_catalog.lo_open(o, 262144) AS fd "
            "FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS o OFFSET 0) s",
            [some],
        ).fetchall()
        connection.execute(
            "SELECT pg_catalog.lo_close(fd) FROM pg_catalog.unnest(%s::int[]) AS fd",
            [[row[1] for row in opened]],
        )
        sizes += [(oid, size) for oid, _, size in opened]
        row = connection.execute(
            "SELECT COALESCE(pg_catalog.sum(pg_catalog.hashtextextended(s.o || ':' || p || ':' || "
            "pg_catalog.md5(pg_catalog.lo_get(s.o, p, %s)), 0)), 0) "
            "FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), "
            "pg_catalog.unnest(%s::pg_catalog.int8[])) AS s (o, size), "
            "pg_catalog.generate_series(0, GREATEST(s.size - 1, 0), %s) AS p",
            [
                _CHUNK_BYTES,
                [oid for oid, _, _ in opened],
                [size for _, _, size in opened],
                _CHUNK_BYTES,
            ],
        ).fetchone()
        fingerprint += int(row[0]) if row else 0
    return LargeObjects(
        count=len(oids),
        bytes=sum(size for _, size in sizes),
        fingerprint=str(fingerprint),
        sizes=tuple(sizes),
    )
