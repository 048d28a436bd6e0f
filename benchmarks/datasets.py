"""The data sets of the benchmarks: each has a shape that some tool finds hard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dagster_resil.demo.databases import create_database, load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import Server

Fill = Callable[[Endpoint, Programs, float], None]

_ACTIVITY_ROWS = 4_000_000
_EVEN_TABLES = 24
_EVEN_ROWS = 300_000
_WIDE_ROWS = 40_000
_MANY_TABLES = 5_000


@dataclass(frozen=True)
class DataSet:
    """A database to measure with.

    :param fill: makes its rows; takes a superuser's way there, the programs, and a factor for
        the numbers of rows.
    """

    name: str
    what: str
    fill: Fill


def _execute(endpoint: Endpoint, *statements: str) -> None:
    with endpoint.connect(autocommit=True) as connection:
        connection.execute("SET search_path = public")
        for statement in statements:
            connection.execute(statement)


def _shop(endpoint: Endpoint, programs: Programs, scale: float) -> None:
    load(endpoint, programs, "shop", scale=scale)
    _execute(
        endpoint,
        "CREATE TABLE public.activity (id bigint PRIMARY KEY, session uuid NOT NULL, "
        "at timestamptz NOT NULL, kind text NOT NULL, amount numeric(10,2), detail jsonb NOT NULL)",
        f"""
        INSERT INTO public.activity
        SELECT n, md5(n::text)::uuid, timestamptz '2025-01-01' + n * interval '7.3 s',
               (ARRAY['view', 'search', 'cart', 'pay', 'return'])[1 + n % 5],
               (n * 7919::bigint % 1000000) / 100.0,
               jsonb_build_object('page', '/p/' || n % 9973, 'ref', md5((n * 31::bigint)::text),
                   'trace', md5((n * 37::bigint)::text), 'agent',
                   (ARRAY['Firefox/140', 'Chrome/141', 'Safari/19'])[1 + n % 3], 'ms', n % 1777)
          FROM generate_series(1, {int(_ACTIVITY_ROWS * scale)}) n
        """,
        "CREATE INDEX activity_at ON public.activity (at)",
    )


def _even(endpoint: Endpoint, programs: Programs, scale: float) -> None:
    del programs
    for number in range(_EVEN_TABLES):
        _execute(
            endpoint,
            f"CREATE TABLE part_{number} (id bigint PRIMARY KEY, owner int, note text, "
            "at timestamptz)",
            f"INSERT INTO part_{number} SELECT n, n % 1009, md5(n::text) || md5((n * 3)::text), "
            f"timestamptz '2025-01-01' + n * interval '1 s' "
            f"FROM generate_series(1, {int(_EVEN_ROWS * scale)}) n",
        )


def _wide(endpoint: Endpoint, programs: Programs, scale: float) -> None:
    del programs
    _execute(
        endpoint,
        "CREATE TABLE document (id int PRIMARY KEY, body jsonb, scan bytea, words text)",
        # Half of the bytes compress well, half not at all, as documents and their scans do.
        f"""
        INSERT INTO document
        SELECT n, (SELECT jsonb_object_agg('field_' || k, md5((n * k)::text))
                     FROM generate_series(1, 60) k),
               (SELECT string_agg(sha512((n || ':' || k)::bytea), '')
                  FROM generate_series(1, 64) k),
               repeat('paragraph ' || n || ' of a longer text. ', 120)
          FROM generate_series(1, {int(_WIDE_ROWS * scale)}) n
        """,
    )


def _many(endpoint: Endpoint, programs: Programs, scale: float) -> None:
    del programs
    count = max(1, int(_MANY_TABLES * scale))
    for first in range(0, count, 500):
        _execute(
            endpoint,
            "; ".join(
                f"CREATE TABLE t_{n} (id int PRIMARY KEY, a text, b timestamptz DEFAULT now()); "
                f"INSERT INTO t_{n} SELECT k, md5(k::text), '2025-01-01' "
                "FROM generate_series(1, 20) k"
                for n in range(first, min(count, first + 500))
            ),
        )


def _tiny(endpoint: Endpoint, programs: Programs, scale: float) -> None:
    load(endpoint, programs, "shop", scale=0.1 * scale)


DATA_SETS = {
    each.name: each
    for each in (
        DataSet("shop", "one table holds nine tenths of about 1 GB of text", _shop),
        DataSet("even", f"{_EVEN_TABLES} tables of one size", _even),
        DataSet("wide", "long rows: jsonb, bytea, text", _wide),
        DataSet("many", f"{_MANY_TABLES:,} tables of 20 rows", _many),
        DataSet("tiny", "about 10 MB", _tiny),
    )
}


def make(server: Server, programs: Programs, data_set: DataSet, scale: float) -> Endpoint:
    """Make a data set's database, vacuumed, in a server."""
    create_database(server.endpoint(), data_set.name)
    endpoint = server.endpoint(data_set.name)
    data_set.fill(endpoint, programs, scale)
    _execute(endpoint, "VACUUM ANALYZE", "CHECKPOINT")
    return endpoint
