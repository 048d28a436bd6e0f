"""What is done to the database while it is exported."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from dagster_resil.demo.databases import load
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import client_for
from tests.components.cloud_project import CloudProject, allow_landing
from tests.components.cloud_sql.faults import (
    SOON_S,
    SOURCE,
    cloned,
    live,
    meanwhile,
    proved,
    refused,
    until_running,
)


def during_export(
    project: CloudProject, work: Callable[[], None], **config: Any
) -> dg.ExecuteInProcessResult:
    """Do something after the snapshot and before the export has read anything."""
    allow_landing(project, SOURCE)
    cloud = project.sql.cloud
    cloud.fault("operation_slow", method="sql.instances.export", seconds=1, times=1)

    def wait_and_work() -> None:
        until_running(project.sql, "EXPORT")
        work()

    with meanwhile(wait_and_work):
        return project.materialize(**live(project, **config))


def test_a_table_is_truncated_while_it_is_exported(project: CloudProject) -> None:
    """It has to wait for us, the export would have to wait for it, and we for the export.

    So do our own dump of the definitions, and the sessions that count: whichever has waited for
    too long first says so.
    """
    begun = time.monotonic()
    result = during_export(
        project,
        lambda: project.sql.execute(SOURCE, "TRUNCATE item", database=project.database),
        lock_timeout_seconds=0.5,
    )
    said = refused(project, result, project.database, "public.item", "TRUNCATE")
    assert re.search("waited for (0.5 s|too long) to lock|could not be locked to count", said)
    assert time.monotonic() - begun < SOON_S
    query = "SELECT count(*) FROM item"
    assert project.sql.rows(SOURCE, query, database=project.database) == [(0,)]


def test_a_large_object_is_written_while_it_is_exported(project: CloudProject) -> None:
    result = during_export(
        project,
        lambda: project.sql.execute(
            SOURCE, "SELECT lo_from_bytea(0, 'new')", database=project.database
        ),
    )
    refused(project, result, "large objects of", "consistency: clone")


def test_definitions_change_while_they_are_exported(project: CloudProject) -> None:
    """A new snapshot is taken; what came, and what came in another's place, is in the backup."""
    sql = project.sql
    sql.execute(
        SOURCE,
        "CREATE SEQUENCE counter",
        "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 41'",
        database=project.database,
    )
    result = during_export(
        project,
        lambda: sql.execute(
            SOURCE,
            "CREATE TABLE passing ()",
            "DROP TABLE passing",
            "CREATE TABLE passing AS SELECT 1 AS one",
            "CREATE OR REPLACE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'",
            "SELECT nextval('counter') FROM generate_series(1, 100)",
            database=project.database,
        ),
    )
    proved(project, result)
    assert {table.name for table in project.newest().tables} == {"item", "other", "passing"}


def test_a_sequence_advances_while_it_is_exported(project: CloudProject) -> None:
    sql = project.sql
    sql.execute(SOURCE, "CREATE SEQUENCE counter", database=project.database)
    stop = threading.Event()

    def work() -> None:
        with sql.connect(SOURCE, project.database) as connection:
            while not stop.wait(0.005):
                connection.execute("SELECT nextval('counter')")

    allow_landing(project, SOURCE)
    with meanwhile(work):
        try:
            result = project.materialize(**live(project))
        finally:
            stop.set()
    proved(project, result)


def test_a_hostile_database_by_an_export_of_a_clone(project: CloudProject) -> None:
    """With a table that no clone has the rows of."""
    sql = project.sql
    sql.execute(
        SOURCE, "CREATE UNLOGGED TABLE passing AS SELECT 1 AS one", database=project.database
    )
    _load_hostile(project)
    result = project.materialize(**cloned(project))
    proved(project, result)
    unlogged, mappings = project.newest().left_out
    assert "public.passing" in unlogged
    assert "the export may have them" in mappings
    [receipt] = project.vault.glob("app/receipts/*/*.json")
    assert "public.passing" in " ".join(json.loads(receipt.read_text())["not_checked"])

    # What no login but a superuser is shown is not in a backup of ours, and is told.
    proved(project, project.materialize())
    [left_out] = project.newest().left_out
    assert "options of user mappings (3)" in left_out


def _load_hostile(project: CloudProject) -> None:
    """Load the demo's hostile database; that takes a superuser, which ``postgres`` is not."""
    cloud_sql = project.sql
    endpoint = Endpoint(
        {
            "host": "127.0.0.1",
            "port": str(cloud_sql.state(SOURCE)["port"]),
            "user": "cloudsqladmin",
            "dbname": project.database,
        },
        (cloud_sql.cloud.folder / "sql" / "secret").read_text().strip(),
    )
    load(endpoint, client_for(cloud_sql.major), "hostile")
    with endpoint.connect(autocommit=True) as connection:
        connection.execute("GRANT pg_read_all_data TO postgres")
        connection.execute("ALTER ROLE postgres BYPASSRLS")
        for (number,) in connection.execute("SELECT oid FROM pg_largeobject_metadata").fetchall():
            connection.execute(f"GRANT SELECT ON LARGE OBJECT {number} TO postgres")
