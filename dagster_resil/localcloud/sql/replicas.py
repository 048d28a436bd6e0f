"""Read replicas: streaming replication from the primary, in any region; their promotion.

``instances.insert`` with ``masterInstanceName`` makes one. A replica that is promoted is an
instance of its own from then on, and so is its old primary, should that still be there: somebody
has to see that nobody writes to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dagster_resil.localcloud.protocol import Answer, Request, not_done
from dagster_resil.localcloud.sql.clusters import place_file, slot_name
from dagster_resil.localcloud.sql.context import Context, MethodGroup
from dagster_resil.localcloud.sql.errors import OperationFailed, invalid_request
from dagster_resil.localcloud.sql.instances import Instances, check_running
from dagster_resil.localcloud.sql.operation_log import Running
from dagster_resil.localcloud.sql.store import Instance

_STREAM_TIMEOUT_S = 30
_NAME_LENGTH = 63
"""PostgreSQL cuts an application's name there; an instance's may be longer."""
_STEP_S = 0.02


class Replicas(MethodGroup):
    """The methods of replicas."""

    def __init__(self, context: Context, instances: Instances) -> None:
        super().__init__(context)
        self._instances = instances

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {"sql.instances.promoteReplica": self._promote}

    def create(self, request: Request, replica: Instance) -> Answer:
        """Begin to make a replica.

        :raises ApiError: its primary can't have one now.
        """
        primary = self._store.instance(replica.project, replica.primary or "")
        if primary is None:
            raise invalid_request("The primary instance does not exist.")
        check_running(primary)
        self._outages.check(primary.region)
        if primary.primary is not None:
            raise not_done("replicas of replicas")

        def work(running: Running) -> None:
            self._clusters.make_home(replica)
            data = self._clusters.data(replica)
            with self._clusters.admin(primary) as connection:
                # The primary keeps what the replica has not got yet, from now on.
                connection.execute(
                    "SELECT pg_create_physical_replication_slot(%s, true)", [slot_name(replica)]
                )
            self._clusters.base_backup(primary, data, watch=running.check)
            place_file(data / "standby.signal")
            started = self._clusters.start(replica)
            self._wait_for_stream(primary, started, running)
            self._instances.ready(started, base=False)

        def failed() -> None:
            self._instances.failed(replica)
            self._outages.drop_slot(replica)

        return self._operations.begin(
            request,
            "CREATE_REPLICA",
            primary,
            work,
            locks=[replica.key],
            prepare=lambda: self._instances.add(replica),
            failed=failed,
        )

    def _wait_for_stream(self, primary: Instance, replica: Instance, running: Running) -> None:
        deadline = time.monotonic() + _STREAM_TIMEOUT_S
        with self._clusters.admin(primary) as connection:
            while not connection.execute(
                "SELECT FROM pg_stat_replication WHERE application_name = %s "
                "AND state = 'streaming'",
                [replica.name[:_NAME_LENGTH]],
            ).fetchall():
                running.check()
                if time.monotonic() > deadline:
                    raise OperationFailed("INTERNAL_ERROR", "The replica does not stream.")
                time.sleep(_STEP_S)

    def _promote(self, request: Request) -> Answer:
        replica = self._instances.running(request, "cloudsql.instances.promoteReplica")
        if replica.primary is None:
            raise invalid_request("The instance is no read replica.")
        if request.flag("failover"):
            raise not_done("replica failover (Enterprise Plus)")

        def work(running: Running) -> None:
            if not self._clusters.alive(replica):
                self._clusters.start(replica)
            self._promote_server(replica)
            self._outages.drop_slot(replica)
            after = self._store.change(
                replica.key, masterInstanceName=None, instanceType="CLOUD_SQL_INSTANCE"
            )
            self._clusters.configure(after, {})

        return self._operations.begin(request, "PROMOTE_REPLICA", replica, work)

    def _promote_server(self, replica: Instance) -> None:
        with self._clusters.admin(replica) as connection:
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
            if row is not None and not row[0]:
                return  # by an operation that was interrupted
            # It replays what it has received, also where a fault held it back.
            connection.execute("SELECT pg_wal_replay_resume()")
            row = connection.execute("SELECT pg_promote(true, 60)").fetchone()
        if row is None or not row[0]:
            raise OperationFailed("INTERNAL_ERROR", "The replica was not promoted in time.")
