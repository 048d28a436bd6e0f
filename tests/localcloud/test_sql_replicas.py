"""Read replicas in another region: they stream, lag, are promoted, and outlive their primary."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psycopg
import pytest
from googleapiclient.errors import HttpError

from tests.localcloud.cloudsql import PROJECT, RECOVERABLE, CloudSql, reason


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def promote(sql: CloudSql, replica: str) -> None:
    operation = sql.done(sql.instances.promoteReplica(project=PROJECT, instance=replica))
    assert (operation["operationType"], operation["targetId"]) == ("PROMOTE_REPLICA", replica)


def test_a_replica_streams_and_is_promoted(sql: CloudSql) -> None:
    primary = sql.make_recoverable()
    sql.patch(primary, deletionProtectionEnabled=True)
    replica_name = "a-replica-" + "x" * 70
    sql.execute(primary, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)")
    body = sql.body(replica_name, region="us-east1", masterInstanceName=primary)
    operation = sql.done(sql.instances.insert(project=PROJECT, body=body))
    assert (operation["operationType"], operation["targetId"]) == ("CREATE_REPLICA", primary)

    replica = sql.get(replica_name)
    assert replica["instanceType"] == "READ_REPLICA_INSTANCE"
    assert replica["masterInstanceName"] == f"{PROJECT}:{primary}"
    assert replica["region"] == "us-east1"
    assert replica["settings"]["deletionProtectionEnabled"] is False
    assert replica["settings"]["backupConfiguration"]["enabled"] is False
    assert sql.get(primary)["replicaNames"] == [replica_name]

    sql.execute(primary, "INSERT INTO t VALUES (2)")
    eventually(lambda: sql.rows(replica_name, "SELECT max(x) FROM t") == [(2,)], "it lags")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        sql.execute(replica_name, "INSERT INTO t VALUES (3)")

    promote(sql, replica_name)
    promoted = sql.get(replica_name)
    assert "masterInstanceName" not in promoted
    assert promoted["instanceType"] == "CLOUD_SQL_INSTANCE"
    assert "replicaNames" not in sql.get(primary)
    # Two that go their own ways.
    sql.execute(replica_name, "INSERT INTO t VALUES (30)")
    sql.execute(primary, "INSERT INTO t VALUES (3)")
    assert sql.rows(replica_name, "SELECT max(x) FROM t") == [(30,)]
    assert sql.rows(primary, "SELECT max(x) FROM t") == [(3,)]
    assert sql.rows(primary, "SELECT count(*) FROM pg_replication_slots") == [(0,)]

    # It can be recovered from the moment on that this is enabled.
    sql.patch(replica_name, backupConfiguration=RECOVERABLE)
    sql.done(sql.clone(replica_name, "again"))
    with pytest.raises(HttpError, match="no read replica"):
        sql.instances.promoteReplica(project=PROJECT, instance=replica_name).execute()


def test_a_primary_with_replicas_stays(sql: CloudSql) -> None:
    primary = sql.make()
    replica = sql.make_replica(primary)
    with pytest.raises(HttpError) as refused:
        sql.instances.delete(project=PROJECT, instance=primary).execute()
    assert reason(refused) == (400, "instanceHasReplicas")
    with pytest.raises(HttpError, match="can't be cloned"):
        sql.clone(replica).execute()
    with pytest.raises(HttpError, match="can't be backed up"):
        sql.api().backupRuns().insert(project=PROJECT, instance=replica, body={}).execute()
    with pytest.raises(HttpError, match="can't be enabled on a read replica"):
        sql.patch(replica, backupConfiguration=RECOVERABLE)
    sql.delete(replica)
    assert sql.rows(primary, "SELECT count(*) FROM pg_replication_slots") == [(0,)]
    sql.delete(primary)


def test_a_primary_is_killed_and_its_replica_promoted(sql: CloudSql) -> None:
    primary = sql.make()
    replica = sql.make_replica(primary)
    sql.execute(primary, "CREATE TABLE t AS SELECT 1 AS x")
    eventually(lambda: sql.rows(replica, "SELECT to_regclass('t')") != [(None,)], "it lags")
    os.kill(sql.state(primary)["pid"], signal.SIGQUIT)
    promote(sql, replica)
    sql.execute(replica, "INSERT INTO t VALUES (2)")
    # The old primary is there still, and can be started again.
    assert sql.state(primary)["pid"] is None
    sql.done(sql.instances.restart(project=PROJECT, instance=primary))
    assert sql.rows(primary, "SELECT x FROM t") == [(1,)]


def test_a_region_is_gone(sql: CloudSql) -> None:
    primary, other = sql.make(), sql.make(region="us-east1")
    replica = sql.make_replica(primary)
    sql.execute(primary, "CREATE TABLE t AS SELECT 1 AS x")
    eventually(lambda: sql.rows(replica, "SELECT to_regclass('t')") != [(None,)], "it lags")
    sql.cloud.fault("region_gone", location="europe-west1")
    with pytest.raises(HttpError) as refused:
        sql.instances.get(project=PROJECT, instance=primary).execute()
    assert reason(refused) == (503, "backendError")
    with pytest.raises(HttpError) as refused:
        sql.instances.insert(project=PROJECT, body=sql.body()).execute()
    assert reason(refused) == (503, "backendError")
    listed = sql.instances.list(project=PROJECT).execute()
    assert {each["name"] for each in listed["items"]} == {replica, other}
    assert [(each["code"], each["region"]) for each in listed["warnings"]] == [
        ("REGION_UNREACHABLE", "europe-west1")
    ]
    assert sql.state(primary)["pid"] is None
    promote(sql, replica)
    sql.execute(replica, "INSERT INTO t VALUES (2)")
    sql.cloud.mend()
    # The old primary comes back, takes writes, and knows nothing of what happened: to be fenced.
    assert sql.rows(primary, "SELECT x FROM t") == [(1,)]
    sql.execute(primary, "INSERT INTO t VALUES (10)")
    assert sql.rows(replica, "SELECT x FROM t ORDER BY x") == [(1,), (2,)]


def test_an_old_primary_is_fenced(sql: CloudSql) -> None:
    primary = sql.make()
    replica = sql.make_replica(primary)
    promote(sql, replica)
    sql.patch(primary, activationPolicy="NEVER")
    stopped = sql.get(primary)
    assert (stopped["state"], stopped["settings"]["activationPolicy"]) == ("RUNNABLE", "NEVER")
    with pytest.raises(psycopg.OperationalError):
        sql.execute(primary, "SELECT 1")
    for refused_request in (
        sql.instances.restart(project=PROJECT, instance=primary),
        sql.clone(primary),
        sql.api().databases().list(project=PROJECT, instance=primary),
    ):
        with pytest.raises(HttpError) as refused:
            refused_request.execute()
        assert reason(refused) == (400, "invalidState")
    # A region that comes back does not bring it back.
    sql.cloud.fault("region_gone", location="europe-west1")
    sql.cloud.mend()
    assert sql.state(primary)["pid"] is None
    sql.patch(primary, activationPolicy="ALWAYS")
    assert sql.rows(primary, "SELECT 1") == [(1,)]
    sql.patch(primary, activationPolicy="NEVER")
    sql.delete(primary)


def test_a_replica_lags_on_purpose(sql: CloudSql) -> None:
    primary = sql.make()
    replica = sql.make_replica(primary)
    sql.execute(primary, "CREATE TABLE t (x int)")
    eventually(lambda: sql.rows(replica, "SELECT to_regclass('t')") != [(None,)], "it lags")
    sql.cloud.fault("replica_lag", instance=replica)
    sql.execute(primary, "INSERT INTO t VALUES (1)")
    time.sleep(0.3)
    assert sql.rows(replica, "SELECT count(*) FROM t") == [(0,)]
    sql.cloud.mend()
    eventually(lambda: sql.rows(replica, "SELECT count(*) FROM t") == [(1,)], "it lags")
    # What it has received, it replays when it is promoted.
    sql.cloud.fault("replica_lag", instance=replica)
    sql.execute(primary, "INSERT INTO t VALUES (2)")
    received = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
    eventually(lambda: sql.rows(replica, received) == [(True,)], "nothing is sent")
    promote(sql, replica)
    assert sql.rows(replica, "SELECT count(*) FROM t") == [(2,)]


def test_failover_in_the_region(sql: CloudSql) -> None:
    name = sql.make()
    with pytest.raises(HttpError, match="high availability"):
        sql.instances.failover(project=PROJECT, instance=name, body={}).execute()
    name = sql.make(settings={"availabilityType": "REGIONAL"})
    before = sql.get(name)
    sql.execute(name, "CREATE TABLE t AS SELECT 1 AS x")
    body = {"failoverContext": {"settingsVersion": "99"}}
    with pytest.raises(HttpError) as refused:
        sql.instances.failover(project=PROJECT, instance=name, body=body).execute()
    assert reason(refused) == (412, "staleData")
    body = {"failoverContext": {"settingsVersion": before["settings"]["settingsVersion"]}}
    operation = sql.done(sql.instances.failover(project=PROJECT, instance=name, body=body))
    assert operation["operationType"] == "FAILOVER"
    after = sql.get(name)
    assert after["gceZone"] == before["secondaryGceZone"]
    assert after["dnsName"] == before["dnsName"]
    assert sql.rows(name, "SELECT x FROM t") == [(1,)]
