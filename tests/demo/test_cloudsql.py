"""The demo's instances: a primary, filled, and its replica in the other region."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from dagster_resil.demo.cloudsql import PRIMARY, REPLICA, ensure_shop
from dagster_resil.errors import ResilError
from tests.localcloud.cloudsql import PROJECT, CloudSql

PASSWORD = "of-the-demo"


@pytest.mark.parametrize("major", [15, 17])
def test_a_primary_and_its_replica(sql: CloudSql, major: int) -> None:
    cloud = sql.cloud.running
    bucket = sql.cloud.bucket()
    for _ in range(2):  # the second time nothing is to do
        shop = ensure_shop(
            cloud, password=PASSWORD, major=major, scale=0.01, buckets=(bucket.name,)
        )
    assert sql.get(PRIMARY)["replicaNames"] == [REPLICA]
    assert (sql.get(PRIMARY)["region"], sql.get(REPLICA)["region"]) == ("europe-west1", "us-east1")
    query = "SELECT count(*) FROM customers"
    who = {"database": "shop", "password": PASSWORD}
    count = sql.rows(PRIMARY, query, **who)
    assert count[0][0] > 0
    deadline = time.monotonic() + 20
    while sql.rows(REPLICA, query, **who) != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    context = {"fileType": "SQL", "uri": f"gs://{bucket.name}/x.sql.gz", "databases": ["shop"]}
    sql.done(
        sql.instances.export(project=PROJECT, instance=REPLICA, body={"exportContext": context})
    )
    assert shop.service_accounts.keys() == {PRIMARY, REPLICA}


def test_the_command(sql: CloudSql) -> None:
    command = [sys.executable, "-m", "dagster_resil.demo.cloudsql", "--url", sql.cloud.url]
    command += ["--keys", str(sql.cloud.running.keys), "--scale", "0.01"]
    environment = {key: value for key, value in os.environ.items() if key != "PGPASSWORD"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert "hint:" in done.stderr
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment | {"PGPASSWORD": PASSWORD},
        check=True,
    )
    assert json.loads(done.stdout)["instances"].keys() == {PRIMARY, REPLICA}


def test_what_fails_is_told(sql: CloudSql) -> None:
    sql.cloud.fault("operation_failed", message="as told")
    with pytest.raises(ResilError, match="as told"):
        ensure_shop(sql.cloud.running, password=PASSWORD, major=15, scale=0.01)
