"""A vault in a bucket: what goes wrong on the way, who may do what, how objects are written."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from dagster_resil.cli import cli
from dagster_resil.errors import (
    ArrivedDamaged,
    ConfigurationError,
    ObjectExists,
    VaultError,
    VaultUnreachable,
)
from dagster_resil.vault import open_vault
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.gcs_client import GcsSettings
from tests.localcloud.cloud import QUICK, Cloud

MIB = 1 << 20
IN_PARTS = replace(QUICK, whole_bytes=MIB, step_bytes=MIB)
ID = "shop-20260301T120000Z-0a1b2c"
WRITES = ["storage.objects.insert", "storage.uploads.put"]


@pytest.fixture
def vault(cloud: Cloud) -> GcsVault:
    return cloud.vault()


def in_parts(cloud: Cloud) -> GcsVault:
    return cloud.vault(settings=IN_PARTS)


def random(size: int) -> list[bytes]:
    data = os.urandom(size)
    return [data[start : start + 300_000] for start in range(0, size, 300_000)]


def checksum(data: bytes) -> str:
    sums = Checksums()
    sums.update(data)
    return sums.crc32c


# -- how objects are written


def test_a_part_goes_up_in_one_request(cloud: Cloud, vault: GcsVault) -> None:
    chunks = random(20 * MIB)
    vault.check_writable()
    cloud.forget()
    vault.put("a/b", chunks)
    assert cloud.requests()["counts"] == {"storage.objects.insert": 1}
    cloud.forget()
    assert vault.read("a/b") == b"".join(chunks)
    assert cloud.requests()["counts"] == {"storage.objects.get": 1}


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB, 3 * MIB + 12345])
def test_a_larger_one_goes_up_in_parts(cloud: Cloud, size: int) -> None:
    vault, chunks = in_parts(cloud), random(size)
    cloud.forget()
    stored = vault.put("a/b", chunks)
    assert stored.size == size
    assert cloud.requests()["counts"]["storage.uploads.put"] == -(-size // MIB)
    assert vault.read("a/b") == b"".join(chunks)
    with pytest.raises(ObjectExists):
        vault.put("a/b", chunks)
    cloud.forget()
    with pytest.raises(ObjectExists):
        vault.put("a/b", random(size))
    assert "storage.uploads.put" not in cloud.requests()["counts"], "nothing was sent in vain"


def test_objects_are_stored_as_they_are(cloud: Cloud) -> None:
    bucket = cloud.bucket(object_retention=True)
    key = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
    settings = replace(
        IN_PARTS,
        storage_class="NEARLINE",
        kms_key=key,
        object_retention_days=7,
        object_retention_mode="Locked",
        hold="event-based",
    )
    vault = cloud.vault(bucket, settings=settings)
    vault.check_writable()
    for name, size in (("small", 10), ("large", 2 * MIB + 5)):
        vault.put(name, random(size))
        blob = bucket.get_blob(vault.prefix + name)
        assert (blob.content_type, blob.content_encoding) == ("application/octet-stream", None)
        assert blob.storage_class == "NEARLINE"
        assert blob.kms_key_name == f"{key}/cryptoKeyVersions/1"
        assert (blob.event_based_hold, blob.temporary_hold) == (True, None)
        assert blob.retention.mode == "Locked"
        left = blob.retention.retain_until_time - datetime.now(UTC)
        assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
        assert vault.size(name) == size


def test_settings_come_from_the_environment() -> None:
    variables = {
        "RESIL_GCS_STORAGE_CLASS": "COLDLINE",
        "RESIL_GCS_OBJECT_RETENTION_DAYS": "30",
        "RESIL_GCS_VERSIONING": "on",
        "RESIL_GCS_RETENTION_LOCKED": "off",
        "RESIL_GCS_RETRY_S": "5.5",
        "RESIL_GCS_HOLD": "temporary",
        "RESIL_GCS_LOCATION": "",
        "RESIL_GCS_IMPERSONATE": "vault@p.iam.gserviceaccount.com",
    }
    found = GcsSettings.from_environment(variables)
    assert found == GcsSettings(
        storage_class="COLDLINE",
        object_retention_days=30,
        versioning=True,
        retention_locked=False,
        retry_s=5.5,
        hold="temporary",
        impersonate="vault@p.iam.gserviceaccount.com",
    )
    over = GcsSettings.from_environment(
        {"RESIL_GCS_OBJECT_RETENTION_MODE": "Locked", "RESIL_GCS_RETRY_S": "5"},
        object_retention_days=3,
        retry_s=6.0,
    )
    assert (over.object_retention_mode, over.object_retention_days) == ("Locked", 3)
    assert over.retry_s == 6


WRONG_SETTINGS = [
    ("VERSIONING", "perhaps"),
    ("OBJECT_RETENTION_DAYS", "x"),
    ("OBJECT_RETENTION_DAYS", "0"),
    ("OBJECT_RETENTION_MODE", "Locked"),
    ("OBJECT_RETENTION_MODE", "locked"),
    ("RETENTION_DAYS", "40000"),
    ("HOLD", "x"),
    ("STORAGE_CLASS", "COLD"),
    ("KMS_KEY", "foo"),
    ("IMPERSONATE", "vault"),
    ("WHOLE_BYTES", "-1"),
    ("STEP_BYTES", "1000"),
    ("STEP_BYTES", "0"),
    ("TIMEOUT_S", "0"),
    ("TIMEOUT_S", "nan"),
    ("RETRY_S", "inf"),
    ("RETRY_S", "-1"),
    ("STORAGECLASS", "COLDLINE"),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_SETTINGS)
def test_a_wrong_setting_is_told_by_every_command(
    name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RESIL_GCS_{name}", wrong)
    with pytest.raises(ConfigurationError, match=f"RESIL_GCS_{name}\\b") as error:
        open_vault("gs://some-bucket/x")
    assert error.value.exit_code == 2
    assert error.value.hint
    if name == "STORAGECLASS":
        assert "RESIL_GCS_STORAGE_CLASS?" in error.value.hint
    said = CliRunner().invoke(cli, ["check", "--vault", "gs://some-bucket"], standalone_mode=False)
    assert said.return_value == 2
    assert f"RESIL_GCS_{name}" in said.stdout


# -- what goes wrong on the way


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["error", "drop"])
@pytest.mark.parametrize("size", [10, 3 * MIB + 5])
def test_a_write_survives_each_of_its_requests_failing_once(
    cloud: Cloud, size: int, kind: str, when: str
) -> None:
    vault, chunks = in_parts(cloud), random(size)
    for number in count():
        cloud.mend()
        cloud.fault(kind, method="storage.*", skip=number, times=1, when=when)
        stored = vault.put(f"n{number}", chunks)
        struck = cloud.struck()
        cloud.mend()
        assert vault.read(f"n{number}") == b"".join(chunks)
        assert stored.size == size
        if struck == [0]:  # it takes no more requests than that
            break
    assert number >= (1 if size < MIB else 4)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(cloud: Cloud, vault: GcsVault, status: int) -> None:
    for use in (
        lambda: vault.put(f"x{status}", [b"data"]),
        lambda: vault.read(f"x{status}"),
        lambda: vault.size(f"x{status}"),
        lambda: list(vault.names("")),
        lambda: list(vault.folders()),
        vault.check_writable,
    ):
        with cloud.failing("error", method="storage.*", status=status, times=1):
            use()


def test_an_answer_that_is_no_json_is_asked_for_again(cloud: Cloud) -> None:
    vault = in_parts(cloud)
    for use in (
        lambda: vault.put("x", [b"data"]),
        lambda: vault.put("y", random(2 * MIB)),
        lambda: vault.size("x"),
        lambda: list(vault.names("")),
        lambda: list(vault.folders()),
        vault.check_writable,
    ):
        with cloud.failing("corrupt", method="storage.*", incoming=False, times=1):
            use()
    with (
        cloud.failing("corrupt", method="storage.objects.get", incoming=False),
        pytest.raises(VaultUnreachable, match="an answer that is not JSON") as error,
    ):
        vault.size("x")
    assert error.value.transient


def test_a_token_that_is_no_json_is_asked_for_again(
    signed_in: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = signed_in.bucket()
    with signed_in.failing("corrupt", method="oauth2.token", incoming=False, times=1):
        open_vault(f"gs://{bucket.name}").check_writable()
    monkeypatch.setenv("RESIL_GCS_RETRY_S", "1")
    with (
        signed_in.failing("corrupt", method="oauth2.token", incoming=False),
        pytest.raises(VaultUnreachable, match="not JSON"),
    ):
        open_vault(f"gs://{bucket.name}").check_writable()


def test_what_does_not_pass_is_told_in_time(cloud: Cloud, vault: GcsVault) -> None:
    vault.put("x", [b"data"])
    with cloud.failing("error", method="storage.*"):
        for use in (
            lambda: vault.put("y", [b"data"]),
            lambda: vault.read("x"),
            lambda: vault.size("x"),
            lambda: list(vault.names("")),
            vault.check_writable,
            lambda: vault.discard(f"shop/backups/{ID}/"),
        ):
            with pytest.raises(VaultUnreachable, match=re.escape(vault.url)) as error:
                use()
            assert error.value.transient
            assert error.value.hint
    assert list(vault.names("")) == ["x"]


@pytest.mark.parametrize("size", [10, 3 * MIB + 5])
@pytest.mark.parametrize("at_byte", [0, 300, MIB // 2])
def test_a_write_survives_a_cut_connection(cloud: Cloud, size: int, at_byte: int) -> None:
    vault, chunks = in_parts(cloud), random(size)
    for method in WRITES if size > MIB else WRITES[:1]:
        name = method.rpartition(".")[2]
        if method.endswith("insert") and at_byte > 300:
            continue
        with cloud.failing("cut", method=method, at_byte=at_byte, times=2):
            vault.put(name, chunks)
        assert vault.read(name) == b"".join(chunks)


def test_a_write_that_is_damaged_on_its_way_is_sent_again(cloud: Cloud, vault: GcsVault) -> None:
    chunks = random(MIB)
    with cloud.failing("corrupt", method="storage.objects.insert", at_byte=MIB // 2, times=1):
        vault.put("x", chunks)
    assert vault.read("x") == b"".join(chunks)
    with (
        cloud.failing("corrupt", method="storage.objects.insert", at_byte=MIB // 2),
        pytest.raises(VaultError, match="CRC32C") as error,
    ):
        vault.put("y", chunks)
    assert error.value.transient
    large = in_parts(cloud)
    with (
        cloud.failing("corrupt", method="storage.uploads.put", at_byte=MIB // 2, times=1),
        pytest.raises(VaultError, match="CRC32C"),
    ):
        large.put("z", random(2 * MIB))
    assert list(large.names("")) == []


def test_a_read_goes_on_behind_a_cut(cloud: Cloud, vault: GcsVault) -> None:
    chunks = random(3 * MIB)
    vault.put("x", chunks)
    vault.read("x")
    cloud.forget()
    with cloud.failing("cut", method="storage.objects.get", at_byte=MIB + 100, times=2):
        assert vault.read("x") == b"".join(chunks)
    statuses = [each["status"] for each in cloud.requests()["log"]]
    assert statuses == [200, 206, 206]


def test_a_read_goes_on_with_the_same_generation(cloud: Cloud) -> None:
    bucket = cloud.bucket()
    vault = cloud.vault(bucket, account="owner")
    vault.put("x", [b"a" * 3 * MIB])
    cloud.fault("cut", method="storage.objects.get", at_byte=MIB + 100, times=1)
    with vault.open("x") as chunks:
        assert next(chunks) == b"a" * MIB
        bucket.blob(vault.prefix + "x").upload_from_string(b"b" * 3 * MIB)
        with pytest.raises(VaultError):
            list(chunks)


def test_a_slow_read_is_not_cut_off_and_a_dead_one_is(cloud: Cloud) -> None:
    vault = cloud.vault(settings=replace(QUICK, timeout_s=1, retry_s=1))
    vault.put("x", [b"a" * 300_000])
    with cloud.failing("slow", method="storage.objects.get", bytes_per_s=100_000):
        assert len(vault.read("x")) == 300_000
    with (
        cloud.failing("slow", method="storage.objects.get", bytes_per_s=0.1),
        pytest.raises(VaultUnreachable),
    ):
        vault.read("x")


def test_a_read_that_arrives_damaged_is_noticed(cloud: Cloud, vault: GcsVault) -> None:
    vault.put("x", random(2 * MIB))
    good = vault.read("x")
    with cloud.failing("corrupt", method="storage.objects.get", at_byte=MIB, times=1):
        assert vault.read("x") == good, "a small object is asked for again"
    with (
        cloud.failing("corrupt", method="storage.objects.get", at_byte=MIB, times=1),
        pytest.raises(ArrivedDamaged, match="arrives damaged") as error,
        vault.open("x") as chunks,
    ):
        list(chunks)
    assert (error.value.size, error.value.crc32c) == (len(good), checksum(good))


def test_an_object_that_a_disk_has_damaged_is_noticed(cloud: Cloud) -> None:
    bucket = cloud.bucket()
    vault = cloud.vault(bucket)
    vault.put("x", [b"some data"])
    cloud.data_file(bucket.name, vault.prefix + "x").write_bytes(b"SOME data")
    with pytest.raises(ArrivedDamaged):
        vault.read("x")


def test_a_stream_that_breaks_in_a_large_object_leaves_nothing(cloud: Cloud) -> None:
    vault = in_parts(cloud)
    broken = RuntimeError("the source broke")

    def chunks() -> Iterator[bytes]:
        yield from random(3 * MIB)
        raise broken

    with pytest.raises(RuntimeError) as error:
        vault.put("x", chunks())
    assert error.value is broken
    assert list(vault.names("")) == []


def test_another_writers_object_is_not_taken_for_ones_own(cloud: Cloud) -> None:
    """The answer is lost, and what is there has the same bytes, but another has written it."""
    for vault, size in ((cloud.vault(), 10), (in_parts(cloud), 2 * MIB)):
        chunks = random(size)
        other = cloud.vault(vault.bucket_name, account="owner", settings=vault.settings)
        cloud.fault("error", method="storage.objects.insert", caller="backup@*")
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(vault.put, "x", chunks)
            other.put("x", chunks)
            cloud.mend()
            with pytest.raises(ObjectExists):
                writing.result()


def test_a_write_that_was_given_up_but_accepted_is_the_same_write(cloud: Cloud) -> None:
    for vault, size in ((cloud.vault(), 10), (in_parts(cloud), 2 * MIB)):
        chunks = random(size)
        cloud.fault("error", method="storage.*", when="after", skip=0 if size < MIB else 2)
        with pytest.raises(VaultUnreachable):
            vault.put("x", chunks)
        cloud.mend()
        if size < MIB:
            assert list(vault.names("")) == ["x"]
        stored = vault.put("x", chunks)
        assert vault.sizes("") == {"x": stored.size}
        # Once it is settled, the next one is another write.
        with pytest.raises(ObjectExists):
            vault.put("x", chunks)
        cloud.fault("error", method="storage.*", when="after")
        with pytest.raises(VaultUnreachable):
            vault.put("y", [b"one"])
        cloud.mend()
        with pytest.raises(ObjectExists):
            vault.put("y", [b"two"])


def test_a_server_that_refuses_to_overwrite_first_is_understood(
    cloud: Cloud, vault: GcsVault
) -> None:
    """To overwrite takes the right to delete, which may be looked at before the precondition."""
    vault.put("x", [b"data"])
    said = (
        "b@local does not have storage.objects.delete access to the Google Cloud Storage object. "
        "Permission 'storage.objects.delete' denied on resource (or it may not exist)."
    )
    with (
        cloud.failing(
            "error", method="storage.objects.insert", status=403, reason="forbidden", message=said
        ),
        pytest.raises(ObjectExists),
    ):
        vault.put("x", [b"data"])


# -- who may do what


def test_what_is_missing_is_named(cloud: Cloud, vault: GcsVault) -> None:
    vault.put("x", [b"data"])
    cases: list[tuple[str, Any, str]] = [
        ("storage.objects.create", lambda: vault.put("y", [b""]), "objectCreator"),
        ("storage.objects.get", lambda: vault.read("x"), "objectViewer"),
        ("storage.objects.get", lambda: vault.size("x"), "objectViewer"),
        ("storage.objects.list", lambda: list(vault.names("")), "objectViewer"),
        ("storage.objects.list", lambda: list(vault.folders()), "objectViewer"),
    ]
    for permission, use, role in cases:
        with (
            cloud.failing("denied", permission=permission),
            pytest.raises(VaultUnreachable) as error,
        ):
            use()
        assert permission in error.value.message
        assert vault.bucket_name in error.value.message
        assert role in error.value.hint
        assert "backup@local.iam.gserviceaccount.com" in error.value.hint
        assert not error.value.transient
        assert error.value.exit_code == 4


@pytest.mark.parametrize(
    "permission", ["storage.objects.create", "storage.objects.get", "storage.objects.list"]
)
def test_a_vault_that_can_not_be_used_says_so_at_once(
    cloud: Cloud, vault: GcsVault, permission: str
) -> None:
    with (
        cloud.failing("denied", permission=permission),
        pytest.raises(VaultUnreachable, match=f"{permission} missing") as error,
    ):
        vault.check_writable()
    assert "grant roles/storage.object" in error.value.hint


def test_a_bucket_that_is_not_there_is_told(cloud: Cloud) -> None:
    vault = cloud.vault("b-that-is-not-there", account="owner")
    for use in (
        vault.check_writable,
        lambda: vault.put("x", [b""]),
        lambda: vault.read("x"),
        lambda: list(vault.names("")),
    ):
        with pytest.raises(VaultUnreachable, match="there is no bucket b-that-is-not-there"):
            use()


def test_what_may_not_be_deleted_is_left_to_retention(
    cloud: Cloud, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dagster_resil"), "propagate", True)
    caplog.set_level(logging.INFO)
    name = f"shop/backups/{ID}/c"
    for vault in (
        cloud.vault(),  # its writer has no right to delete
        cloud.vault(cloud.bucket(retentionPolicy={"retentionPeriod": "60"}), account="owner"),
    ):
        vault.put(name, [b"data"])
        vault.discard(f"shop/backups/{ID}/")
        assert list(vault.names("")) == [name]
        assert "left to retention" in caplog.text
        caplog.clear()


def test_discarding_in_a_versioned_bucket_can_be_taken_back(cloud: Cloud) -> None:
    bucket = cloud.bucket(versioning={"enabled": True})
    vault = cloud.vault(bucket, account="owner")
    vault.put(f"shop/backups/{ID}/c", [b"data"])
    vault.discard(f"shop/backups/{ID}/")
    assert list(vault.names("")) == []
    assert len(list(bucket.list_blobs(versions=True))) == 1


# -- signing in


@pytest.fixture
def signed_in(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Application Default Credentials that lead to the local cloud, as make dev sets them."""
    for key, value in cloud.running.environment().items():
        monkeypatch.setenv(key, value)
    return cloud


