"""Each fault: nothing is done twice, nothing is lost, and what fails says so."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from google.cloud import storage

from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.errors import CloudSqlError, InstanceMissing, OperationUnfinished
from tests.cloudsql.instances import SOURCE, connected, grant, names, operations, wait_until_idle
from tests.localcloud.cloudsql import PROJECT
from tests.localcloud.cloudsql import CloudSql as Google

METHODS = {
    "sql.instances.clone": "CLONE",
    "sql.instances.patch": "UPDATE",
    "sql.instances.export": "EXPORT",
    "sql.instances.delete": "DELETE",
}
IN_PROGRESS = {"reason": "operationInProgress", "message": "Another operation is in progress."}


def sent(sql: Google, method: str) -> int:
    """Return how often a method was asked for."""
    return int(sql.cloud.requests()["counts"].get(method, 0))


def ended_well(operation: Any) -> bool:
    return operation["status"] == "DONE" and "error" not in operation


@contextmanager
def failing(sql: Google, methods: tuple[str, ...], kind: str, **options: Any) -> Iterator[None]:
    """Have a fault strike each of some methods, and see that it did."""
    sql.cloud.mend()
    sql.cloud.forget()
    for method in methods:
        sql.cloud.fault(kind, method=f"sql.instances.{method}", **options)
    try:
        yield
        assert sql.cloud.struck() == [options["times"]] * len(methods)
    finally:
        sql.cloud.mend()


BEFORE = {"when": "before", "times": 1}
AFTER = {"when": "after", "times": 1}
LOST = [
    ("error", {**BEFORE, "status": 503}, False),
    ("error", {**AFTER, "status": 503}, True),
    ("drop", BEFORE, False),
    ("drop", AFTER, True),
]
"""Faults, and whether the request was accepted all the same."""
FAULTS = [
    *LOST,
    ("error", {**AFTER, "status": 500, "reason": "internalError"}, True),
    ("cut", {"at_byte": 30, "incoming": False, "times": 1}, True),
    ("error", {"status": 429, "times": 2, "reason": "rateLimitExceeded"}, False),
    ("error", {"status": 403, "times": 2, "reason": "rateLimitExceeded"}, False),
    ("error", {"status": 409, "times": 2, **IN_PROGRESS}, False),
    ("error", {"status": 403, "times": 2, **IN_PROGRESS}, False),
]


@pytest.mark.parametrize(("kind", "options", "accepted"), FAULTS)
def test_an_export_and_a_change_are_done_once(
    sql: Google,
    client: CloudSql,
    bucket: storage.Bucket,
    uri: str,
    kind: str,
    options: dict[str, Any],
    accepted: bool,
) -> None:
    grant(sql, SOURCE, bucket)
    exports, changes = (len(operations(sql, each, SOURCE)) for each in ("EXPORT", "UPDATE"))
    with failing(sql, ("export", "patch"), kind, **options):
        client.label(SOURCE, {"run": secrets.token_hex(4)})
        client.export(SOURCE, database="shop", uri=uri)
    times = 1 if accepted else 1 + options["times"]
    assert [sent(sql, f"sql.instances.{each}") for each in ("export", "patch")] == [times] * 2
    done = operations(sql, "EXPORT", SOURCE)
    assert len(done) == exports + 1
    assert ended_well(done[0])
    assert len(operations(sql, "UPDATE", SOURCE)) == changes + 1


@pytest.mark.parametrize(("kind", "options", "accepted"), LOST)
def test_a_clone_and_a_deletion_are_done_once(
    sql: Google, client: CloudSql, kind: str, options: dict[str, Any], accepted: bool
) -> None:
    # The name was another instance's before: that one's operations are no answer.
    name = "reused"
    with failing(sql, ("clone", "delete"), kind, **options):
        before = [len(operations(sql, each, name)) for each in ("CLONE", "DELETE")]
        client.clone(SOURCE, name)
        sql.patch(name, deletionProtectionEnabled=False)
        client.delete(name)
    times = 1 if accepted else 2
    assert [sent(sql, f"sql.instances.{each}") for each in ("clone", "delete")] == [times] * 2
    assert names(sql) == [SOURCE]
    after = [len(operations(sql, each, name)) for each in ("CLONE", "DELETE")]
    assert after == [number + 1 for number in before]


def test_reading_goes_on(sql: Google, client: CloudSql, uri: str) -> None:
    for kind, options in (
        ("error", {"status": 503}),
        ("error", {"status": 429, "reason": "rateLimitExceeded"}),
        ("drop", {}),
        ("cut", {"at_byte": 20, "incoming": False}),
    ):
        for method in ("operations.*", "instances.get", "instances.list", "databases.list"):
            sql.cloud.fault(kind, method=f"sql.{method}", times=1, **options)
    assert client.databases(SOURCE)
    assert client.instances()
    client.export(SOURCE, database="shop", uri=uri)
    assert ended_well(operations(sql, "EXPORT", SOURCE)[0])


def test_no_answer_at_all(sql: Google, uri: str) -> None:
    client = connected(sql, retry_s=0.5)
    sql.cloud.fault("error", method="sql.*", status=503)
    calls: tuple[Any, ...] = (
        lambda: client.instance(SOURCE),
        client.instances,
        lambda: client.recovery_window(SOURCE),
        lambda: client.clone(SOURCE, "x"),
        lambda: client.delete("x"),
        lambda: client.export(SOURCE, database="shop", uri=uri),
    )
    for call in calls:
        with pytest.raises(
            CloudSqlError, match=r"gave no answer about .* for 0\.5 s: HTTP status 503"
        ):
            call()
    sql.cloud.mend()
    assert names(sql) == [SOURCE]
    nowhere = connected(sql, retry_s=0.5, endpoint="http://127.0.0.1:9")
    with pytest.raises(CloudSqlError, match="gave no answer") as refused:
        nowhere.instance(SOURCE)
    assert "can this machine reach http://127.0.0.1:9?" in refused.value.hint


def test_nothing_is_sent_again_unseen(sql: Google, uri: str) -> None:
    # Accepted, but the answer is lost, and then nobody answers what there is.
    client = connected(sql, retry_s=1)
    before = len(operations(sql, "EXPORT", SOURCE))
    sql.cloud.forget()
    sql.cloud.fault("error", method="sql.instances.export", status=503, when="after")
    sql.cloud.fault("error", method="sql.operations.list", status=503, skip=1)
    with pytest.raises(
        OperationUnfinished, match=r"it is unknown whether .* gave no answer about oper"
    ):
        client.export(SOURCE, database="shop", uri=uri)
    assert sent(sql, "sql.instances.export") == 1
    sql.cloud.mend()
    wait_until_idle(sql)
    # Somebody does it again: what is there is not written over.
    with pytest.raises(CloudSqlError, match="already exists"):
        client.export(SOURCE, database="shop", uri=uri)
    assert len(operations(sql, "EXPORT", SOURCE)) == before + 2


def test_the_same_request_of_a_dead_worker_is_adopted(
    sql: Google, client: CloudSql, uri: str
) -> None:
    before = len(operations(sql, "EXPORT", SOURCE))
    sql.cloud.fault("operation_slow", method="sql.instances.export", seconds=1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(client.export, SOURCE, database="shop", uri=uri) for _ in range(2)]
        for each in both:
            each.result()
    assert len(operations(sql, "EXPORT", SOURCE)) == before + 1


def test_a_turn_is_waited_for(sql: Google, client: CloudSql, uri: str) -> None:
    sql.cloud.fault("operation_slow", method="sql.instances.export", seconds=1, times=1)
    with ThreadPoolExecutor(4) as pool:
        exports = [
            pool.submit(client.export, SOURCE, database="shop", uri=f"{uri}/{number}")
            for number in range(3)
        ]
        clone = pool.submit(client.clone, SOURCE, "target")
        for each in exports:
            each.result()
        assert clone.result().state == "RUNNABLE"


def test_a_turn_that_does_not_come(sql: Google, uri: str) -> None:
    client = connected(sql, timeout_s=1)
    sql.cloud.fault("operation_slow", method="sql.instances.export", seconds=3)
    first = sql.instances.export(
        project=PROJECT,
        instance=SOURCE,
        body={"exportContext": {"fileType": "SQL", "uri": f"{uri}.sql", "databases": ["shop"]}},
    ).execute()
    with pytest.raises(
        CloudSqlError, match="another operation is running on the instance"
    ) as refused:
        client.export(SOURCE, database="shop", uri=uri)
    assert f"EXPORT {first['name']}" in refused.value.message
    with pytest.raises(CloudSqlError, match="another operation is running on the instance"):
        client.clone(SOURCE, "target")
    assert names(sql) == [SOURCE]
    wait_until_idle(sql)


def test_a_stuck_export_is_ended(
    sql: Google, client: CloudSql, bucket: storage.Bucket, uri: str
) -> None:
    impatient = connected(sql, timeout_s=1)
    with sql.cloud.failing("operation_stuck", method="sql.instances.export"):
        with pytest.raises(
            OperationUnfinished, match=r"has not ended within 1 s: .* is RUNNING"
        ) as error:
            impatient.export(SOURCE, database="shop", uri=uri)
        assert "gcloud sql operations describe" in error.value.hint
    # It does not have the next one wait, nor does it write on.
    assert operations(sql, "EXPORT", SOURCE)[0]["error"]["errors"][0]["code"] == "CANCELLED"
    assert list(bucket.list_blobs()) == []
    client.export(SOURCE, database="shop", uri=uri)


def test_an_export_that_nobody_waits_for_is_ended(
    sql: Google, client: CloudSql, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    begun = time.monotonic()

    def watch() -> None:
        if time.monotonic() > begun + 0.5:
            raise KeyboardInterrupt

    sql.cloud.fault("operation_stuck", method="sql.instances.export")
    with caplog.at_level(logging.INFO, logger="dagster_resil"), pytest.raises(KeyboardInterrupt):
        client.export(SOURCE, database="shop", uri=uri, watch=watch)
    assert "cancelled operation" in caplog.text
    assert operations(sql, "EXPORT", SOURCE)[0]["status"] == "DONE"
    begun = time.monotonic()
    sql.cloud.fault("denied", method="sql.operations.cancel")
    with pytest.raises(KeyboardInterrupt):
        client.export(SOURCE, database="shop", uri=f"{uri}2", watch=watch)
    assert "may still be running: it can't be cancelled" in caplog.text
    sql.cloud.mend()
    (stuck,) = [each for each in operations(sql, "EXPORT", SOURCE) if each["status"] != "DONE"]
    sql.operations.cancel(project=PROJECT, operation=stuck["name"]).execute()
    wait_until_idle(sql)


def test_operations_that_fail(sql: Google, client: CloudSql, uri: str) -> None:
    words = {"code": "INTERNAL_ERROR", "message": "it went wrong"}
    for method in METHODS:
        sql.cloud.fault("operation_failed", method=method, times=1, **words)
    name = sql.make()
    calls: tuple[Any, ...] = (
        lambda: client.export(SOURCE, database="shop", uri=uri),
        lambda: client.clone(SOURCE, "target"),
        lambda: client.label(name, {"a": "b"}),
        lambda: client.delete(name),
    )
    for call in calls:
        with pytest.raises(
            CloudSqlError, match=r"can't .*: it went wrong \(INTERNAL_ERROR\)"
        ) as error:
            call()
        assert error.value.exit_code == 4
        assert error.value.hint
    assert client.instance("target").state == "FAILED"
    client.delete(name)


def test_rights_on_the_bucket(sql: Google, client: CloudSql, uri: str) -> None:
    email = client.instance(SOURCE).service_account
    name = uri.split("/")[2]
    for left in ("storage.objects.create", "storage.objects.delete", "storage.objects.list"):
        rights = {"storage.objects.create", "storage.objects.delete", "storage.objects.list"}
        sql.allow(email, places={name: sorted(rights - {left})})
        with pytest.raises(CloudSqlError, match="can't export database shop") as refused:
            client.export(SOURCE, database="shop", uri=uri)
        assert refused.value.hint == (
            f"grant {left} on gs://{name} to {email}: gcloud storage buckets "
            f"add-iam-policy-binding gs://{name} --member=serviceAccount:{email} "
            "--role=roles/storage.objectUser"
        )
    with pytest.raises(CloudSqlError) as refused:
        client.export(SOURCE, database="shop", uri="gs://no-such-bucket-is-there/x")
    assert "gs://no-such-bucket-is-there" in refused.value.hint


def test_a_region_that_is_gone(sql: Google, uri: str) -> None:
    client = connected(sql, retry_s=1)
    with sql.cloud.failing("region_gone", location="europe-west1"):
        calls: tuple[Any, ...] = (
            lambda: client.instance(SOURCE),
            lambda: client.export(SOURCE, database="shop", uri=uri),
            lambda: client.clone(SOURCE, "target"),
        )
        for call in calls:
            with pytest.raises(CloudSqlError, match="gave no answer"):
                call()
        assert client.instances() == []
    deadline = time.monotonic() + 20
    while client.instance(SOURCE).state != "RUNNABLE":
        assert time.monotonic() < deadline
    assert names(sql) == [SOURCE]
    client.export(SOURCE, database="shop", uri=uri)


def test_names_that_are_taken(sql: Google, client: CloudSql) -> None:
    sql.cloud.forget()
    with pytest.raises(CloudSqlError, match="there is an instance of that name") as refused:
        client.clone(SOURCE, SOURCE)
    assert refused.value.hint == "use another name"
    assert sent(sql, "sql.instances.clone") == 0
    with (
        sql.cloud.failing(
            "error",
            method="sql.instances.clone",
            status=409,
            reason="instanceAlreadyExists",
            message="It already exists.",
        ),
        pytest.raises(CloudSqlError, match="It already exists") as refused,
    ):
        client.clone(SOURCE, "target")
    assert refused.value.reason == "instanceAlreadyExists"


def test_a_clone_whose_operation_can_not_be_found(
    sql: Google, client: CloudSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Google does not say in which project the operation of a clone across projects is listed.
    monkeypatch.setattr(client._operations, "of_instance", lambda *place, **options: [])
    sql.cloud.fault("operation_slow", method="sql.instances.clone", seconds=1)
    sql.cloud.fault("drop", method="sql.instances.clone", when="after", times=1)
    assert client.clone(SOURCE, "target", project="scratch").state == "RUNNABLE"
    sql.cloud.mend()
    sql.cloud.fault("operation_failed", method="sql.instances.clone")
    sql.cloud.fault("drop", method="sql.instances.clone", when="after", times=1)
    with pytest.raises(CloudSqlError, match="it is FAILED"):
        client.clone(SOURCE, "target")


def test_settings_that_somebody_else_changes(sql: Google, client: CloudSql) -> None:
    name = sql.make()
    labels = {f"label-{number}": "x" for number in range(6)}
    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(client.label, name, {key: "x"}) for key in labels]:
            each.result()
    assert client.instance(name).labels == labels


def test_a_change_that_is_taken_for_ours(sql: Google, client: CloudSql) -> None:
    # Its answer is lost before it is done, and just then somebody else changes something.
    name = sql.make()
    sql.cloud.fault("error", method="sql.instances.patch", status=503, skip=1, times=1)
    sql.cloud.fault("operation_slow", method="sql.instances.patch", seconds=0.5, times=1)
    body = {"settings": {"userLabels": {"theirs": "x"}}}
    sql.instances.patch(project=PROJECT, instance=name, body=body).execute()
    client.label(name, {"ours": "x"})
    assert client.instance(name).labels == {"theirs": "x", "ours": "x"}


def test_an_instance_that_goes_while_we_look(sql: Google, client: CloudSql) -> None:
    name = sql.make()
    sql.cloud.fault("operation_slow", method="sql.instances.delete", seconds=0.5)
    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(client.delete, name) for _ in range(3)]:
            each.result()
    assert len(operations(sql, "DELETE", name)) == 1
    with pytest.raises(InstanceMissing):
        client.label(name, {"a": "b"})
    with pytest.raises(InstanceMissing):
        client.export(name, database="shop", uri="gs://bucket/x")


def test_secrets_stay_where_they_are(
    sql: Google, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    client = connected(sql, retry_s=0.5)
    with caplog.at_level(logging.DEBUG):
        client.export(SOURCE, database="shop", uri=uri)
        sql.cloud.fault("drop", method="sql.*")
        with pytest.raises(CloudSqlError) as refused:
            client.instance(SOURCE)
    for text in (caplog.text, str(refused.value), repr(client), repr(client.settings)):
        assert "ya29." not in text
        assert "PRIVATE KEY" not in text
