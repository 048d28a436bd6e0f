"""A local cloud for these tests alone, with one protected instance that outlives them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from google.cloud import storage

from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.workspace import Workspace
from tests.cloudsql.instances import SOURCE, connected, grant, remove_others
from tests.localcloud.cloud import Cloud, running_cloud
from tests.localcloud.cloudsql import PASSWORD, PROJECT
from tests.localcloud.cloudsql import CloudSql as Google


@pytest.fixture(scope="session")
def _own_cloud() -> Iterator[Callable[[], Google]]:
    with (
        Workspace() as space,
        running_cloud(space.path / "cloud") as cloud,
        Google(cloud) as google,
    ):
        google.make(
            SOURCE,
            settings={
                "deletionProtectionEnabled": True,
                "userLabels": {"team": "shop"},
            },
        )
        where = {"project": PROJECT, "instance": SOURCE}
        google.done(google.api().databases().insert(**where, body={"name": "shop"}))
        app = {"name": "app", "password": PASSWORD}
        google.done(google.api().users().insert(**where, body=app))
        google.execute(
            SOURCE,
            "CREATE TABLE item (id int PRIMARY KEY, name text)",
            "INSERT INTO item SELECT g, 'item ' || g FROM generate_series(1, 500) g",
            database="shop",
        )
        yield lambda: google


@pytest.fixture
def sql(_own_cloud: Callable[[], Google], monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    """The local Cloud SQL as Google's client sees it; only its protected instance outlives a test."""
    google = _own_cloud()
    monkeypatch.setenv("RESIL_LOCALCLOUD", google.cloud.url)
    google.cloud.forget()
    yield google
    google.cloud.mend()
    remove_others(google)


@pytest.fixture
def cloud(sql: Google) -> Cloud:
    return sql.cloud


@pytest.fixture
def client(sql: Google) -> CloudSql:
    """Our client, as the owner."""
    return connected(sql)


@pytest.fixture
def bucket(sql: Google) -> storage.Bucket:
    """A landing bucket, in which the protected instance may do what parallel exports need."""
    found = sql.cloud.bucket()
    grant(sql, SOURCE, found)
    return found


@pytest.fixture
def uri(bucket: storage.Bucket) -> str:
    """A folder in which nothing is yet."""
    return f"gs://{bucket.name}/exports/{secrets.token_hex(4)}"
