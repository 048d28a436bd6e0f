"""Each job does its work with its own identity's permissions, and not with another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.temporary import sweep, temporary_clone
from dagster_resil.errors import CloudSqlError
from tests.cloudsql.instances import SCRATCH, SOURCE, connected, names, operations
from tests.localcloud.cloudsql import PROJECT
from tests.localcloud.cloudsql import CloudSql as Google

Call = Callable[[CloudSql], object]

CALLS: dict[str, tuple[str, Call]] = {
    "see": ("cloudsql.instances.get", lambda cloud: cloud.instance(SOURCE)),
    "list": ("cloudsql.instances.list", lambda cloud: cloud.instances()),
    "databases": ("cloudsql.databases.list", lambda cloud: cloud.databases(SOURCE)),
    "export": (
        "cloudsql.instances.export",
        lambda cloud: cloud.export(SOURCE, database="shop", uri="gs://bucket-none/x"),
    ),
    "clone": ("cloudsql.instances.clone", lambda cloud: cloud.clone(SOURCE, "target")),
    "clone away": (
        "cloudsql.instances.clone",
        lambda cloud: cloud.clone(SOURCE, "target", project=SCRATCH),
    ),
    "label": ("cloudsql.instances.update", lambda cloud: cloud.label(SOURCE, {"a": "b"})),
    "delete": ("cloudsql.instances.delete", lambda cloud: cloud.delete(SOURCE)),
}
MAY: dict[str, set[str]] = {
    "backup": {"see", "list", "databases", "export"},
    "cloner": {"see", "list", "databases", "clone", "clone away"},
    "restorer": {"see", "list", "databases", "clone", "clone away", "label"},
    "failover": {"see", "list", "databases"},
    "verifier": set(),
    "retention": set(),
    "operator": set(),
}


@pytest.mark.parametrize("account", MAY)
def test_what_an_identity_may_not_do(sql: Google, account: str) -> None:
    cloud = connected(sql, account)
    email = f"{account}@local.iam.gserviceaccount.com"
    before = [len(operations(sql, kind, SOURCE)) for kind in ("EXPORT", "UPDATE", "DELETE")]
    for name in CALLS.keys() - MAY[account]:
        permission, call = CALLS[name]
        if "see" not in MAY[account] and name not in ("list", "databases"):
            permission = "cloudsql.instances.get"  # it lacks that first
        project = PROJECT
        if name == "clone away" and "see" not in MAY[account]:
            project = SCRATCH
            if account == "verifier":  # it sees that nothing is there yet
                permission, project = "cloudsql.instances.get", PROJECT
        with pytest.raises(CloudSqlError, match="not authorized") as refused:
            call(cloud)
        assert refused.value.reason == "notAuthorized", name
        assert f"grant {permission} on project {project} to {email}" in refused.value.hint, name
        assert "roles/cloudsql." in refused.value.hint
    for name in MAY[account] & {"see", "list", "databases"}:
        CALLS[name][1](cloud)
    after = [len(operations(sql, kind, SOURCE)) for kind in ("EXPORT", "UPDATE", "DELETE")]
    assert after == before
    assert names(sql) == [SOURCE]
    assert names(sql, SCRATCH) == []


def test_the_backup_job_exports(sql: Google, uri: str) -> None:
    exported = operations(sql, "EXPORT", SOURCE)
    connected(sql, "backup").export(SOURCE, database="shop", uri=uri)
    [operation] = [each for each in operations(sql, "EXPORT", SOURCE) if each not in exported]
    assert operation["user"] == "backup@local.iam.gserviceaccount.com"
    assert operation["status"] == "DONE"
    bucket, _, folder = uri.removeprefix("gs://").partition("/")
    landed = [blob.name for blob in sql.cloud.client().list_blobs(bucket, prefix=folder)]
    assert any(name.endswith("toc.dat.gz") for name in landed), landed


def test_the_cloner_has_a_project_for_that(sql: Google) -> None:
    cloud = connected(sql, "cloner")
    with temporary_clone(cloud, SOURCE, owner="run", purpose="test", project=SCRATCH) as instance:
        assert instance.project == SCRATCH
    assert names(sql, SCRATCH) == []
    # Where what is protected is it may clone, but neither label nor delete: told, not hidden.
    with (
        pytest.raises(CloudSqlError, match="not authorized") as refused,
        temporary_clone(cloud, SOURCE, owner="run", purpose="test"),
    ):
        pass
    assert "cloudsql.instances.update on project local" in refused.value.hint
    (left,) = [each for each in names(sql) if each != SOURCE]
    assert f"temporary instance {left} in project local is left" in refused.value.__notes__[0]
    janitor = connected(sql)
    assert sweep(janitor, alive=lambda owner: False, older_than_s=0) == [left]


def test_the_cloner_is_its_own_janitor(sql: Google) -> None:
    cloud = connected(sql, "cloner")
    with (
        pytest.raises(CloudSqlError),
        temporary_clone(cloud, SOURCE, owner="run", purpose="test", project=SCRATCH) as instance,
    ):
        sql.cloud.fault("denied", method="sql.instances.delete")
    sql.cloud.mend()
    assert sweep(cloud, project=SCRATCH, alive=lambda owner: False, older_than_s=60) == [
        instance.name
    ]


def test_the_restorer_makes_instances_and_deletes_none(sql: Google) -> None:
    cloud = connected(sql, "restorer")
    assert cloud.clone(SOURCE, "restored").state == "RUNNABLE"
    cloud.label("restored", {"restored": "true"})
    with pytest.raises(CloudSqlError, match="not authorized") as refused:
        cloud.delete("restored")
    assert "cloudsql.instances.delete" in refused.value.hint


def test_a_clone_may_lack_a_right_where_it_goes(sql: Google) -> None:
    cloud = connected(sql, "restorer")
    places = {"projects/local": ["cloudsql.*"], f"projects/{SCRATCH}": ["cloudsql.instances.get"]}
    sql.allow("narrow", places=places)
    cloud = connected(sql, "narrow")
    with pytest.raises(CloudSqlError, match="not authorized") as refused:
        cloud.clone(SOURCE, "target", project=SCRATCH)
    assert "and cloudsql.instances.create on project scratch" in refused.value.hint
