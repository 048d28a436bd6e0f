"""A vault in Cloud Storage, signed in to by Dagster's own resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from dagster_gcp import GCSResource

from dagster_resil.components.protected_database import CloudStorage, VaultPlace
from dagster_resil.demo.laptop import url_of
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from tests.components.conftest import Project, component, failure, restored
from tests.conftest import Source
from tests.localcloud.cloud import Cloud


@pytest.mark.parametrize("resource", ["storage_client", None])
def test_a_backup_by_way_of_the_resource(
    one_source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cloud: Cloud,
    resource: str | None,
) -> None:
    bucket = cloud.bucket()
    for key, value in cloud.running.environment().items():
        monkeypatch.setenv(key, value)
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE item (id int)", "INSERT INTO item VALUES (1)")
    monkeypatch.setenv("APP_URL", url_of(endpoint))
    place = VaultPlace(
        url=f"gs://{bucket.name}/v",
        gcs_resource=resource,
        cloud_storage=CloudStorage(storage_class="NEARLINE"),
    )
    defs = component(vault=place).build_defs(None)  # type: ignore[arg-type]
    if resource:
        resources = dg.Definitions(resources={resource: GCSResource(project="local")})
        defs = dg.Definitions.merge(defs, resources)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        project = Project(defs, instance, tmp_path, one_source, endpoint)
        result = project.materialize()
        assert result.success, failure(result)
        assert project.evaluations("contents_match")[0][0]
        result = project.run("app_verify", partition_key=project.open)
        assert result.success, failure(result)
        restored(project.run("app_restore", partition_key=project.open))
    vault = cloud.vault(bucket, "v")
    [entry] = Backups(vault).entries().backups
    assert (entry.verdict, entry.receipts) == (Verdict.PASS, 2)
    assert {blob.storage_class for blob in bucket.list_blobs()} == {"NEARLINE"}


def test_settings_are_looked_at() -> None:
    with pytest.raises(ValueError, match="hold"):
        CloudStorage(hold="for ever")  # type: ignore[arg-type]
    address = VaultPlace(url="gs://b", cloud_storage=CloudStorage(hold="temporary")).address()
    assert address.cloud_storage == {"hold": "temporary"}
    assert address.resource_keys == set()
