"""A cloud with one instance, which the tests of faults share, and a project of each test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.workspace import Workspace
from tests.components.cloud_project import CloudProject, cloud_project
from tests.components.cloud_sql.faults import SOURCE, restart
from tests.localcloud.cloud import running_cloud
from tests.localcloud.cloudsql import RECOVERABLE, CloudSql


@pytest.fixture(scope="session")
def home() -> Iterator[CloudSql]:
    """A cloud with one instance, protected against deletion, that the tests share."""
    with (
        Workspace() as space,
        running_cloud(space.path / "cloud") as cloud,
        CloudSql(cloud) as sql,
    ):
        settings = {"backupConfiguration": RECOVERABLE, "deletionProtectionEnabled": True}
        sql.make(SOURCE, settings=settings)
        yield sql


@pytest.fixture
def project(
    home: CloudSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudProject]:
    database = f"t{tmp_path.name[-30:]}_{os.getpid()}"
    home.execute(SOURCE, f'CREATE DATABASE "{database}" TEMPLATE template0')
    home.execute(
        SOURCE,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 500) n",
        "CREATE TABLE other AS SELECT n, 'of another' AS what FROM generate_series(1, 100) n",
        database=database,
    )
    yield from cloud_project(home, SOURCE, tmp_path, monkeypatch, database=database)
    home.cloud.mend()
    if home.state(SOURCE)["pid"] is None:
        restart(home)
    home.execute(SOURCE, f'DROP DATABASE "{database}" WITH (FORCE)')
    assert home.get(SOURCE)["settings"]["deletionProtectionEnabled"]
