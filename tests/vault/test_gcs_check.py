"""`resil check`: whether a bucket is what the configuration says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dagster_resil.cli import cli
from dagster_resil.errors import VaultUnreachable
from dagster_resil.vault.base import Finding
from dagster_resil.vault.gcs_check import check_bucket
from dagster_resil.vault.gcs_client import GcsSettings
from tests.localcloud.cloud import QUICK, Cloud

STRICT = replace(
    QUICK, location="europe-west1", versioning=True, retention_days=30, retention_locked=True
)


def wrong(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.ok]


def test_a_bucket_as_configured(cloud: Cloud) -> None:
    bucket = cloud.bucket(
        versioning={"enabled": True}, retentionPolicy={"retentionPeriod": str(30 * 86_400)}
    )
    bucket.lock_retention_policy()
    findings = list(check_bucket(cloud.vault(bucket, settings=STRICT)))
    assert wrong(findings) == []
    said = "\n".join(finding.what for finding in findings)
    for part in (
        "backup@local.iam.gserviceaccount.com has storage.objects.create",
        "can't delete or change",
        "is in europe-west1",
        "keeps noncurrent versions",
        "keeps objects for 30 days, locked",
        "is uniform",
        "public access to bucket",
    ):
        assert part in said


CASES: dict[str, tuple[Callable[[Cloud], tuple[object, GcsSettings, str]], str, str]] = {
    "location": (
        lambda c: (c.bucket("us-east1"), replace(QUICK, location="europe-west1"), "backup"),
        "is in us-east1, not in europe-west1",
        "location never changes",
    ),
    "versioning": (
        lambda c: (c.bucket(), replace(QUICK, versioning=True), "backup"),
        "does not keep noncurrent versions",
        "--versioning",
    ),
    "no versioning": (
        lambda c: (
            c.bucket(versioning={"enabled": True}),
            replace(QUICK, versioning=False),
            "backup",
        ),
        "keeps noncurrent versions, which is not as configured",
        "--no-versioning",
    ),
    "no retention": (
        lambda c: (c.bucket(), replace(QUICK, retention_days=30), "backup"),
        "keeps objects for 0 days, not for 30 days",
        "--retention-period=30d",
    ),
    "retention not locked": (
        lambda c: (
            c.bucket(retentionPolicy={"retentionPeriod": "86400"}),
            replace(QUICK, retention_locked=True),
            "backup",
        ),
        "not locked, which is not as configured",
        "--lock-retention-period",
    ),
    "retention neither long nor locked": (
        lambda c: (
            c.bucket(retentionPolicy={"retentionPeriod": "86400"}),
            replace(QUICK, retention_days=30, retention_locked=True),
            "backup",
        ),
        "keeps objects for 1 days, not locked, which is not as configured",
        "--lock-retention-period",
    ),
    "no retention of objects": (
        lambda c: (c.bucket(), replace(QUICK, object_retention_days=7), "backup"),
        "allows no retention of single objects",
        "--enable-per-object-retention",
    ),
    "access lists": (
        lambda c: (
            c.bucket(iamConfiguration={"uniformBucketLevelAccess": {"enabled": False}}),
            QUICK,
            "backup",
        ),
        "access lists of their own",
        "--uniform-bucket-level-access",
    ),
    "public": (
        lambda c: (
            c.bucket(iamConfiguration={"publicAccessPrevention": "inherited"}),
            QUICK,
            "backup",
        ),
        "could be opened to the public",
        "--public-access-prevention",
    ),
    "can delete": (
        lambda c: (c.bucket(), QUICK, "owner"),
        "has storage.objects.delete",
        "take away the role",
    ),
    "can't create": (
        lambda c: (c.bucket(), QUICK, "restorer"),
        "lacks storage.objects.create",
        "grant roles/storage.objectCreator",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bucket_that_is_not_as_configured(cloud: Cloud, case: str) -> None:
    make, what, hint = CASES[case]
    bucket, settings, account = make(cloud)
    vault = cloud.vault(bucket, settings=settings, account=account)
    found = wrong(list(check_bucket(vault)))
    assert any(what in finding.what and hint in finding.hint for finding in found), found
    if case not in ("can delete", "retention neither long nor locked"):
        assert len(found) == 1


def test_a_bucket_that_may_not_be_looked_at(cloud: Cloud) -> None:
    vault = cloud.vault()
    with (
        cloud.failing("denied", permission="storage.buckets.get"),
        pytest.raises(VaultUnreachable, match=r"storage\.buckets\.get") as error,
    ):
        list(check_bucket(vault))
    assert "roles/storage.bucketViewer" in error.value.hint


def test_the_command_tells_all_of_it(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in cloud.running.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("RESIL_GCS_LOCATION", "us-east1")
    bucket = cloud.bucket()
    done = CliRunner().invoke(cli, ["check", "--vault", f"gs://{bucket.name}/v", "--json"])
    document = json.loads(done.stdout)
    said = {each["what"]: each for each in document["findings"]}
    line = said[f"bucket {bucket.name} is in europe-west1, not in us-east1"]
    assert (line["ok"], document["ready"]) == (False, False)
    assert f"vault gs://{bucket.name}/v can be written" in said


def said(*words: str) -> tuple[int, dict[str, dict[str, object]]]:
    done = CliRunner().invoke(cli, ["check", *words, "--json"], standalone_mode=False)
    return done.return_value, {each["what"]: each for each in json.loads(done.stdout)["findings"]}


def test_a_restorer_is_asked_for_a_restorers_rights(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in cloud.running.environment("restorer").items():
        monkeypatch.setenv(key, value)
    vault = f"gs://{cloud.bucket().name}/v"
    code, found = said("--vault", vault)
    assert code == 4
    assert any("lacks storage.objects.create" in what for what in found)
    code, found = said("--vault", vault, "--for", "restore")
    assert code == 0, found
    assert not any("create" in what or "written" in what for what in found)
    # Who may read objects need not be allowed to look at the bucket.
    with cloud.failing("denied", permission="storage.buckets.get"):
        code, found = said("--vault", vault, "--for", "restore")
    assert code == 0, found
    with cloud.failing("denied", permission="storage.objects.get"):
        code, found = said("--vault", vault, "--for", "restore")
    assert code == 4, found


def test_what_killed_backups_left_is_for_who_may_delete(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = cloud.bucket()
    bucket.blob("v/shop/backups/shop-20260301T120000Z-0a1b2c/x").upload_from_string(b"data")
    for account, words in (("backup", "retention removes"), ("owner", "older than two days")):
        for key, value in cloud.running.environment(account).items():
            monkeypatch.setenv(key, value)
        _, found = said("--vault", f"gs://{bucket.name}/v")
        [line] = [each for what, each in found.items() if "were killed" in what]
        assert words in str(line["hint"])
