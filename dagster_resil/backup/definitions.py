"""Whether any definition was changed while a backup ran.

The snapshot's locks hold tables still, and nothing else: a function, a view's owner or a comment
may change under it, and pg_dump writes what it finds at that moment. So the archive, the schema to
compare with and the inventory might each show another state, and the comparison would be a false
alarm.
"""

from __future__ import annotations

from psycopg import sql

from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.session import prepare_session

# What changes all the time and defines nothing: statistics, large objects, dependencies.
_CATALOGUES = """
SELECT c.oid, c.relname FROM pg_catalog.pg_class c
 WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND c.relkind = 'r'
   AND NOT c.relisshared AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
   AND c.relname NOT IN ('pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject',
                         'pg_largeobject_metadata', 'pg_depend')
 ORDER BY c.relname
"""

State = tuple[tuple[int, int], ...]
"""Of each catalogue the number of its rows, and the sum of the transactions that wrote them: an
insert, update or delete makes one or the other another, since a later transaction has a higher
number."""


def read_state(endpoint: Endpoint) -> State:
    """Return the state of all definitions as of now, not as of a snapshot.

    Equal states are equal definitions; with other ones they may be equal too (a temporary table
    came and went).

    :raises SourceUnreachable: no connection.
    """
    with endpoint.connect(autocommit=True, application_name="dagster_resil definitions") as session:
        prepare_session(session, gentle=True)
        names = [row[1] for row in session.execute(_CATALOGUES)]
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL(
                "SELECT {}::pg_catalog.int4 AS n, pg_catalog.count(*), COALESCE(pg_catalog.sum("
                "xmin::pg_catalog.text::pg_catalog.int8), 0)::pg_catalog.int8 FROM pg_catalog.{}"
            ).format(sql.Literal(number), sql.Identifier(name))
            for number, name in enumerate(names)
        )
        query += sql.SQL(
            " UNION ALL SELECT -1, pg_catalog.count(*), COALESCE(pg_catalog.sum("
            "pg_catalog.hashtext(rolname || ' ' || oid)), 0) FROM pg_catalog.pg_roles ORDER BY 1"
        )
        return tuple((rows, writers) for _, rows, writers in session.execute(query))