def test_application_default_credentials(signed_in: Cloud) -> None:
    bucket = signed_in.bucket()
    vault = open_vault(f"gs://{bucket.name}/p")
    vault.check_writable()
    vault.put("a/b", [b"data"])
    assert bucket.blob("p/a/b").download_as_bytes() == b"data"


def test_acting_as_another_account(signed_in: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = signed_in.bucket()
    keys = signed_in.running.keys
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(keys / "operator.json"))
    with pytest.raises(VaultUnreachable, match=r"storage\.objects\.create"):
        open_vault(f"gs://{bucket.name}").check_writable()
    monkeypatch.setenv("RESIL_GCS_IMPERSONATE", "backup@local.iam.gserviceaccount.com")
    vault = open_vault(f"gs://{bucket.name}")
    vault.put("a/b", [b"data"])
    assert vault.read("a/b") == b"data"
    monkeypatch.setenv("RESIL_GCS_IMPERSONATE", "owner@local.iam.gserviceaccount.com")
    with pytest.raises(VaultUnreachable, match=r"signing in failed: Unable .*: Perm") as error:
        open_vault(f"gs://{bucket.name}").read("a/b")
    for words in ("roles/iam.serviceAccountTokenCreator", "owner@local", str(keys)):
        assert words in error.value.hint


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    for text in (None, "{", '{"type": "service_account"}'):
        if text is not None:
            key.write_text(text)
        with pytest.raises(ConfigurationError, match=r"can't sign in to Google Cloud: \w") as error:
            open_vault("gs://some-bucket").check_writable()
        assert str(key) in error.value.hint
        assert "GOOGLE_APPLICATION_CREDENTIALS" in error.value.hint
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(ConfigurationError, match="can't sign in") as error:
        open_vault("gs://some-bucket").check_writable()
    assert "gcloud auth application-default login" in error.value.hint


