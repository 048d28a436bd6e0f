"""Temporary clones: gone in every ending, and nothing else ever goes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dagster_resil.cloudsql import ownership
from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.temporary import PREFIX, sweep, temporary_clone
from dagster_resil.errors import CloudSqlError, ConfigurationError, OperationUnfinished
from tests.cloudsql.instances import SCRATCH, SOURCE, connected, names, operations, wait_until_idle
from tests.localcloud.cloudsql import PROJECT
from tests.localcloud.cloudsql import CloudSql as Google

RUN = str(uuid.UUID(int=0xABCDEF))


def dead(owner: str) -> bool:
    return False


def alive(owner: str) -> bool:
    return True


def leave(client: CloudSql, *, labelled: bool = True, project: str | None = None) -> str:
    """Make a temporary clone as a worker does that is killed with the clone there."""
    name = ownership.new_name(PROJECT, SOURCE, RUN)
    client.clone(SOURCE, name, project=project)
    if labelled:
        labels = ownership.labels(SOURCE, owner=RUN, purpose="test")
        client.label(name, labels, project=project)
    return name


@pytest.mark.parametrize("project", [None, SCRATCH])
def test_a_clone_for_a_time(sql: Google, client: CloudSql, project: str | None) -> None:
    with temporary_clone(client, SOURCE, owner=RUN, purpose="a-drill", project=project) as instance:
        assert instance.state == "RUNNABLE"
        assert instance.project == (project or PROJECT)
        assert instance.name.startswith(f"{PREFIX}{RUN}-")
        # With the longest name of a project it is what Google allows.
        assert len("p" * 30 + ":" + instance.name) <= 98
        assert instance.labels == {
            "resil-temporary": "true",
            "resil-owner": RUN,
            "resil-purpose": "a-drill",
            "resil-source": SOURCE,
        }
        assert instance.deletion_protected  # by inheritance
        assert client.owner(instance) == RUN
        rows = sql.rows(instance.name, "SELECT 1", project=instance.project)
        assert rows == [(1,)]
        assert sweep(client, project=project, alive=alive, older_than_s=3600) == []
    assert names(sql) == [SOURCE]
    assert names(sql, SCRATCH) == []
    assert client.instance(SOURCE).deletion_protected


def test_what_goes_wrong_meanwhile(sql: Google, client: CloudSql) -> None:
    for error in (ValueError("wrong"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)) as raised,
            temporary_clone(client, SOURCE, owner=RUN, purpose="test"),
        ):
            raise error
        assert raised.value is error
        assert names(sql) == [SOURCE]


@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        ("operation_failed", "clone", {"when": "before"}),
        ("operation_failed", "clone", {"when": "after"}),
        ("operation_failed", "patch", {}),
        ("denied", "clone", {}),
        ("denied", "patch", {"times": 1}),
        ("error", "clone", {"status": 400, "reason": "invalidRequest"}),
        ("error", "patch", {"status": 400, "reason": "invalidRequest", "times": 1}),
    ],
)
def test_cloning_that_fails_half_way(
    sql: Google, client: CloudSql, kind: str, method: str, options: dict[str, Any]
) -> None:
    if kind == "operation_failed" and method == "patch":
        options = {"times": 1}
    with (
        sql.cloud.failing(kind, method=f"sql.instances.{method}", **options),
        pytest.raises(CloudSqlError),
        temporary_clone(client, SOURCE, owner=RUN, purpose="test"),
    ):
        raise AssertionError("there is no clone")
    assert names(sql) == [SOURCE]
    assert client.instance(SOURCE).deletion_protected


def test_an_answer_that_is_lost_leaves_nothing(sql: Google, client: CloudSql) -> None:
    for when in ("before", "after"):
        for method in ("clone", "patch", "delete"):
            sql.cloud.fault("drop", method=f"sql.instances.{method}", when=when, times=1)
        with temporary_clone(client, SOURCE, owner=RUN, purpose="test") as instance:
            pass
        assert sql.cloud.struck() == [1, 1, 1]
        sql.cloud.mend()
        assert len(operations(sql, "CLONE", instance.name)) == 1
        assert names(sql) == [SOURCE]


def test_a_clone_that_is_stopped_while_it_is_made(sql: Google, client: CloudSql) -> None:
    begun = time.monotonic()

    def watch() -> None:
        if time.monotonic() > begun + 0.5:
            raise KeyboardInterrupt

    sql.cloud.fault("operation_slow", method="sql.instances.clone", seconds=1.5)
    with (
        pytest.raises(KeyboardInterrupt),
        temporary_clone(client, SOURCE, owner=RUN, purpose="test", watch=watch),
    ):
        raise AssertionError("there is no clone")
    assert names(sql) == [SOURCE]


def test_a_clone_that_is_stuck_is_left_to_the_janitor(sql: Google) -> None:
    client = connected(sql, timeout_s=1)
    sql.cloud.fault("operation_slow", method="sql.instances.clone", seconds=4)
    with (
        pytest.raises(OperationUnfinished, match="has not ended within 1 s") as raised,
        temporary_clone(client, SOURCE, owner=RUN, purpose="test"),
    ):
        raise AssertionError("there is no clone")
    (note,) = raised.value.__notes__
    (left,) = [each for each in names(sql) if each != SOURCE]
    assert note.startswith(f"temporary instance {left} in project local is left: ")
    patient = connected(sql)
    # Not while an operation has it, which is told where it has lasted for too long, nor while it
    # is new.
    assert sweep(patient, alive=dead, older_than_s=3600) == []
    with pytest.raises(
        CloudSqlError, match=f"{left} .* and an operation is still running on it"
    ) as stuck:
        sweep(patient, alive=dead, older_than_s=0)
    assert f"gcloud sql operations list --instance={left}" in stuck.value.hint
    wait_until_idle(sql)
    assert sweep(patient, alive=dead, older_than_s=3600) == []
    assert sweep(patient, alive=dead, older_than_s=0) == [left]
    assert names(sql) == [SOURCE]


def test_a_clone_that_can_not_be_deleted_is_told(sql: Google, client: CloudSql) -> None:
    with (
        pytest.raises(CloudSqlError, match=f"temporary instance {PREFIX}.* is left: ") as raised,
        temporary_clone(client, SOURCE, owner=RUN, purpose="test"),
    ):
        sql.cloud.fault("denied", method="sql.instances.delete")
    assert "grant cloudsql.instances.delete on project local" in raised.value.hint
    with (
        pytest.raises(ValueError, match="wrong") as wrong,
        temporary_clone(client, SOURCE, owner=RUN, purpose="test"),
    ):
        raise ValueError("wrong")
    assert "is left" in wrong.value.__notes__[0]
    with pytest.raises(CloudSqlError, match="2 temporary instances are left"):
        sweep(client, alive=dead, older_than_s=3600)
    sql.cloud.mend()
    assert len(sweep(client, alive=dead, older_than_s=3600)) == 2


def fail(sql: Google) -> None:
    """Fail just when the cloud does."""
    sql.cloud.fault("error", method="sql.*", status=503)
    raise ValueError("wrong")


def test_a_cloud_that_is_gone_is_told(sql: Google) -> None:
    client = connected(sql, retry_s=0.5)
    with (
        pytest.raises(ValueError, match="wrong") as raised,
        temporary_clone(client, SOURCE, owner=RUN, purpose="test") as instance,
    ):
        fail(sql)
    note = raised.value.__notes__[0]
    assert note.startswith(f"temporary instance {instance.name} in project local may be left: ")
    sql.cloud.mend()
    assert sweep(client, alive=dead, older_than_s=3600) == [instance.name]


def test_owners_and_purposes_that_can_not_be(sql: Google, client: CloudSql) -> None:
    sql.cloud.forget()
    for owner, purpose in (("Run", "x"), ("", "x"), ("x" * 37, "x"), ("x", "X"), ("x_y", "x")):
        with (
            pytest.raises(ConfigurationError),
            temporary_clone(client, SOURCE, owner=owner, purpose=purpose),
        ):
            pass
    with (
        pytest.raises(ConfigurationError, match="is temporary itself"),
        temporary_clone(client, f"{PREFIX}x", owner=RUN, purpose="x"),
    ):
        pass
    assert sql.cloud.requests()["counts"] == {}


# -- the janitor


def test_what_a_dead_worker_left_is_removed(sql: Google, client: CloudSql) -> None:
    left = leave(client)
    asked = []

    def lives(owner: str) -> bool:
        asked.append(owner)
        return owner != RUN

    assert sweep(client, alive=alive, older_than_s=3600) == []
    assert sweep(client, alive=lives, older_than_s=3600) == [left]
    assert asked == [RUN]
    assert names(sql) == [SOURCE]
    assert client.instance(SOURCE).deletion_protected
    left = leave(client, project=SCRATCH)
    assert sweep(client, alive=dead, older_than_s=3600) == []
    assert sweep(client, project=SCRATCH, alive=alive, older_than_s=0) == [left]


def test_without_labels_the_name_says_it(sql: Google, client: CloudSql) -> None:
    left = leave(client, labelled=False)
    assert sweep(client, alive=alive, older_than_s=3600) == []
    # Young: its worker may just be about to label it.
    assert sweep(client, alive=dead, older_than_s=3600) == []
    assert sweep(client, alive=dead, older_than_s=0) == [left]
    assert names(sql) == [SOURCE]


def name_with(owner: str, source: str = SOURCE, project: str = PROJECT) -> str:
    return ownership.new_name(project, source, owner)


def test_nothing_else_is_ever_touched(sql: Google, client: CloudSql) -> None:
    true = dict(ownership.labels(SOURCE, owner=RUN, purpose="test"))
    good = name_with(RUN)
    digest = hashlib.sha256(b"x").hexdigest()
    others: list[tuple[str, dict[str, str]]] = [
        # The prefix alone, or a name nearly as ours.
        (f"{PREFIX}mine", true),
        (f"{PREFIX}{RUN}", {}),
        (good[:-1] + ("0" if good[-1] != "0" else "1"), true),
        (f"{PREFIX}{RUN}-{digest[:12]}-{digest[12:18]}", true),
        # The labels alone, without the prefix.
        ("mine", true),
        # Labels that say something else than the name.
        (name_with(RUN), true | {"resil-owner": "somebody"}),
        (name_with(RUN), true | {"resil-source": "customers"}),
        (name_with(RUN), true | {"resil-temporary": "false"}),
        (name_with(RUN), {"resil-purpose": "test"}),
        # Of another source, or of another project's.
        (name_with(RUN, source="customers"), true),
        (name_with(RUN, project="other"), true),
        (name_with(RUN, source="customers"), {}),
        # Unlabelled, and no clone: somebody has made it by that name.
        (name_with(RUN), {}),
    ]
    base = client.instance(SOURCE)
    for name, labels in others:
        assert client.owner(replace(base, name=name, labels=labels)) is None, (name, labels)
    # A replica is none either, whatever it says of itself.
    assert ownership.claim(replace(base, name=good, labels=true), PROJECT) is not None
    assert ownership.claim(replace(base, name=good, labels=true, primary="x"), PROJECT) is None
    # And what most looks like ours, with everything real: nearly the name, other labels, no clone.
    real = [others[2], others[6], others[12]]
    for name, labels in real:
        sql.make(name, settings={"userLabels": labels, "deletionProtectionEnabled": True})
    before = names(sql)
    assert sweep(client, alive=dead, older_than_s=0) == []
    assert names(sql) == before
    for name, _ in [*real, (SOURCE, {})]:
        with pytest.raises(CloudSqlError, match="is not a temporary instance"):
            client.unprotect(name)
        assert client.instance(name).deletion_protected


WORKER = """
import sys
from dagster_resil.cloudsql.client import CloudSql, CloudSqlSettings
from dagster_resil.cloudsql.temporary import temporary_clone

