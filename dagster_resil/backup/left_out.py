"""What a database has and its backup has not."""

from __future__ import annotations

from dagster_resil.backup.snapshot import HeldSnapshot
from dagster_resil.postgres.catalogues import comments_left_out
from dagster_resil.postgres.table_of_contents import TableOfContents

# What a login that is no superuser is not shown, as PostgreSQL decides it.
_HIDDEN_MAPPINGS = """
SELECT pg_catalog.count(*) FROM pg_catalog.pg_user_mappings m
  JOIN pg_catalog.pg_foreign_server s ON s.oid = m.srvid
 WHERE m.umoptions IS NULL AND pg_catalog.current_setting('is_superuser') = 'off'
   AND NOT CASE WHEN m.umuser = 0 THEN pg_catalog.pg_has_role(s.srvowner, 'USAGE')
     ELSE m.usename = CURRENT_USER AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE')
       OR pg_catalog.has_server_privilege(s.oid, 'USAGE')) END
"""
_HIDDEN_SUBSCRIPTIONS = """
SELECT pg_catalog.count(subname) FROM pg_catalog.pg_subscription
 WHERE pg_catalog.current_setting('is_superuser') = 'off' AND subdbid =
   (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


def left_out(
    snapshot: HeldSnapshot, toc: TableOfContents, *, cloned: bool, by_own_login: bool
) -> tuple[str, ...]:
    """Return what the database has, or may have, and the backup has not, or has unseen.

    :param toc: the archive's table of contents.
    :param cloned: whether it is a physical copy, without the rows of unlogged tables.
    :param by_own_login: whether the archive lacks what PostgreSQL hides from the login, too.
    """
    found = []
    unlogged = [f"{t.schema}.{t.name}" for t in snapshot.tables if t.is_unlogged]
    if cloned and unlogged:
        found.append(f"rows of unlogged tables, which no clone has: {', '.join(unlogged)}")
    if count := _count(snapshot, _HIDDEN_MAPPINGS):
        found.append(
            f"options of user mappings ({count:,}), a password for example, if they have any: "
            "PostgreSQL shows them only to superusers and to the user itself"
            + ("" if by_own_login else "; the export may have them")
        )
    count = _count(snapshot, _HIDDEN_SUBSCRIPTIONS) - len(list(toc.of_kind("SUBSCRIPTION")))
    if count > 0:
        found.append(f"subscriptions ({count:,}): PostgreSQL shows them only to superusers")
    if commented := comments_left_out(snapshot.connection):
        shown = ", ".join(commented[:3]) + (", …" if len(commented) > 3 else "")
        found.append(f"comments that no statement puts back ({len(commented):,}): {shown}")
    return tuple(found)


def _count(snapshot: HeldSnapshot, query: str) -> int:
    row = snapshot.connection.execute(query).fetchone()
    return int(row[0]) if row else 0