def test_a_key_that_is_not_known_is_told_in_words(
    signed_in: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = signed_in.running.keys
    document = json.loads((keys / "backup.json").read_text())
    document["private_key"] = json.loads((keys / "owner.json").read_text())["private_key"]
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(document))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(wrong))
    with pytest.raises(VaultUnreachable, match="signing in failed: invalid_grant: Inv") as error:
        open_vault("gs://some-bucket").check_writable()
    assert str(wrong) in error.value.hint
    assert not set("(){}'") & set(error.value.message.partition("failed: ")[2])


def test_half_a_way_to_the_local_cloud_is_refused_at_once(
    signed_in: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    monkeypatch.delenv("API_ENDPOINT_OVERRIDE")
    with pytest.raises(ConfigurationError, match="led to Google's own") as error:
        open_vault("gs://some-bucket").check_writable()
    assert f"export API_ENDPOINT_OVERRIDE={signed_in.url}" in error.value.hint
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", signed_in.url)
    monkeypatch.delenv("RESIL_LOCALCLOUD")
    with pytest.raises(ConfigurationError, match="neither Google's") as error:
        open_vault("gs://some-bucket").check_writable()
    assert f"export RESIL_LOCALCLOUD={signed_in.url}" in error.value.hint
    assert time.monotonic() - begun < 2


def test_an_emulator_that_is_not_ours_is_refused(
    signed_in: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = signed_in.bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="STORAGE_EMULATOR_HOST is set") as error:
        open_vault(f"gs://{bucket.name}").check_writable()
    assert "localcloud" in error.value.hint
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", signed_in.url)
    # As nobody: our own cloud lets nobody in.
    with pytest.raises(VaultUnreachable, match="signing in failed"):
        open_vault(f"gs://{bucket.name}").check_writable()
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.delenv("RESIL_LOCALCLOUD")
    with pytest.raises(ConfigurationError, match="neither Google's nor the local cloud"):
        open_vault(f"gs://{bucket.name}").check_writable()


def test_nobody_is_refused_but_on_this_machine() -> None:
    def client() -> storage.Client:
        return storage.Client(
            project="p",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint="https://storage.googleapis.com"),
        )

    with pytest.raises(ConfigurationError, match="no credentials"):
        GcsVault("bucket", client=client).check_writable()


