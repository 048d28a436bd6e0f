"""A database in Cloud SQL of every major version: taken live, by an export, and recovered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagster_resil.components.cloud_sql import Export
from tests.components.cloud_project import CloudProject, allow_landing, cloud_project
from tests.components.conftest import failure
from tests.conftest import ALL_MAJORS, server_of, visible
from tests.localcloud.cloudsql import CloudSql

_ALWAYS = (13, 16, 18)
"""The oldest, one that ``make`` fetches, the newest; with the others the test is ``long``."""


@pytest.fixture(
    params=[
        pytest.param(major, marks=() if major in _ALWAYS else pytest.mark.long)
        for major in ALL_MAJORS
        if major != CloudSql.major  # which all other tests use
    ],
    ids=lambda major: f"pg{major}",
)
def project(
    request: pytest.FixtureRequest,
    sql: CloudSql,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[CloudProject]:
    server_of(request.param)  # or the test is skipped
    name = sql.make_recoverable(major=request.param)
    sql.execute(
        name,
        "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)",
        "INSERT INTO item (name) SELECT 'item ' || n FROM generate_series(1, 500) n",
        "CREATE TABLE other AS SELECT n FROM generate_series(1, 100) n",
        "CREATE UNLOGGED TABLE passing (id int GENERATED ALWAYS AS IDENTITY)",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "SELECT lo_from_bytea(0, 'large')",
    )
    with visible(request.param):
        yield from cloud_project(sql, name, tmp_path, monkeypatch)


def test_every_way_of_taking_and_the_drill(project: CloudProject) -> None:
    allow_landing(project, project.instance_name)
    export = Export(landing=project.landing, consistency="clone")
    ways: tuple[dict[str, Any], ...] = ({}, {"method": "export", "export": export})
    for config in ways:
        taken = project.materialize(**config)
        assert taken.success, failure(taken)
        assert set(project.verdicts().values()) == {"PASS"}, project.verdicts()
        assert project.newest().rows == 600

    project.sql.execute(project.instance_name, "DELETE FROM item WHERE id > 10")
    drilled = project.run("app_drill", project.defs())
    assert project.temporary() == []
    if not (server_of(project.newest().source.major).bin_dir / "pg_waldump").is_file():
        assert "without pg_waldump" in failure(drilled)
        return
    assert drilled.success, failure(drilled)
    assert project.drilled().passed, project.drilled().description
    assert "600 rows" in project.drilled().description
