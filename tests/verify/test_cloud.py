"""Backups in Cloud Storage, damaged or out of reach at every step."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner
from google.cloud import storage

from dagster_resil.cli import cli
from dagster_resil.demo.damage import CloudBackup, change_one_value, flip_one_byte
from dagster_resil.errors import (
    BackupFailed,
    ReceiptLost,
    ResilError,
    RestoreFailed,
    VaultError,
    VaultUnreachable,
)
from dagster_resil.records.manifest import Manifest, StoredObject
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.layout import folder, manifest_name
from dagster_resil.verify.prove import VerifySettings, verify_backup
from tests.conftest import Source
from tests.localcloud.cloud import QUICK, Cloud
from tests.taking import restore_backup, take_backup

SCHEMA = """
CREATE TABLE parent (id int PRIMARY KEY, note text);
INSERT INTO parent SELECT n, 'note ' || md5(n::text) FROM generate_series(1, 4000) n;
CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent, amount numeric);
INSERT INTO child SELECT n, 1 + n % 4000, n FROM generate_series(1, 8000) n;
SELECT lo_from_bytea(424242, 'one large object');
"""


@dataclass
class Kept:
    """A database, its backup, and the bucket that it is in."""

    cloud: Cloud
    source: Source
    bucket: storage.Bucket
    vault: GcsVault
    manifest: Manifest

    @property
    def backup(self) -> CloudBackup:
        return CloudBackup(self.bucket, self.vault.prefix, self.manifest)

    def blob(self, name: str) -> storage.Blob:
        return self.bucket.blob(self.vault.prefix + name)

    def verify(self, *, streamed_bytes: int = 0) -> Receipt:
        return verify_backup(
            self.vault,
            Backups(self.vault).load(self.manifest.backup_id),
            settings=VerifySettings(streamed_bytes=streamed_bytes),
        )


@pytest.fixture
def database(one_source: Source) -> str:
    endpoint = one_source.create()
    one_source.execute(endpoint, SCHEMA)
    return endpoint.parameters["dbname"]


@pytest.fixture
def kept(one_source: Source, database: str, cloud: Cloud) -> Kept:
    bucket = cloud.bucket()
    vault = cloud.vault(bucket)
    manifest = take_backup(one_source.server.endpoint(database), vault, name="shop")
    return Kept(cloud, one_source, bucket, vault, manifest)


def failed(receipt: Receipt) -> set[str]:
    return {check.name for check in receipt.checks if check.verdict is Verdict.FAIL}


def test_a_good_backup_passes_and_its_requests_are_few(kept: Kept) -> None:
    kept.cloud.forget()
    assert kept.verify().verdict is Verdict.PASS
    counts = kept.cloud.requests()["counts"]
    objects = len(kept.manifest.objects)
    # The manifest, each object once, and for what is streamed one look before.
    assert counts["storage.objects.get"] <= 1 + 2 * objects
    assert counts["storage.objects.insert"] == 1  # the receipt


def test_a_backup_takes_one_request_an_object(
    one_source: Source, database: str, cloud: Cloud
) -> None:
    vault = cloud.vault()
    vault.check_writable()
    cloud.forget()
    manifest = take_backup(one_source.server.endpoint(database), vault, name="shop")
    counts = cloud.requests()["counts"]
    assert counts.pop("storage.objects.insert") == len(manifest.objects) + 1
    assert sum(counts.values()) <= 5, counts  # rights, the last source, sizes


# -- damaged at rest, or by a thief


def _kinds(manifest: Manifest) -> dict[str, str]:
    """Return one object of each kind."""
    found: dict[str, str] = {}
    for item in manifest.objects:
        kind = re.sub(r"\d+", "N", item.name)
        found.setdefault(kind, item.name)
    return found


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _replaced(data: bytes) -> bytes:
    return bytes(each ^ 0x55 for each in data)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": _truncated,
    "replaced by as many other bytes": _replaced,
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted", "exchanged"])
def test_each_kind_of_object_damaged(kept: Kept, damage: str) -> None:
    kinds = _kinds(kept.manifest)
    assert len(kinds) >= 8, kinds
    names = list(kinds.values())
    for kind, relative in kinds.items():
        name = folder(kept.manifest.backup_id) + relative
        before = kept.backup.read(name)
        if damage == "deleted":
            kept.blob(name).delete()
        elif damage == "exchanged":
            other = names[names.index(relative) - 1]
            kept.backup.write(name, kept.backup.read(folder(kept.manifest.backup_id) + other))
        else:
            kept.backup.write(name, DAMAGES[damage](before))
        changed = damage == "deleted" or kept.backup.read(name) != before
        receipt = kept.verify()
        if changed:
            assert receipt.verdict is Verdict.FAIL, kind
            assert "archive_intact" in failed(receipt), kind
            assert relative in str(receipt.check("archive_intact")), kind
            # Nothing is repaired in silence.
            assert damage == "deleted" or kept.backup.read(name) != before
        kept.backup.write(name, before)
    assert kept.verify().verdict is Verdict.PASS


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted", "exchanged"])
def test_a_manifest_damaged(kept: Kept, damage: str, database: str) -> None:
    backups = Backups(kept.vault)
    other = take_backup(kept.source.server.endpoint(database), kept.vault, name="shop")
    name = manifest_name(kept.manifest.backup_id)
    data = kept.backup.read(name)
    if damage == "deleted":
        kept.blob(name).delete()
    elif damage == "exchanged":
        kept.backup.write(name, kept.backup.read(manifest_name(other.backup_id)))
    else:
        kept.backup.write(name, DAMAGES[damage](data))
    listing = backups.entries("shop")
    assert [entry.manifest.backup_id for entry in listing.backups] == [other.backup_id]
    assert len(listing.problems) == (0 if damage == "deleted" else 1)
    with pytest.raises(ResilError):
        backups.load(kept.manifest.backup_id)


@pytest.mark.parametrize("damage", [*DAMAGES, "deleted"])
def test_a_receipt_damaged_is_no_pass(kept: Kept, damage: str) -> None:
    kept.verify()
    [name] = kept.vault.names("shop/receipts/")
    if damage == "deleted":
        kept.blob(name).delete()
    else:
        kept.backup.write(name, DAMAGES[damage](kept.backup.read(name)))
    [entry] = Backups(kept.vault).entries().backups
    assert entry.verdict is not Verdict.PASS


def test_a_disk_that_flips_a_bit_below_cloud_storage(kept: Kept) -> None:
    """Cloud Storage tells a checksum that its bytes do not have: nobody knows who damaged them."""
    part = kept.backup.table("public", "child").parts[0]
    name = kept.vault.prefix + folder(kept.manifest.backup_id) + part
    file = kept.cloud.data_file(kept.bucket.name, name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    receipt = kept.verify()
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert failed(receipt) == set()
    assert "public.child" in receipt.check("archive_intact").summary


def test_damages_with_fitting_checksums(kept: Kept) -> None:
    copy = kept.backup.copy("copy")
    vault = kept.cloud.vault(kept.bucket, "copy")
    row = kept.backup.data_of(kept.backup.table("public", "parent")).split(b"\n")[0]
    change_one_value(copy, "public", "parent", row, row + b"x")
    assert failed(verify_backup(vault, copy.reload())) == {"contents_match"}
    flip_one_byte(copy, "public", "child")
    assert failed(verify_backup(vault, copy.reload())) == {"archive_intact"}
    assert kept.verify().verdict is Verdict.PASS, "the original is as it was"


# -- damaged on the way


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_survives_each_of_its_requests_failing_once(
    one_source: Source, database: str, cloud: Cloud, when: str
) -> None:
    vault = cloud.vault()
    endpoint = one_source.server.endpoint(database)
    cloud.forget()
    take_backup(endpoint, vault, name="shop")
    requests = len(cloud.requests()["log"])
    assert requests > 15
    # Which request comes when differs from run to run: each is the n-th of some backup.
    for number in range(0, requests, 4):
        for offset in range(4):
            cloud.fault("error", method="storage.*", skip=number + offset, times=1, when=when)
        manifest = take_backup(endpoint, vault, name="shop")
        cloud.mend()
        assert verify_backup(vault, manifest).verdict is Verdict.PASS
    listing = Backups(vault).entries()
    assert listing.problems == ()
    assert len({entry.manifest.backup_id for entry in listing.backups}) == len(listing.backups)


def test_a_backup_whose_requests_fail_for_good_is_not_listed(
    one_source: Source, database: str, cloud: Cloud
) -> None:
    vault = cloud.vault(settings=replace(QUICK, retry_s=0.3))
    endpoint = one_source.server.endpoint(database)
    cloud.forget()
    take_backup(endpoint, vault, name="shop")
    inserts = cloud.requests()["counts"]["storage.objects.insert"]
    for number in range(0, inserts, 2):
        with (
            cloud.failing("error", method="storage.objects.insert", skip=number, status=400),
            pytest.raises(ResilError),
        ):
            take_backup(endpoint, vault, name="shop")
        assert len(Backups(vault).entries().backups) == 1


def test_reads_that_arrive_damaged_are_never_a_pass(kept: Kept) -> None:
    with kept.cloud.failing(
        "corrupt", method="storage.objects.get", object="*.dat.gz*", at_byte=60
    ):
        receipt = kept.verify()
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert failed(receipt) == set(), "the vault says that it has what the manifest says"
    assert OTHER_THAN_TOLD in receipt.check("archive_intact").summary
    assert kept.verify().verdict is Verdict.PASS


OTHER_THAN_TOLD = "arrived with other contents than the vault says it has"


def test_no_bad_answer_makes_a_good_backup_fail(
    kept: Kept,
) -> None:
    part = kept.backup.table("public", "child").parts[0]
    # At byte 0 neither JSON nor gzip is what it should be; further on gzip notices at its end.
    cases = [(name, 0, 0) for name in _kinds(kept.manifest).values()]
    cases += [
        (part, 1, 0),
        (manifest_name(kept.manifest.backup_id), 0, 0),
        ("receipts/", 0, 0),
        (part, 1, 900),
    ]
    for name, skip, at_byte in cases:
        kept.cloud.mend()
        kept.cloud.fault(
            "corrupt", object=f"*{name}*", incoming=False, at_byte=at_byte, skip=skip, times=1
        )
        receipt = kept.verify()
        summary = receipt.check("archive_intact").summary
        assert failed(receipt) == set(), (name, skip, summary)
        # A part's answers: of its size, then the part itself. What was not passed on into the
        # database is asked for again.
        if receipt.verdict is not Verdict.PASS:
            assert f"{OTHER_THAN_TOLD} while it was restored: try again" in summary
            assert (skip, ".dat.gz" in name) == (1, True), (name, skip)
    with kept.cloud.failing(
        "corrupt", method="storage.objects.get", object="*.dat.gz", at_byte=900, times=1
    ):
        assert kept.verify(streamed_bytes=1 << 30).verdict is Verdict.PASS


def test_an_object_that_arrives_damaged_twice_is_no_proof(kept: Kept) -> None:
    with kept.cloud.failing(
        "corrupt", method="storage.objects.get", object="*/RESTORE.md", at_byte=50, times=4
    ):
        receipt = kept.verify()
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert failed(receipt) == set()
    assert f"object RESTORE.md {OTHER_THAN_TOLD}, twice: try again" in str(receipt.checks)


def test_answers_that_are_no_json_are_the_ways_fault(kept: Kept) -> None:
    with kept.cloud.failing(
        "corrupt", method="storage.objects.get", object="*/archive/table_*", incoming=False
    ):
        receipt = kept.verify()
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert failed(receipt) == set()
    assert "not JSON" in receipt.check("archive_intact").summary


def test_a_vault_that_stays_away_is_not_asked_for_each_object(kept: Kept) -> None:
    vault = kept.cloud.vault(kept.bucket, settings=replace(QUICK, retry_s=1.5))
    kept.cloud.fault("error", method="storage.objects.get", bucket=vault.bucket_name)
    begun = time.monotonic()
    receipt = verify_backup(vault, kept.manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE
    # Two are on their way at a time.
    assert time.monotonic() - begun < 3 * 1.5


def test_streams_that_are_cut_are_read_on(kept: Kept) -> None:
    with kept.cloud.failing(
        "cut", method="storage.objects.get", object="*/archive/*", at_byte=1000, times=3
    ):
        assert kept.verify().verdict is Verdict.PASS


# -- gone


@pytest.fixture(params=["bucket deleted", "region gone", "denied"])
def gone(request: pytest.FixtureRequest) -> Callable[[Cloud, str, int], None]:
    """What takes a bucket away after a number of requests."""

    def turn(cloud: Cloud, bucket: str, skip: int) -> None:
        ways: dict[str, dict[str, Any]] = {
            "bucket deleted": {
                "kind": "error",
                "status": 404,
                "reason": "notFound",
                "message": "The specified bucket does not exist.",
            },
            "region gone": {"kind": "region_gone", "location": "europe-west1"},
            "denied": {"kind": "denied", "permission": "*"},
        }
        cloud.fault(**ways[request.param], method="storage.*", bucket=bucket, skip=skip)

    return turn


Gone = Callable[[Cloud, str, int], None]


@pytest.mark.parametrize("skip", [0, 3, 8, 12])
def test_a_bucket_gone_in_the_middle_of_a_backup(
    one_source: Source, database: str, cloud: Cloud, gone: Gone, skip: int
) -> None:
    vault = cloud.vault(settings=replace(QUICK, retry_s=0.3))
    vault.check_writable()
    gone(cloud, vault.bucket_name, skip)
    with pytest.raises((VaultError, BackupFailed)) as error:
        take_backup(one_source.server.endpoint(database), vault, name="shop")
    assert error.value.exit_code == 4
    assert vault.bucket_name in error.value.message
    assert error.value.hint
    cloud.mend()
    assert Backups(vault).entries().backups == ()


@pytest.mark.parametrize("skip", [1, 5, 12])
def test_a_bucket_gone_in_the_middle_of_a_verification(
    kept: Kept, gone: Gone, skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = kept.cloud.vault(kept.bucket, settings=replace(QUICK, retry_s=0.3))
    gone(kept.cloud, vault.bucket_name, skip)
    # It is back for the receipt, which is where the verdict can be seen.
    put = vault.put

    def mend_and_put(name: str, chunks: Iterable[bytes]) -> StoredObject:
        kept.cloud.mend()
        return put(name, chunks)

    monkeypatch.setattr(vault, "put", mend_and_put)
    receipt = verify_backup(vault, kept.manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert failed(receipt) == set()
    assert vault.bucket_name in receipt.check("archive_intact").summary


def test_a_bucket_that_stays_away_leaves_no_verdict(kept: Kept, gone: Gone) -> None:
    vault = kept.cloud.vault(kept.bucket, settings=replace(QUICK, retry_s=0.3))
    gone(kept.cloud, vault.bucket_name, 4)
    with pytest.raises(ReceiptLost, match="INCONCLUSIVE, is not kept") as error:
        verify_backup(vault, kept.manifest)
    assert error.value.receipt.verdict is Verdict.INCONCLUSIVE
    kept.cloud.mend()
    assert Backups(kept.vault).verdict(kept.manifest.backup_id) is None


def test_who_may_write_no_receipt_is_told_before_the_work(kept: Kept) -> None:
    vault = kept.cloud.vault(kept.bucket, account="restorer")
    kept.cloud.forget()
    with pytest.raises(VaultUnreachable, match=r"storage\.objects\.create missing") as error:
        verify_backup(vault, kept.manifest)
    assert "roles/storage.objectCreator" in error.value.hint
    assert "restorer@local.iam.gserviceaccount.com" in error.value.hint
    asked = kept.cloud.requests()["counts"]
    assert asked.keys() <= {"oauth2.token", "storage.buckets.testIamPermissions"}


def test_a_verdict_that_can_not_be_kept_is_shown(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in kept.cloud.running.environment().items():
        monkeypatch.setenv(key, value)
    words = ["verify", "latest", "--vault", kept.vault.url]
    with kept.cloud.failing(
        "error", method="storage.objects.insert", status=403, message="no such luck"
    ):
        said = CliRunner().invoke(cli, words, standalone_mode=False)
        as_json = CliRunner().invoke(cli, [*words, "--json"], standalone_mode=False)
    assert said.return_value == as_json.return_value == 4
    assert "PASS  archive_intact" in said.stdout
    assert "PASS, is not kept" in said.stderr
    assert "hint: " in said.stderr
    document = json.loads(as_json.stdout)
    assert (document["verdict"], document["error"]["code"]) == ("PASS", "receipt_lost")


@pytest.fixture
def target(one_source: Source) -> str:
    return one_source.create().parameters["dbname"]


@pytest.mark.parametrize("skip", [1, 5, 12])
def test_a_bucket_gone_in_the_middle_of_a_restore(
    kept: Kept, gone: Gone, target: str, skip: int
) -> None:
    vault = kept.cloud.vault(kept.bucket, settings=replace(QUICK, retry_s=0.3))
    gone(kept.cloud, vault.bucket_name, skip)
    with pytest.raises(ResilError) as error:
        restore_backup(vault, kept.manifest, kept.source.server.endpoint(target))
    assert error.value.exit_code == 4
    assert "damage" not in str(error.value)
    assert "another" not in error.value.hint
    assert vault.bucket_name in error.value.message
    kept.cloud.mend()
    again = kept.source.create()
    report = restore_backup(vault, kept.manifest, again)
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize("streamed", [True, False])
def test_a_restore_of_a_damaged_backup_says_what_is_damaged(
    kept: Kept, target: str, streamed: bool
) -> None:
    part = kept.backup.table("public", "child").parts[0] if streamed else "globals.sql"
    name = folder(kept.manifest.backup_id) + part
    data = kept.backup.read(name)
    middle = len(data) // 2
    kept.backup.write(name, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(RestoreFailed) as error:
        restore_backup(kept.vault, kept.manifest, kept.source.server.endpoint(target))
    assert f"object {part} has other contents than its checksums say" in error.value.message
    assert f"is damaged: {'public.child: ' if streamed else ''}object" in error.value.message
    left = "drop it" if streamed else "nothing was restored"
    for words in (left, "use another backup (resil list)", "resil verify"):
        assert words in error.value.hint
    assert "owners" not in str(error.value)


@pytest.mark.parametrize("at_byte", [0, 900])
def test_a_restore_of_what_arrives_damaged_is_to_be_tried_again(
    kept: Kept, target: str, at_byte: int
) -> None:
    part = kept.backup.table("public", "child").parts[0]
    with (
        # The first look at it asks for its size.
        kept.cloud.failing(
            "corrupt",
            method="storage.objects.get",
            object=f"*/{part}",
            skip=1,
            times=1,
            at_byte=at_byte,
        ),
        pytest.raises(VaultUnreachable, match="can't be read whole") as error,
    ):
        restore_backup(kept.vault, kept.manifest, kept.source.server.endpoint(target))
    assert f"{OTHER_THAN_TOLD} while it was restored" in error.value.message
    assert "drop it; try again" in error.value.hint
