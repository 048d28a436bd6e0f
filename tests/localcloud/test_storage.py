"""What the local cloud enforces, by Google's own client. Backups rely on each of these."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import requests
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from tests.localcloud.cloud import Cloud

MIB = 1 << 20
ONCE: dict[str, Any] = {"retry": None, "timeout": 10}
SOON = {"retry": DEFAULT_RETRY.with_timeout(3).with_delay(initial=0.1), "timeout": 10}


@pytest.fixture
def bucket(cloud: Cloud) -> storage.Bucket:
    return cloud.bucket()


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def put(bucket: storage.Bucket, name: str, data: bytes = b"data", **options: Any) -> storage.Blob:
    blob = bucket.blob(name)
    blob.upload_from_string(data, **options)
    return blob


def session(cloud: Cloud, account: str = "owner") -> Any:
    return cloud.client(account)._http


# -- upload and download


@pytest.mark.parametrize("size", [0, 1, 100_000, 9 * MIB])  # above 8 MB the client resumes
def test_bytes_come_back_as_they_went(bucket: storage.Bucket, size: int) -> None:
    data = os.urandom(size)
    blob = put(bucket, "a/ö b", data, checksum="crc32c", if_generation_match=0)
    assert (blob.size, blob.crc32c, blob.metageneration) == (size, crc32c(data), 1)

    again = bucket.get_blob("a/ö b")
    assert again.download_as_bytes(checksum="crc32c") == data
    assert again.generation == blob.generation
    assert again.storage_class == "STANDARD"
    assert again.time_created.tzinfo is not None


def test_an_upload_without_metadata(cloud: Cloud, bucket: storage.Bucket) -> None:
    url = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=x"
    answer = session(cloud).post(url, data=b"simple", headers={"Content-Type": "text/plain"})
    assert answer.json()["contentType"] == "text/plain"
    assert bucket.blob("x").download_as_bytes() == b"simple"


def test_the_multipart_body_of_gcloud(cloud: Cloud, bucket: storage.Bucket) -> None:
    """Its lines end in LF alone, and its boundary is in single quotes; Google takes both."""
    mark = "===============3302884269019719833=="
    url = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?alt=json&uploadType=multipart"
    data = b"one\r\ntwo\n\n--" + os.urandom(9000)
    for name, quote, end in (("a", "'", "\n"), ("b", '"', "\r\n"), ("c", "", "\n")):
        head = [
            f"--{mark}",
            "Content-Type: application/json",
            "MIME-Version: 1.0",
            "",
            json.dumps({"name": name, "bucket": bucket.name}),
            f"--{mark}",
            "Content-Type: text/plain",
            "",
            "",
        ]
        body = end.join(head).encode() + data + f"{end}--{mark}--{end}".encode()
        kind = f"multipart/related; boundary={quote}{mark}{quote}"
        answer = session(cloud).post(url, data=body, headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["contentType"] == "text/plain"
        assert found["md5Hash"] == base64.b64encode(hashlib.md5(data).digest()).decode()
        assert bucket.blob(name).download_as_bytes() == data
        # The two kinds of line ends are not mixed.
        other = body.replace(f"{end}--{mark}--{end}".encode(), b"--" + mark.encode() + b"--")
        assert (
            session(cloud).post(url, data=other, headers={"Content-Type": kind}).status_code == 400
        )


def test_an_upload_begins_where_gcloud_begins_its_stdin(
    cloud: Cloud, bucket: storage.Bucket
) -> None:
    url = f"{cloud.url}/resumable/upload/storage/v1/b/{bucket.name}/o?alt=json&uploadType=resumable"
    begun = session(cloud).post(url, json={"name": "x", "bucket": bucket.name})
    assert begun.status_code == 200
    data = os.urandom(300_000)
    for start, end, total in ((0, 1 << 18, "*"), (1 << 18, len(data), len(data))):
        answer = session(cloud).put(
            begun.headers["Location"],
            data=data[start:end],
            headers={"Content-Range": f"bytes {start}-{end - 1}/{total}"},
        )
    assert answer.status_code == 200
    assert bucket.blob("x").download_as_bytes() == data


@pytest.mark.parametrize("account", ["owner", "backup"])
def test_gcloud_itself(cloud: Cloud, bucket: storage.Bucket, tmp_path: Path, account: str) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud can't be had on this machine: UNTESTED with it")
    file, back = tmp_path / "file", tmp_path / "back"
    data = os.urandom(9 * MIB)
    file.write_bytes(data)

    def gcloud(*words: str, stdin: bytes = b"") -> bytes:
        script = f'. "{cloud.running.environment_file(account)}"; exec gcloud storage "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *words],
            input=stdin,
            capture_output=True,
            env={
                **os.environ,
                "CLOUDSDK_CONFIG": str(tmp_path / "config"),
                "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            },
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    place = f"gs://{bucket.name}"
    gcloud("cp", str(file), f"{place}/small", stdin=b"")
    gcloud("cp", "-", f"{place}/from-stdin", stdin=data)
    assert bucket.blob("small").download_as_bytes() == data
    gcloud("cp", f"{place}/from-stdin", str(back))
    assert back.read_bytes() == data
    assert gcloud("ls", place).decode().split() == [f"{place}/from-stdin", f"{place}/small"]


def test_ranges(cloud: Cloud, bucket: storage.Bucket) -> None:
    blob = put(bucket, "x", b"0123456789")
    assert blob.download_as_bytes(start=2, end=4) == b"234"
    assert blob.download_as_bytes(start=7) == b"789"
    url = f"{cloud.url}/download/storage/v1/b/{bucket.name}/o/x?alt=media"
    last = session(cloud).get(url, headers={"Range": "bytes=-3"})
    assert (last.status_code, last.content) == (206, b"789")
    assert last.headers["Content-Range"] == "bytes 7-9/10"
    assert last.headers["X-Goog-Hash"] == f"crc32c={crc32c(b'0123456789')}"
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10)


def test_a_corrupted_upload_has_its_content_damaged_and_nothing_else(
    cloud: Cloud, bucket: storage.Bucket
) -> None:
    for size in (10, 9 * MIB):
        with cloud.failing("corrupt", method="storage.*", at_byte=3):
            blob = put(bucket, f"x{size}", b"a" * size, checksum=None, **ONCE)
        assert blob.size == size, "the answer is as it was"
        assert bucket.blob(blob.name).download_as_bytes() == b"aaa`" + b"a" * (size - 4)
        with (
            cloud.failing("corrupt", method="storage.*", at_byte=3),
            pytest.raises(exceptions.GoogleAPICallError, match="CRC32C"),
        ):
            put(bucket, f"y{size}", b"a" * size, checksum="crc32c", **ONCE)


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_wrong_checksum_is_refused(cloud: Cloud, bucket: storage.Bucket, size: int) -> None:
    blob = bucket.blob("x")
    with (
        cloud.failing("corrupt", method="storage.*", incoming=True, at_byte=600),
        pytest.raises(exceptions.GoogleAPICallError) as error,
    ):
        blob.upload_from_string(b"z" * (size + 600), checksum="crc32c", **ONCE)
    assert error.value.code == 400
    assert "CRC32C" in str(error.value)
    assert bucket.get_blob("x") is None


def test_a_wrong_md5_is_refused(bucket: storage.Bucket) -> None:
    blob = bucket.blob("x")
    blob.md5_hash = base64.b64encode(b"0" * 16).decode()
    with pytest.raises(exceptions.BadRequest, match="MD5"):
        blob.upload_from_string(b"data", checksum=None, **ONCE)
    put(bucket, "x", checksum="md5")


def test_a_compressed_object_is_unpacked_on_its_way_unless_asked_for_raw(
    bucket: storage.Bucket,
) -> None:
    data = gzip.compress(b"text" * 1000)
    blob = bucket.blob("x")
    blob.content_encoding = "gzip"
    blob.upload_from_string(data)
    assert blob.download_as_bytes(raw_download=True) == data
    assert blob.download_as_bytes() == b"text" * 1000


# -- generations


def test_a_generation_of_0_means_that_nothing_is_there(bucket: storage.Bucket) -> None:
    for size in (10, 9 * MIB):
        name = f"x{size}"
        put(bucket, name, b"a" * size, if_generation_match=0)
        # By media upload the library answers a failed precondition with another exception.
        with pytest.raises(exceptions.PreconditionFailed):
            put(bucket, name, b"b" * size, if_generation_match=0, **ONCE)
        assert bucket.blob(name).download_as_bytes() == b"a" * size


def test_the_precondition_of_a_resumable_upload_is_looked_at_at_its_end(
    cloud: Cloud, bucket: storage.Bucket
) -> None:
    blob = bucket.blob("x")
    url = blob.create_resumable_upload_session(if_generation_match=0)
    put(bucket, "x", b"first")
    answer = session(cloud).put(url, data=b"second")
    assert answer.status_code == 412
    assert bucket.blob("x").download_as_bytes() == b"first"


CALLS: dict[str, Callable[[storage.Bucket, dict[str, int]], object]] = {
    "insert": lambda b, c: b.blob("x").upload_from_string(b"new", **c, **ONCE),
    "insert, resumable": lambda b, c: b.blob("x").upload_from_string(b"n" * 9 * MIB, **c, **ONCE),
    "get": lambda b, c: b.blob("x").reload(**c, **ONCE),
    "download": lambda b, c: b.blob("x").download_as_bytes(**c, **ONCE),
    "delete": lambda b, c: b.blob("x").delete(**c, **ONCE),
    "patch": lambda b, c: _patched(b.blob("x")).patch(**c, **ONCE),
    "compose": lambda b, c: b.blob("x").compose([b.blob("y")], **c, **ONCE),
    "rewrite": lambda b, c: b.blob("x").rewrite(b.blob("y"), **c, **ONCE),
}
SOURCES: dict[str, Callable[[storage.Bucket, dict[str, int]], object]] = {
    "rewrite": lambda b, c: b.blob("z").rewrite(
        b.blob("x"), **{k.replace("if_", "if_source_"): v for k, v in c.items()}, **ONCE
    ),
}


def _patched(blob: storage.Blob) -> storage.Blob:
    blob.metadata = {"a": "b"}
    return blob


@pytest.mark.parametrize("kind", ["generation", "metageneration"])
@pytest.mark.parametrize("call", [*CALLS, "source of rewrite"])
def test_preconditions_hold_on_every_method(bucket: storage.Bucket, call: str, kind: str) -> None:
    if call == "compose" and kind == "metageneration":
        kind = "generation"  # compose by the library knows no "not", nor does the API
    put(bucket, "x")
    put(bucket, "y")
    there = bucket.get_blob("x")
    right = getattr(there, kind)
    use = SOURCES["rewrite"] if call == "source of rewrite" else CALLS[call]

    with pytest.raises(exceptions.PreconditionFailed):
        use(bucket, {f"if_{kind}_match": right + 1})
    if call not in ("compose", "insert", "insert, resumable"):
        with pytest.raises((exceptions.PreconditionFailed, exceptions.NotModified)):
            use(bucket, {f"if_{kind}_not_match": right})
    assert bucket.get_blob("x").generation == there.generation, "nothing has changed"
    use(bucket, {f"if_{kind}_match": right})


def test_one_of_many_writers_wins(cloud: Cloud, bucket: storage.Bucket) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def write(number: int) -> None:
        start.wait()
        try:
            put(bucket, "x", b"%d" % number * 1000, if_generation_match=0, **ONCE)
            outcomes.append("won")
        except exceptions.PreconditionFailed:
            outcomes.append("lost")

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_buckets_metageneration_is_a_precondition(cloud: Cloud, bucket: storage.Bucket) -> None:
    bucket.reload()
    stale = cloud.client().bucket(bucket.name)
    bucket.labels = {"a": "b"}
    bucket.patch(if_metageneration_match=bucket.metageneration)
    stale.labels = {"a": "c"}
    with pytest.raises(exceptions.PreconditionFailed):
        stale.patch(if_metageneration_match=1, **ONCE)


# -- resumable uploads


def test_a_resumable_upload_goes_on_where_it_was_cut(cloud: Cloud, bucket: storage.Bucket) -> None:
    data = os.urandom(2 * MIB + 17)
    http = session(cloud)
    url = bucket.blob("x").create_resumable_upload_session(if_generation_match=0)
    with (
        cloud.failing("cut", method="storage.uploads.put", at_byte=MIB + 5, times=1),
        pytest.raises(requests.ConnectionError),
    ):
        http.put(url, data=data)
    answer = http.put(url, data=b"", headers={"Content-Range": "bytes */*"})
    assert answer.status_code == 308
    assert answer.headers["Range"] == f"bytes=0-{MIB - 1}", "in steps of 256 KiB"
    assert bucket.get_blob("x") is None
    answer = http.put(
        url, data=data[MIB:], headers={"Content-Range": f"bytes {MIB}-{len(data) - 1}/{len(data)}"}
    )
    assert answer.json()["crc32c"] == crc32c(data)
    # Asked again, it tells what it has made.
    again = http.put(url, data=b"", headers={"Content-Range": "bytes */*"})
    assert again.json()["generation"] == answer.json()["generation"]
    assert bucket.blob("x").download_as_bytes() == data


def test_parts_of_a_resumable_upload_that_make_no_sense(
    cloud: Cloud, bucket: storage.Bucket
) -> None:
    http = session(cloud)
    url = bucket.blob("x").create_resumable_upload_session()
    wrong = {
        "not a multiple of 256 KiB": (b"x" * 1000, "bytes 0-999/*"),
        "a gap": (b"x" * (256 << 10), f"bytes 1-{256 << 10}/*"),
        "another length": (b"x" * 10, "bytes 0-20/21"),
        "nonsense": (b"x", "bytes nonsense"),
        "behind the end": (b"x" * 10, "bytes 0-9/5"),
    }
    for title, (data, header) in wrong.items():
        assert http.put(url, data=data, headers={"Content-Range": header}).status_code == 400, title
    assert http.delete(url).status_code == 499
    assert http.put(url, data=b"x").status_code == 410
    assert http.put(url + "x", data=b"x").status_code == 404
    assert bucket.get_blob("x") is None


def test_a_wrong_checksum_at_the_end_of_a_resumable_upload(
    cloud: Cloud, bucket: storage.Bucket
) -> None:
    url = bucket.blob("x").create_resumable_upload_session()
    answer = session(cloud).put(url, data=b"data", headers={"X-Goog-Hash": "crc32c=AAAAAA=="})
    assert answer.status_code == 400
    assert "CRC32C" in answer.text
    assert bucket.get_blob("x") is None


# -- copies


def test_rewrite_to_another_region_takes_several_calls(cloud: Cloud) -> None:
    data = os.urandom(3 * MIB + 1)
    source = cloud.bucket("europe-west1")
    target = cloud.bucket("us-east1")
    put(source, "x", data)
    copy = target.blob("y")
    query = {"maxBytesRewrittenPerCall": str(MIB)}
    http, calls = session(cloud), 0
    extra: dict[str, str] = {}
    while True:
        answer = http.post(
            f"{cloud.url}/storage/v1/b/{source.name}/o/x/rewriteTo/b/{target.name}/o/y",
            params={**query, **extra},
            json={},
        ).json()
        calls += 1
        if answer["done"]:
            break
        assert target.get_blob("y") is None
        extra = {"rewriteToken": answer["rewriteToken"]}
    assert calls == 4
    assert copy.download_as_bytes() == data
    assert answer["resource"]["crc32c"] == crc32c(data)


def test_a_rewrite_token_is_of_one_copy(cloud: Cloud) -> None:
    source, target = cloud.bucket("europe-west1"), cloud.bucket("us-east1")
    put(source, "x", b"x" * 2 * MIB)
    url = f"{cloud.url}/storage/v1/b/{source.name}/o/x/rewriteTo/b/{target.name}/o"
    http = session(cloud)
    query = {"maxBytesRewrittenPerCall": str(MIB)}
    token = http.post(f"{url}/y", params=query, json={}).json()["rewriteToken"]
    other = http.post(f"{url}/z", params={**query, "rewriteToken": token}, json={})
    assert other.status_code == 400
    put(source, "x", b"y" * 2 * MIB)  # the source has changed
    changed = http.post(f"{url}/y", params={**query, "rewriteToken": token}, json={})
    assert changed.status_code == 400
    assert http.post(f"{url}/y", params={"rewriteToken": "none"}, json={}).status_code == 400


def test_rewrite_by_the_client(cloud: Cloud) -> None:
    source, target = cloud.bucket("europe-west1"), cloud.bucket("us-east1")
    blob = source.blob("x")
    blob.metadata = {"k": "v"}
    blob.upload_from_string(b"data")
    copy = target.blob("y")
    token, done, total = copy.rewrite(blob, if_generation_match=0)
    assert (token, done, total) == (None, 4, 4)
    assert target.get_blob("y").metadata == {"k": "v"}


def test_compose(bucket: storage.Bucket) -> None:
    parts = [put(bucket, f"p{n}", b"%d" % n * 10) for n in range(3)]
    whole = bucket.blob("whole")
    whole.compose(parts, if_generation_match=0)
    assert whole.download_as_bytes() == b"0" * 10 + b"1" * 10 + b"2" * 10
    assert bucket.get_blob("whole").component_count == 3
    with pytest.raises(exceptions.BadRequest):
        bucket.blob("other").compose([parts[0]] * 33, **ONCE)


# -- lists


def test_lists_come_in_pages(cloud: Cloud, bucket: storage.Bucket) -> None:
    names = sorted(f"{'ab'[n % 2]}/{n:03}" for n in range(25))
    for name in names:
        put(bucket, name, b"")
    put(bucket, "top", b"")
    listing = bucket.list_blobs(page_size=7)
    pages = [[blob.name for blob in page] for page in listing.pages]
    assert [len(page) for page in pages] == [7, 7, 7, 5]
    assert [name for page in pages for name in page] == [*names, "top"]
    assert [b.name for b in bucket.list_blobs(prefix="a/", page_size=5)] == names[:13]
    assert [b.name for b in bucket.list_blobs(start_offset="b/", end_offset="b/009")] == names[
        13:17
    ]
    folders = bucket.list_blobs(delimiter="/", page_size=1)
    assert [blob.name for blob in folders] == ["top"]
    assert folders.prefixes == {"a/", "b/"}
    only = bucket.list_blobs(fields="items(name),nextPageToken", max_results=1)
    assert [blob._properties for blob in only] == [{"name": "a/000"}]


def test_a_list_never_holds_more_than_a_thousand(cloud: Cloud, bucket: storage.Bucket) -> None:
    answer = session(cloud).get(f"{cloud.url}/storage/v1/b/{bucket.name}/o?maxResults=5000")
    assert answer.status_code == 200
    assert (
        session(cloud).get(f"{cloud.url}/storage/v1/b/{bucket.name}/o?pageToken=none").status_code
        == 400
    )


# -- what stays


def test_versions_stay_in_a_versioned_bucket(cloud: Cloud) -> None:
    bucket = cloud.bucket(versioning={"enabled": True})
    first = put(bucket, "x", b"first").generation
    second = put(bucket, "x", b"second").generation
    bucket.blob("x").delete()
    assert bucket.get_blob("x") is None
    versions = {blob.generation for blob in bucket.list_blobs(versions=True)}
    assert versions == {first, second}
    assert bucket.blob("x", generation=first).download_as_bytes() == b"first"
    # Named by its generation, a version is gone.
    bucket.blob("x", generation=first).delete()
    assert [blob.generation for blob in bucket.list_blobs(versions=True)] == [second]


def test_what_is_deleted_can_be_brought_back_for_a_while(cloud: Cloud) -> None:
    bucket = cloud.bucket()
    generation = put(bucket, "x", b"data").generation
    bucket.blob("x").delete()
    [gone] = bucket.list_blobs(soft_deleted=True)
    assert (gone.generation, gone.hard_delete_time > datetime.now(UTC)) == (generation, True)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("x").download_as_bytes()
    bucket.restore_blob("x", generation=generation)
    assert bucket.blob("x").download_as_bytes() == b"data"


def test_without_soft_delete_it_is_gone(cloud: Cloud) -> None:
    bucket = cloud.bucket(softDeletePolicy={"retentionDurationSeconds": "0"})
    put(bucket, "x")
    bucket.blob("x").delete()
    assert list(bucket.list_blobs(soft_deleted=True)) == []


def _refused(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(exceptions.Forbidden) as error:
        call()
    said = {"retentionPolicyNotMet": "is subject to bucket's retention policy"}
    assert said.get(reason, "is under active") in str(error.value)
    if error.value.errors:  # of an upload, the library keeps only the words
        assert error.value.errors[0]["reason"] == reason


def test_a_retention_policy_keeps_objects(cloud: Cloud) -> None:
    bucket = cloud.bucket(retentionPolicy={"retentionPeriod": "3600"})
    blob = put(bucket, "x", b"data")
    assert bucket.get_blob("x").retention_expiration_time > datetime.now(UTC)
    _refused(lambda: bucket.blob("x").delete(**ONCE), "retentionPolicyNotMet")
    _refused(lambda: put(bucket, "x", b"other", **ONCE), "retentionPolicyNotMet")
    _refused(lambda: bucket.blob("x").rewrite(bucket.blob("x"), **ONCE), "retentionPolicyNotMet")
    _refused(lambda: bucket.blob("x").compose([blob], **ONCE), "retentionPolicyNotMet")
    assert bucket.blob("x").download_as_bytes() == b"data"
    bucket.retention_period = None
    bucket.patch()
    bucket.blob("x").delete()


def test_a_locked_policy_is_never_shortened(cloud: Cloud) -> None:
    bucket = cloud.bucket(retentionPolicy={"retentionPeriod": "3600"})
    bucket.lock_retention_policy()
    for policy in ({"retentionPeriod": "1"}, None):
        with pytest.raises(exceptions.Forbidden):
            cloud.client()._patch_resource(f"/b/{bucket.name}", {"retentionPolicy": policy}, **ONCE)
    bucket.retention_period = 7200
    bucket.patch()
    assert bucket.retention_policy_locked


def test_an_objects_own_retention(cloud: Cloud) -> None:
    bucket = cloud.bucket(object_retention=True)
    until = datetime.now(UTC) + timedelta(hours=1)
    for mode in ("Unlocked", "Locked"):
        blob = bucket.blob(mode)
        blob.retention.mode = mode
        blob.retention.retain_until_time = until
        blob.upload_from_string(b"data")
        _refused(lambda name=mode: bucket.blob(name).delete(**ONCE), "retentionPolicyNotMet")  # type: ignore[misc]
        sooner = bucket.get_blob(mode)
        sooner.retention.retain_until_time = until - timedelta(minutes=30)
        with pytest.raises(exceptions.Forbidden):
            sooner.patch(**ONCE)
    unlocked = bucket.get_blob("Unlocked")
    unlocked.retention.mode = None
    unlocked.retention.retain_until_time = None
    unlocked.patch(override_unlocked_retention=True)
    bucket.blob("Unlocked").delete()
    locked = bucket.get_blob("Locked")
    locked.retention.mode = "Unlocked"
    with pytest.raises(exceptions.Forbidden):
        locked.patch(override_unlocked_retention=True, **ONCE)


def test_object_retention_has_to_be_enabled(bucket: storage.Bucket) -> None:
    blob = bucket.blob("x")
    blob.retention.mode = "Unlocked"
    blob.retention.retain_until_time = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(exceptions.BadRequest, match="not enabled"):
        blob.upload_from_string(b"data", **ONCE)


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("hold", ["temporary_hold", "event_based_hold"])
def test_holds_keep_objects(cloud: Cloud, hold: str, versioned: bool) -> None:
    bucket = cloud.bucket(versioning={"enabled": versioned})
    blob = put(bucket, "x")
    setattr(blob, hold, True)  # the library does not send it with an upload
    blob.patch()
    _refused(lambda: bucket.blob("x").delete(**ONCE), "objectUnderActiveHold")
    _refused(lambda: put(bucket, "x", b"other", **ONCE), "objectUnderActiveHold")
    setattr(blob, hold, False)
    blob.patch()
    bucket.blob("x").delete()


def test_a_bucket_that_is_not_empty_stays(cloud: Cloud, bucket: storage.Bucket) -> None:
    put(bucket, "x")
    with pytest.raises(exceptions.Conflict):
        bucket.delete(**ONCE)
    bucket.blob("x").delete()
    bucket.delete()
    with pytest.raises(exceptions.NotFound, match="bucket does not exist"):
        put(bucket, "x", **ONCE)


# -- who may do what


def test_nobody_is_let_in_without_a_token(cloud: Cloud, bucket: storage.Bucket) -> None:
    url = f"{cloud.url}/storage/v1/b/{bucket.name}/o"
    assert requests.get(url, timeout=10).status_code == 401
    for token in ("nonsense", "ya29.x.y", f"ya29.{'a' * 20}.{'0' * 64}"):
        answer = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        assert (answer.status_code, answer.json()["error"]["errors"][0]["reason"]) == (
            401,
            "authError",
        )


def test_a_statement_signed_by_another_key_gets_no_token(cloud: Cloud) -> None:
    from google.oauth2 import service_account

    other = (cloud.running.keys / "restorer.json").read_text().replace("restorer@", "owner@")
    import json

    credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        json.loads(other), scopes=["x"]
    )
    import google.auth.exceptions
    import google.auth.transport.requests

    with pytest.raises(google.auth.exceptions.RefreshError, match="invalid_grant"):
        credentials.refresh(google.auth.transport.requests.Request())


def test_a_writer_may_not_delete_nor_overwrite(cloud: Cloud, bucket: storage.Bucket) -> None:
    mine = cloud.client("backup").bucket(bucket.name)
    put(mine, "x", b"data")
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
        mine.blob("x").delete(**ONCE)
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
        put(mine, "x", b"other", **ONCE)
    with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.update"):
        _patched(mine.blob("x")).patch(**ONCE)
    with pytest.raises(exceptions.Forbidden, match=r"storage\.buckets\.update"):
        mine.patch(**ONCE)
    wanted = ["storage.objects.create", "storage.objects.get", "storage.objects.delete"]
    assert mine.test_iam_permissions(wanted) == wanted[:2]
    assert mine.blob("x").download_as_bytes() == b"data"


def test_a_reader_may_not_write(cloud: Cloud, bucket: storage.Bucket) -> None:
    theirs = cloud.client("restorer").bucket(bucket.name)
    for size in (1, 9 * MIB):
        with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.create"):
            put(theirs, "x", b"d" * size, **ONCE)


# -- buckets


def test_buckets_are_in_one_of_two_regions(cloud: Cloud) -> None:
    assert cloud.bucket("us-east1").location == "US-EAST1"
    with pytest.raises(exceptions.BadRequest, match="location"):
        cloud.bucket("mars-north1")
    again = cloud.client().bucket(cloud.bucket().name)
    with pytest.raises(exceptions.Conflict):
        again.create(location="us-east1", **ONCE)


def test_a_key_has_to_be_where_its_bucket_is(cloud: Cloud, bucket: storage.Bucket) -> None:
    key = "projects/p/locations/{}/keyRings/r/cryptoKeys/k"
    blob = bucket.blob("x", kms_key_name=key.format("europe-west1"))
    blob.upload_from_string(b"data")
    assert bucket.get_blob("x").kms_key_name == key.format("europe-west1") + "/cryptoKeyVersions/1"
    for wrong in (key.format("us-east1"), "my-key"):
        with pytest.raises(exceptions.BadRequest, match="KMS"):
            bucket.blob("y", kms_key_name=wrong).upload_from_string(b"data", **ONCE)


# -- what is not done says so


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/storage/v1/b/{b}/acl", 501),
        ("POST", "/storage/v1/b/{b}/o/x/copyTo/b/{b}/o/y", 501),
        ("PUT", "/storage/v1/b/{b}/o/x", 405),
        ("GET", "/compute/v1/projects", 501),
        ("GET", "/storage/v1/b/{b}/o?ifGenerationMatc=1", 400),
        ("GET", "/storage/v1/b/{b}/o?prefix=a&prefix=b", 400),
        ("GET", "/storage/v1/b/{b}/o/x?ifGenerationMatch=one", 400),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=" + "n" * 1025, 400),
        ("POST", "/upload/storage/v1/b/{b}/o?uploadType=media&name=a%0Ab", 400),
    ],
)
def test_what_is_not_done_is_refused(
    cloud: Cloud, bucket: storage.Bucket, verb: str, path: str, status: int
) -> None:
    answer = session(cloud).request(verb, cloud.url + path.format(b=bucket.name), data=b"")
    assert answer.status_code == status, answer.text


def test_a_page_in_a_browser_is_kept_out(cloud: Cloud) -> None:
    """Its Host would be the name that was made to lead here."""
    answer = requests.get(
        f"{cloud.url}/localcloud/faults", headers={"Host": "evil.example"}, timeout=10
    )
    assert answer.status_code == 403


def test_a_malformed_multipart_body_is_refused(cloud: Cloud, bucket: storage.Bucket) -> None:
    url = f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=multipart"
    mark = secrets.token_hex(4)
    head = f'--{mark}\r\nContent-Type: application/json\r\n\r\n{{"name": "x"}}\r\n'
    media = f"--{mark}\r\nContent-Type: text/plain\r\n\r\ndata"
    headers = {"Content-Type": f"multipart/related; boundary={mark}"}
    for body in (head + media, head + media + f"\r\n--{mark}", head, "nonsense"):
        assert session(cloud).post(url, data=body, headers=headers).status_code == 400
    assert bucket.get_blob("x") is None
    good = head + media + f"\r\n--{mark}--\r\n"
    assert session(cloud).post(url, data=good, headers=headers).status_code == 200
    assert bucket.get_blob("x").content_type == "text/plain"