def test_a_dead_server_is_told_soon(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    client = cloud.client("backup")
    dead = storage.Client(
        project="p",
        credentials=client._credentials,
        client_options=ClientOptions(api_endpoint="http://127.0.0.1:9"),
    )
    monkeypatch.setenv("RESIL_LOCALCLOUD", "http://127.0.0.1:9")
    vault = GcsVault("bucket", settings=QUICK, client=lambda: dead)
    begun = datetime.now(UTC)
    with pytest.raises(VaultUnreachable) as error:
        vault.check_writable()
    assert error.value.transient
    assert datetime.now(UTC) - begun < timedelta(seconds=15)
    assert "(tried again for 2 s)" in error.value.message
    assert "does the local cloud at http://127.0.0.1:9 run" in error.value.hint
    dead.close()


def test_trying_again_for_long_is_told_meanwhile(
    cloud: Cloud, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dagster_resil"), "propagate", True)
    monkeypatch.setattr("dagster_resil.vault.gcs_media._LONG_S", 0.5)
    vault = cloud.vault()
    vault.put("x", [b"data"])
    with cloud.failing("error", method="storage.*", times=1):
        vault.size("x")
    assert caplog.text == ""
    with cloud.failing("error", method="storage.*"), pytest.raises(VaultUnreachable):
        vault.size("x")
    told = {record.created: record.getMessage() for record in caplog.records}
    [message] = told.values()
    assert message.startswith("Cloud Storage has failed for")


# -- many, and large


def test_five_thousand_small_objects(cloud: Cloud, vault: GcsVault) -> None:
    vault.check_writable()
    cloud.forget()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: vault.put(f"shop/n/{n:04}", [b"%d" % n]), range(5000)))
    assert cloud.requests()["counts"] == {"storage.objects.insert": 5000}
    cloud.forget()
    assert list(vault.names("shop/n/")) == [f"shop/n/{n:04}" for n in range(5000)]
    assert cloud.requests()["counts"] == {"storage.objects.list": 5}
    assert sum(vault.sizes("shop/").values()) == 18_890
    cloud.forget()
    assert list(vault.folders()) == ["shop"]
    assert cloud.requests()["counts"] == {"storage.objects.list": 1}


def _memory_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux: /proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    "size", [300 * MIB, pytest.param(3 << 30, marks=pytest.mark.long)], ids=["300MB", "3GB"]
)
def test_a_large_object_in_bounded_memory(cloud: Cloud, size: int) -> None:
    vault = cloud.vault(settings=replace(QUICK, whole_bytes=16 * MIB, step_bytes=8 * MIB))
    block = os.urandom(MIB)
    before = peak = _memory_bytes()
    server_before = cloud.status()["peak_memory_bytes"]

    def chunks() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(size // MIB):
            peak = max(peak, _memory_bytes())
            yield block

    vault.put("x", chunks())
    with vault.open("x") as stream:
        read = 0
        for chunk in stream:
            read += len(chunk)
            peak = max(peak, _memory_bytes())
    assert read == size
    assert peak - before < 80 * MIB
    assert cloud.status()["peak_memory_bytes"] - server_before < 64 * MIB
    cloud.client().bucket(vault.bucket_name).blob(vault.prefix + "x").delete()
