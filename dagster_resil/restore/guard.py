"""What has to hold before anything is restored into a database."""

from __future__ import annotations

from dagster_resil.errors import ConfigurationError, TargetRefused
from dagster_resil.postgres.connection import Connection
from dagster_resil.postgres.identity import read_identity
from dagster_resil.records.manifest import Manifest, Source

_HELD = """
SELECT 'relation', n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.objid = c.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)
UNION ALL
SELECT 'function', n.nspname || '.' || p.proname
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.objid = p.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
UNION ALL
SELECT 'type', n.nspname || '.' || t.typname
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND t.typtype IN ('d', 'e', 'r')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.objid = t.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass)
UNION ALL
SELECT 'schema', n.nspname FROM pg_catalog.pg_namespace n
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.objid = n.oid AND d.deptype = 'e'
                      AND d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass)
UNION ALL
SELECT 'large object', oid::pg_catalog.text FROM pg_catalog.pg_largeobject_metadata
LIMIT 6
"""
_SHOWN = 5


def check_target(connection: Connection, manifest: Manifest, *, replace: str | None) -> Source:
    """Check that a backup may be restored into the connected database.

    :param replace: the database's name, typed again, when what it holds may be dropped.
    :return: the target's identity.
    :raises TargetRefused: it holds something, or is the source itself.
    :raises ConfigurationError: it can't take this backup.
    """
    target = read_identity(connection)
    source = manifest.source
    held = connection.execute(_HELD).fetchall()
    if held:
        named = ", ".join(f"{kind} {name}" for kind, name in held[:_SHOWN])
        named += "…" if len(held) > _SHOWN else ""
        if (
            target.system_identifier is not None
            and target.system_identifier == source.system_identifier
            and target.database == source.database
        ):
            raise TargetRefused(
                f"the target is the source itself, database {target.database!r}, and it holds "
                f"{named}",
                hint="restore into a new database on that server, check it, and then rename both "
                "databases",
            )
        if replace is None:
            raise TargetRefused(
                f"the target database {target.database!r} is not empty: it holds {named}",
                hint="make a new one (createdb --template=template0 NAME), or, to have it "
                f"overwritten, give its name, {target.database}, as setting replace",
            )
        if replace != target.database:
            raise TargetRefused(
                f"the database to be overwritten was named {replace!r}, but the target database is "
                f"{target.database!r}",
                hint="type the name of the database whose contents may be dropped",
            )
    if target.major < source.major:
        raise ConfigurationError(
            f"the target server is version {target.server_version}, older than the backup's "
            f"{source.server_version}",
            hint=f"restore into a server of version {source.major} or later",
        )
    if target.encoding != source.encoding:
        raise ConfigurationError(
            f"the target database has encoding {target.encoding}, the backup {source.encoding}",
            hint=f"createdb --template=template0 --encoding={source.encoding} NAME",
        )
    return target
