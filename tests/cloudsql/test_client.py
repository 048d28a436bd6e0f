"""The client where all goes well: what it asks for is what there is when it returns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import storage

from dagster_resil.cloudsql.client import CloudSql, CloudSqlSettings
from dagster_resil.errors import CloudSqlError, ConfigurationError, InstanceMissing
from tests.cloudsql.instances import SCRATCH, SOURCE, connected, names, operations
from tests.localcloud.cloudsql import PROJECT
from tests.localcloud.cloudsql import CloudSql as Google


def test_an_instance(sql: Google, client: CloudSql) -> None:
    found = client.instance(SOURCE)
    state = sql.state(SOURCE)
    assert (found.project, found.name, found.region) == (PROJECT, SOURCE, "europe-west1")
    assert (found.state, found.major, found.labels) == ("RUNNABLE", 15, {"team": "shop"})
    assert (found.address, found.port) == ("127.0.0.1", state["port"])
    assert found.deletion_protected
    assert not found.has_recovery
    assert found.primary is None
    assert found.service_account.endswith(".iam.gserviceaccount.com")
    assert timedelta(0) < datetime.now(UTC) - found.created_at < timedelta(minutes=30)
    assert client.instances() == [found]
    assert client.instances(project=SCRATCH) == []
    assert client.databases(SOURCE) == ["postgres", "shop"]
    replica = sql.make_replica(SOURCE)
    assert client.instance(replica).primary == SOURCE
    with pytest.raises(
        InstanceMissing, match="can't see instance none in project local"
    ) as refused:
        client.instance("none")
    assert refused.value.hint == "see what there is: gcloud sql instances list --project=local"


def test_a_clone_as_it_is_and_as_it_was(sql: Google, client: CloudSql) -> None:
    source = sql.make_recoverable()
    window = client.recovery_window(source)
    assert client.instance(source).has_recovery
    assert window.earliest <= window.latest <= datetime.now(UTC)
    sql.execute(source, "CREATE TABLE later (x int)")
    now = client.clone(source, "as-it-is")
    then = client.clone(source, "as-it-was", moment=window.latest, project=SCRATCH)
    sql.execute(source, "DROP TABLE later")
    assert (now.name, now.state, now.project) == ("as-it-is", "RUNNABLE", PROJECT)
    assert (then.name, then.state, then.project) == ("as-it-was", "RUNNABLE", SCRATCH)
    later = "SELECT to_regclass('later') IS NOT NULL"
    assert sql.rows("as-it-is", later) == [(True,)]
    assert sql.rows("as-it-was", later, project=SCRATCH) == [(False,)]


def test_points_in_time_that_can_not_be(sql: Google, client: CloudSql) -> None:
    source = sql.make_recoverable()
    window = client.recovery_window(source)
    early = window.earliest - timedelta(hours=1)
    with pytest.raises(CloudSqlError, match="not within the recovery window") as refused:
        client.clone(source, "x", moment=early)
    assert "within the window" in refused.value.hint
    with pytest.raises(ConfigurationError, match="no time zone"):
        client.clone(source, "x", moment=datetime.now())  # noqa: DTZ005
    for call in (
        lambda: client.recovery_window(SOURCE),
        lambda: client.clone(SOURCE, "x", moment=window.latest),
    ):
        with pytest.raises(CloudSqlError) as refused:
            call()
        assert refused.value.hint == (
            f"point-in-time recovery is off: gcloud sql instances patch {SOURCE} --project=local "
            "--enable-point-in-time-recovery"
        )


def test_an_export(sql: Google, client: CloudSql, bucket: storage.Bucket, uri: str) -> None:
    client.export(SOURCE, database="shop", uri=uri, threads=3, offload=True)
    (operation,) = operations(sql, "EXPORT", SOURCE)[:1]
    context = operation["exportContext"]
    assert (context["uri"], context["databases"], context["offload"]) == (uri, ["shop"], True)
    assert context["sqlExportOptions"] == {"parallel": True, "threads": 3}
    assert any(each.name.endswith("/toc.dat.gz") for each in bucket.list_blobs())
    with pytest.raises(CloudSqlError, match="already exists") as refused:
        client.export(SOURCE, database="shop", uri=uri)
    assert "use a new URI for each export" in refused.value.hint
    with pytest.raises(CloudSqlError, match="can't export database none of instance orders"):
        client.export(SOURCE, database="none", uri=uri + "2")


def test_labels_are_added(sql: Google, client: CloudSql) -> None:
    name = sql.make(settings={"userLabels": {"team": "x", "kept": "y"}})
    client.label(name, {"team": "z", "resil": "true"})
    client.label(name, {"resil": "true"})  # nothing to do
    assert client.instance(name).labels == {"team": "z", "kept": "y", "resil": "true"}
    assert len(operations(sql, "UPDATE", name)) == 1
    for wrong in ({"Team": "x"}, {"team": "X"}, {"team": "x" * 64}, {"team": "a.b"}):
        with pytest.raises(ConfigurationError, match="can't be a label"):
            client.label(name, wrong)


def test_deleting(sql: Google, client: CloudSql) -> None:
    name = sql.make()
    client.delete(name)
    client.delete(name)
    assert names(sql) == [SOURCE]
    with pytest.raises(CloudSqlError, match="can't delete instance orders") as refused:
        client.delete(SOURCE)
    assert "--no-deletion-protection" in refused.value.hint
    with pytest.raises(CloudSqlError, match="is not a temporary instance"):
        client.unprotect(SOURCE)
    assert client.instance(SOURCE).deletion_protected


def test_application_default_credentials(sql: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in sql.cloud.running.environment("operator").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(CloudSqlError, match="not authorized"):
        CloudSql(CloudSqlSettings(PROJECT)).instance(SOURCE)
    as_backup = CloudSql(
        CloudSqlSettings(PROJECT, impersonate="backup@local.iam.gserviceaccount.com")
    )
    assert as_backup.instance(SOURCE).name == SOURCE
    with pytest.raises(
        CloudSqlError, match=r"to backup@local\.iam\.gserviceaccount\.com"
    ) as refused:
        as_backup.delete(SOURCE)
    assert "grant cloudsql.instances.delete on project local" in refused.value.hint
    as_owner = CloudSql(
        CloudSqlSettings(PROJECT, impersonate="owner@local.iam.gserviceaccount.com")
    )
    with pytest.raises(CloudSqlError, match="can't sign in") as refused:
        as_owner.instance(SOURCE)
    assert "roles/iam.serviceAccountTokenCreator" in refused.value.hint


def test_several_threads_share_one(sql: Google, client: CloudSql) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.instance(SOURCE).name, range(64)))
    assert found == [SOURCE] * 64
    assert connected(sql).settings == client.settings
