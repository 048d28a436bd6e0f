"""A landing bucket that one of those who need it may not use."""

from __future__ import annotations

from dagster_resil.localcloud.identities import LANDING_BUCKET, address
from tests.components.cloud_project import CloudProject, allow_landing
from tests.components.cloud_sql.faults import (
    SOURCE,
    cloned,
    live,
    refused,
)


def test_who_clones_may_let_nobody_into_the_landing_bucket(project: CloudProject) -> None:
    with project.sql.cloud.failing("denied", permission="storage.buckets.setIamPolicy"):
        result = project.materialize(**cloned(project))
    said = refused(project, result, f"bucket {LANDING_BUCKET}", "storage.buckets.setIamPolicy")
    assert address("cloner") in said


def test_the_instance_may_not_write_into_the_landing_bucket(project: CloudProject) -> None:
    account = project.sql.get(SOURCE)["serviceAccountEmailAddress"]
    project.sql.allow(account, places={})
    result = project.materialize(**live(project))
    refused(project, result, f"export database {project.database}", "storage.objects.", account)


def test_who_backs_up_may_not_read_the_landing_bucket(project: CloudProject) -> None:
    allow_landing(project, SOURCE)
    with project.sql.cloud.failing(
        "denied", permission="storage.objects.*", caller=address("backup"), bucket=LANDING_BUCKET
    ):
        result = project.materialize(**live(project))
    refused(project, result, LANDING_BUCKET, "storage.objects.", address("backup"))
