"""The demo's ``shop`` in the local Cloud SQL: a primary in one region, its replica in another.

``python -m dagster_resil.demo.cloudsql --url URL --keys FOLDER`` makes them in a local cloud that
runs; what is there already stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from dagster_resil import logs
from dagster_resil.demo.databases import load
from dagster_resil.errors import ResilError
from dagster_resil.localcloud.identities import PROJECT
from dagster_resil.localcloud.running import REGIONS, LocalCloud
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import client_for

PRIMARY = "shop"
REPLICA = f"shop-{REGIONS[1]}"
DATABASE = "shop"
USER = "postgres"
_TIMEOUT_S = 600
_ORDERS = """
INSERT INTO public.orders (customer_id, status, placed_at, updated_at)
SELECT customer_id, status, now(), now() FROM public.orders ORDER BY id LIMIT %s
"""
_POLL_S = 0.1


class CloudDemoFailed(ResilError):
    """The demo's instances could not be made."""

    code = "cloud_demo_failed"


@dataclass(frozen=True)
class CloudShop:
    """The demo's instances.

    :param primary: their names in the Admin API.
    :param service_accounts: the instances' own identities, by instance.
    """

    project: str
    primary: str
    replica: str
    service_accounts: Mapping[str, str]


def ensure_shop(
    cloud: LocalCloud,
    *,
    password: str,
    major: int,
    scale: float = 1.0,
    buckets: tuple[str, ...] = (),
) -> CloudShop:
    """Have a primary, filled, and its replica in the other region.

    :param password: of ``postgres``.
    :param major: of PostgreSQL; this machine has to have its programs.
    :param scale: multiplies the shop's numbers of rows; 1 is about 100 MB on disk.
    :param buckets: where the instances themselves may write exports and read imports.
    :raises CloudDemoFailed: an operation failed.
    """
    with closing(cloud.sql_client("owner")) as api:
        instances = api.instances()
        there = {
            each["name"]: each
            for each in instances.list(project=PROJECT).execute().get("items", [])
            if each["state"] == "RUNNABLE"
        }
        if PRIMARY not in there:
            settings = {
                "tier": "db-custom-1-3840",
                "backupConfiguration": {"enabled": True, "pointInTimeRecoveryEnabled": True},
                "deletionProtectionEnabled": True,
            }
            body = {
                "name": PRIMARY,
                "region": REGIONS[0],
                "databaseVersion": f"POSTGRES_{major}",
                "rootPassword": password,
                "settings": settings,
            }
            _done(api, instances.insert(project=PROJECT, body=body))
        databases = api.databases()
        names = databases.list(project=PROJECT, instance=PRIMARY).execute()["items"]
        if DATABASE not in {each["name"] for each in names}:
            body = {"name": DATABASE}
            _done(api, databases.insert(project=PROJECT, instance=PRIMARY, body=body))
            shown = instances.get(project=PROJECT, instance=PRIMARY).execute()
            load(endpoint_of(shown, password), client_for(major), "shop", scale=scale)
        if REPLICA not in there:
            body = {
                "name": REPLICA,
                "region": REGIONS[1],
                "masterInstanceName": PRIMARY,
                "settings": {"tier": "db-custom-1-3840"},
            }
            _done(api, instances.insert(project=PROJECT, body=body))
        accounts = {
            each["name"]: str(each["serviceAccountEmailAddress"])
            for each in instances.list(project=PROJECT).execute()["items"]
        }
    rights = [f"storage.objects.{verb}" for verb in ("create", "get", "list", "delete")]
    for account in accounts.values() if buckets else ():
        cloud.allow(account, dict.fromkeys(buckets, rights))
    return CloudShop(PROJECT, PRIMARY, REPLICA, accounts)


def ensure_days(
    cloud: LocalCloud, *, password: str, major: int, days: int, scale: float = 1.0
) -> CloudShop:
    """Have the shop with some days behind it, in each of which an hour's orders came in.

    The instance's clock is told each of the days in turn, so that its past is there to be recovered
    without anybody waiting for it.

    :param days: how many, the day that is under way not counted.
    """
    with closing(cloud.sql_client("owner")) as api:
        items = api.instances().list(project=PROJECT).execute().get("items", [])
    if PRIMARY in {each["name"] for each in items}:
        return ensure_shop(cloud, password=password, major=major, scale=scale)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = today - timedelta(days=days)
    cloud.set_clock(PRIMARY, first)
    shop = ensure_shop(cloud, password=password, major=major, scale=scale)
    with closing(cloud.sql_client("owner")) as api:
        shown = api.instances().get(project=PROJECT, instance=PRIMARY).execute()
    endpoint = endpoint_of(shown, password)
    for number in range(days):
        cloud.set_clock(PRIMARY, first + timedelta(days=number, hours=12))
        with endpoint.connect(autocommit=True) as connection:
            connection.execute(_ORDERS, [100 * (number + 1)])
    cloud.set_clock(PRIMARY, datetime.now(UTC))
    with endpoint.connect(autocommit=True) as connection:
        connection.execute(_ORDERS, [50])
    return shop


def endpoint_of(
    instance: Mapping[str, Any], password: str, *, user: str = USER, database: str = DATABASE
) -> Endpoint:
    """Return the way to a database of a local instance.

    :param instance: as the API shows it; its ``dnsName`` says where the server is.
    """
    _, _, port = str(instance["dnsName"]).partition(":")
    parameters = {
        "host": "127.0.0.1",
        "port": port,
        "user": user,
        "dbname": database,
        "sslmode": "disable",
    }
    return Endpoint(parameters, password, private=True)


def _done(api: Any, request: Any) -> None:
    operation = request.execute()
    deadline = time.monotonic() + _TIMEOUT_S
    while operation["status"] != "DONE":
        if time.monotonic() > deadline:
            raise CloudDemoFailed(f"{operation['operationType']} took longer than {_TIMEOUT_S} s")
        time.sleep(_POLL_S)
        operation = (
            api.operations()
            .get(project=operation["targetProject"], operation=operation["name"])
            .execute()
        )
    for error in operation.get("error", {}).get("errors", []):
        raise CloudDemoFailed(f"{operation['operationType']} failed: {error['message']}")


@click.command()
@click.option("--url", required=True, help="The local cloud's address.")
@click.option(
    "--keys",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of its accounts' key files.",
)
@click.option("--password-env", default="PGPASSWORD", show_default=True, metavar="VARIABLE")
@click.option("--major", type=int, default=15, show_default=True, help="PostgreSQL's version.")
@click.option("--scale", type=float, default=1.0, show_default=True)
@click.option("--bucket", "buckets", multiple=True, help="Where they may export to.")
def main(
    url: str, keys: Path, password_env: str, major: int, scale: float, buckets: tuple[str, ...]
) -> None:
    """Make the demo's primary and replica in a local cloud that runs."""
    logs.configure(logging.INFO)
    cloud = LocalCloud(url, 0, keys)
    try:
        password = os.environ.get(password_env)
        if not password:
            raise CloudDemoFailed(
                f"there is no password in {password_env}", hint="postgres is to have one: set it"
            )
        shop = ensure_shop(cloud, password=password, major=major, scale=scale, buckets=buckets)
    except ResilError as error:
        click.echo(f"cloudsql: {error}", err=True)
        sys.exit(error.exit_code)
    click.echo(json.dumps({"project": shop.project, "instances": dict(shop.service_accounts)}))


if __name__ == "__main__":
    main()
