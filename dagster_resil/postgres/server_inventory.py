"""What lies around a database, and how two servers differ in it.

Roles, tablespaces, grants on parameters, and whether the database is a template: what a backup's
``globals.sql`` makes. The queries share nothing with what writes that file. Memberships and
settings are in the database's own inventory, beside its owner, grants and limit.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.inventory import SchemaDifference
from dagster_resil.postgres.quoting import escaped
from dagster_resil.records.inventory import Item
from dagster_resil.records.text import is_readable

SERVER_KINDS = frozenset({"ROLE", "PARAMETER", "TABLESPACE"})
"""What all databases of a server share."""

_Lines = dict[tuple[str, str], list[str]]
_FLAGS = {
    "rolsuper": "SUPERUSER",
    "rolinherit": "INHERIT",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolcanlogin": "LOGIN",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}
INITIAL_ROLE = (*_FLAGS.values(), "CONNECTION LIMIT -1")
"""The attributes that the bootstrap role has in every new server."""
_COMMENT = "comment "
_LOCATION = "location "


def take_server_inventory(connection: Connection) -> tuple[Item, ...]:
    """Return what lies around the connected database, as the transaction's snapshot shows it.

    What is not valid in the database's encoding is not in ``globals.sql`` either, so it is left
    out. Passwords are not looked at.

    :param connection: with ISO dates, in UTC.
    """

    def fits(*texts: str | None) -> bool:
        return all(text is None or is_readable(text) for text in texts)

    found: _Lines = {}
    for name, predefined, *flags, limit, until, comment in connection.execute(
        # starts_with() refuses a name that is not valid in the database's encoding.
        f"SELECT rolname, rolname OPERATOR(pg_catalog.~) '^pg_', "
        f"{', '.join(_FLAGS)}, rolconnlimit, rolvaliduntil::pg_catalog.text, "
        "(SELECT c.description FROM pg_catalog.pg_shdescription c WHERE c.objoid = r.oid "
        "AND c.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass) "
        "FROM pg_catalog.pg_roles r"
    ).fetchall():
        lines = []
        if not predefined:
            pairs = zip(flags, _FLAGS.values(), strict=True)
            lines = [word if flag else f"NO{word}" for flag, word in pairs]
            lines.append(f"CONNECTION LIMIT {limit}")
            if until is not None:
                lines.append(f"VALID UNTIL {until}")
        if comment is not None and fits(comment):
            lines.append(_comment(comment))
        if lines and fits(name):
            found["ROLE", name] = lines
    for name, owner, location, options, comment in connection.execute(
        "SELECT t.spcname, (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = t.spcowner), "
        "pg_catalog.pg_tablespace_location(t.oid), t.spcoptions, "
        "(SELECT c.description FROM pg_catalog.pg_shdescription c WHERE c.objoid = t.oid "
        "AND c.classoid = 'pg_catalog.pg_tablespace'::pg_catalog.regclass) "
        "FROM pg_catalog.pg_tablespace t"
    ).fetchall():
        if fits(name, owner, location):
            place = "" if location.startswith("pg_tblspc/") else location
            found["TABLESPACE", name] = [
                f"owner {escaped(owner or '')}",
                _LOCATION + escaped(place),
                *(f"option {escaped(option)}" for option in options or ()),
                *([_comment(comment)] if comment is not None and fits(comment) else []),
            ]
    grants = connection.execute(
        "SELECT t.spcname, r.rolname, a.privilege_type, a.is_grantable "
        "FROM pg_catalog.pg_tablespace t CROSS JOIN LATERAL pg_catalog.aclexplode("
        "COALESCE(t.spcacl, pg_catalog.acldefault('t', t.spcowner))) a "
        "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
    ).fetchall()
    _add_grants(found, "TABLESPACE", (grant for grant in grants if fits(*grant[:2])))
    if connection.info.server_version >= 150000:
        # The bootstrap role has them all, and needs none.
        grants = connection.execute(
            "SELECT p.parname, r.rolname, a.privilege_type, a.is_grantable "
            "FROM pg_catalog.pg_parameter_acl p "
            "CROSS JOIN LATERAL pg_catalog.aclexplode(p.paracl) a "
            "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee WHERE a.grantee <> 10"
        ).fetchall()
        for name in {grant[0] for grant in grants}:
            found["PARAMETER", name] = []
        _add_grants(found, "PARAMETER", (grant for grant in grants if fits(*grant[:2])))
    for (template,) in connection.execute(
        "SELECT datistemplate FROM pg_catalog.pg_database "
        "WHERE datname = pg_catalog.current_database()"
    ).fetchall():
        found["DATABASE", ""] = [f"IS_TEMPLATE {'true' if template else 'false'}"]
    return tuple(
        Item(kind=kind, identity=escaped(name), properties="\n".join(lines))
        for (kind, name), lines in sorted(found.items())
        if lines
    )


def _add_grants(
    found: _Lines, kind: str, grants: Iterable[tuple[str, str | None, str, bool]]
) -> None:
    """Add grants; who has granted them is left out, which a restore makes the owner."""
    granted: defaultdict[str, dict[tuple[str, str], bool]] = defaultdict(dict)
    for name, grantee, privilege, grantable in grants:
        to = "PUBLIC" if grantee is None else f"role {escaped(grantee)}"
        of_name = granted[name]
        of_name[to, privilege] = of_name.get((to, privilege), False) or grantable
    for name, of_name in granted.items():
        if (kind, name) in found:
            found[kind, name] += [
                f"{privilege} to {to}" + (" with grant option" if grantable else "")
                for (to, privilege), grantable in sorted(of_name.items())
            ]


def _comment(text: str) -> str:
    sum_ = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return _COMMENT + sum_[:32]


def changed_bootstrap_role(items: Iterable[Item], name: str) -> bool:
    """Return whether the bootstrap role has other attributes than in a new server."""
    return any(
        tuple(_but_comment(item)) != INITIAL_ROLE
        for item in items
        if (item.kind, item.identity) == ("ROLE", escaped(name))
    )


def _but_comment(item: Item) -> list[str]:
    return [line for line in item.properties.split("\n") if not line.startswith(_COMMENT)]


def compare_server_inventories(
    source: Iterable[Item],
    restored: Iterable[Item],
    *,
    bootstrap_role: str,
    locations: Mapping[str, str] | None,
) -> list[SchemaDifference]:
    """Return what is missing, different or too much around a restored database.

    :param bootstrap_role: is there before a restore, so of it the comment alone is compared.
    :param locations: of tablespaces, by their names, as ``globals.sql`` has them: a scratch server
        has them elsewhere. None where it has no tablespaces.
    """
    where = {escaped(name): escaped(place) for name, place in (locations or {}).items()}

    def lines(item: Item) -> tuple[str, ...]:
        found = item.properties.split("\n")
        if (item.kind, item.identity) == ("ROLE", escaped(bootstrap_role)):
            found = [line for line in found if line.startswith(_COMMENT)]
        return tuple(sorted(found))

    def compared(items: Iterable[Item]) -> dict[tuple[str, str], tuple[str, ...]]:
        return {
            (item.kind, item.identity): lines(item)
            for item in items
            if item.kind != "TABLESPACE" or locations is not None
        }

    wanted = compared(source)
    found = compared(restored)
    for key, having in found.items():
        if key[0] == "TABLESPACE" and key[1] in where:
            found[key] = tuple(
                sorted(
                    _LOCATION + where[key[1]] if line.startswith(_LOCATION) else line
                    for line in having
                )
            )
    differences = []
    for key in sorted(wanted.keys() | found.keys()):
        kind, identity = key
        if key not in found or key not in wanted:
            what = "missing" if key not in found else "unexpected"
            differences.append(SchemaDifference(kind, identity, what))
        elif found[key] != wanted[key]:
            differences.append(
                SchemaDifference(kind, identity, "different", _in_what(found[key], wanted[key]))
            )
    return differences


def _in_what(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    has = [line for line in found if line not in wanted] or ["without"]
    lacks = [line for line in wanted if line not in found] or ["without"]
    return f"is {', '.join(has)}; in the source {', '.join(lacks)}"