cloud = CloudSql(CloudSqlSettings("local", timeout_s=60))
with temporary_clone(cloud, sys.argv[1], owner=sys.argv[2], purpose="test"):
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("where", ["asked", "cloned", "labelled"])
def test_a_worker_that_is_killed(sql: Google, client: CloudSql, where: str) -> None:
    if where == "asked":
        sql.cloud.fault("operation_slow", method="sql.instances.clone", seconds=1)
    if where == "cloned":
        sql.cloud.fault("error", method="sql.instances.patch", status=503)
    environment = {**os.environ, **sql.cloud.running.environment("owner")}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, SOURCE, RUN],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        try:
            if where == "labelled":
                assert worker.stdout is not None
                assert worker.stdout.readline() == "there\n"
            else:
                method = {"asked": "clone", "cloned": "patch"}[where]
                wait_for(
                    lambda: sql.cloud.requests()["counts"].get(f"sql.instances.{method}", 0) > 0
                )
        finally:
            worker.send_signal(signal.SIGKILL)
    sql.cloud.mend()
    wait_until_idle(sql)
    (left,) = [each for each in names(sql) if each != SOURCE]
    assert sweep(client, alive=alive, older_than_s=3600) == []
    assert sweep(client, alive=dead, older_than_s=0) == [left]
    assert names(sql) == [SOURCE]


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
