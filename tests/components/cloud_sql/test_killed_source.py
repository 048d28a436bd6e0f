"""A source that is killed while it is read, exported or cloned."""

from __future__ import annotations

from typing import Any

import dagster as dg

from tests.components.cloud_project import CloudProject, allow_landing
from tests.components.cloud_sql.faults import (
    SOURCE,
    cloned,
    kill,
    live,
    meanwhile,
    proved,
    refused,
    until,
    until_running,
)


def test_the_source_is_killed_while_it_is_read(project: CloudProject) -> None:
    sql = project.sql
    sql.execute(
        SOURCE,
        "INSERT INTO other SELECT n, repeat('x', 50) FROM generate_series(1, 100000) n",
        database=project.database,
    )

    def work() -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
        with sql.connect(SOURCE) as connection:
            until(lambda: connection.execute(query).fetchone() != (0,), "pg_dump")
            kill(sql)

    with meanwhile(work):
        result = project.materialize()
    refused(project, result, project.database, "127.0.0.1")


def killed_during(
    project: CloudProject, kind: str, config: dict[str, Any]
) -> dg.ExecuteInProcessResult:
    """Kill the source's server while an operation runs."""
    method = f"sql.instances.{kind.lower()}"
    project.sql.cloud.fault("operation_slow", method=method, seconds=0.5)

    def work() -> None:
        until_running(project.sql, kind)
        kill(project.sql)

    with meanwhile(work):
        return project.materialize(**config)


def test_the_source_is_killed_while_it_is_exported(project: CloudProject) -> None:
    allow_landing(project, SOURCE)
    refused(project, killed_during(project, "EXPORT", live(project)))


def test_the_source_is_killed_while_it_is_cloned(project: CloudProject) -> None:
    refused(project, killed_during(project, "CLONE", cloned(project)), f"clone instance {SOURCE}")


def test_the_source_is_killed_once_it_is_cloned(project: CloudProject) -> None:
    """The clone is all that the backup needs."""
    proved(project, killed_during(project, "EXPORT", cloned(project)))
