"""Cloud SQL's Admin API over PostgreSQL clusters of this machine.

Routes and the validation of every request and response come from Google's discovery document.
What is not done answers 501.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
from pydantic import BaseModel, ConfigDict, ValidationError

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.faults import Switch
from dagster_resil.localcloud.identities import Identities
from dagster_resil.localcloud.protocol import Answer, ApiError, Request, Route, invalid, not_done
from dagster_resil.localcloud.sql.access import Access
from dagster_resil.localcloud.sql.backups import Backups
from dagster_resil.localcloud.sql.clock import Clock
from dagster_resil.localcloud.sql.clones import Clones
from dagster_resil.localcloud.sql.clusters import Clusters
from dagster_resil.localcloud.sql.context import Context
from dagster_resil.localcloud.sql.databases import Databases, Users
from dagster_resil.localcloud.sql.discovery import (
    VERSIONS,
    Document,
    Method,
    Violation,
    document,
    format_time,
    parse_time,
)
from dagster_resil.localcloud.sql.errors import malformed
from dagster_resil.localcloud.sql.instances import Instances
from dagster_resil.localcloud.sql.operation_log import Operations
from dagster_resil.localcloud.sql.outages import Outages
from dagster_resil.localcloud.sql.replicas import Replicas
from dagster_resil.localcloud.sql.store import Instance, Store
from dagster_resil.localcloud.sql.transfers import Transfers
from dagster_resil.localcloud.sql.wal_archive import Archive
from dagster_resil.localcloud.storage.resources import selected
from dagster_resil.postgres.server import ServerFailed

log = logging.getLogger(__name__)

Handler = Callable[[Request], Answer]


class _ClockSetting(BaseModel):
    """What ``POST /localcloud/clock`` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instance: str
    now: str
    project: str = "local"


class SqlService:
    """Instances in a folder.

    :param folder: private; made when it is not there.
    """

    def __init__(self, folder: Path, identities: Identities, switch: Switch) -> None:
        folder.mkdir(mode=0o711, exist_ok=True)
        self._store = Store(folder / "index.sqlite")
        self._access = Access(self._store, identities)
        self._operations = Operations(self._store, self._access)
        self._clusters = Clusters(folder, self._store)
        self._outages = Outages(self._store, self._clusters, switch)
        context = Context(
            store=self._store,
            access=self._access,
            operations=self._operations,
            clusters=self._clusters,
            archive=Archive(self._store, self._clusters),
            identities=identities,
            outages=self._outages,
        )
        instances = self._instances = Instances(context)
        self._backups = Backups(context, instances)
        self._transfers = Transfers(context)
        replicas = Replicas(context, instances)
        instances.create_replica = replicas.create
        self._handlers: dict[str, Handler] = {
            **self._operations.handlers(),
            **instances.handlers(),
            **Databases(context).handlers(),
            **Users(context).handlers(),
            **Clones(context, instances).handlers(),
            **self._backups.handlers(),
            **replicas.handlers(),
            **self._transfers.handlers(),
        }

    def start(self) -> None:
        """Start the instances' servers; those that an interrupted operation left half made fail."""
        if self._store.instances():
            self._transfers.clear()
        self._backups.recover()

        def start(instance: Instance) -> None:
            if instance.state == "PENDING_CREATE":
                self._store.change(instance.key, state="FAILED")
            if instance.state not in ("RUNNABLE", "PENDING_DELETE"):
                return
            try:
                self._clusters.mend_home(instance)
                if instance.is_on:
                    self._clusters.start(instance)
                self._store.change(instance.key, state="RUNNABLE")
            except ResilError:
                log.exception("instance %s does not start", instance.name)
                self._store.change(instance.key, state="FAILED")

        # Replicas are told where their primary is, which may have got another port.
        for replicas in (False, True):
            self._clusters.each(
                start,
                [
                    each
                    for each in self._store.instances()
                    if (each.primary is not None) is replicas
                ],
            )

    def close(self) -> None:
        """End what is under way, and every server."""
        self._operations.close()
        self._clusters.close()
        self._store.close()

    def denying(self, permission: str | None) -> AbstractContextManager[None]:
        """Deny a permission to whoever asks in this thread."""
        return self._access.denying(permission)

    def location(self, project: str, instance: str) -> str | None:
        """Return where an instance is, if it is there, in capitals."""
        found = self._store.instance(project, instance)
        return None if found is None else found.region.upper()

    # -- routes

    def routes(self) -> list[Route]:
        """Return the methods of the API, and the switches of our own."""
        routes = [
            Route(
                method=method.id,
                verb=method.verb,
                path="",
                handler=self._handler(known, method),
                parameters=frozenset(method.parameters) | frozenset(known.common_parameters),
                pattern=method.path,
            )
            for known in map(document, VERSIONS)
            for method in known.methods
        ]
        return [
            *routes,
            Route("localcloud.clock", "GET", "/localcloud/clock", self._clocks),
            Route("localcloud.clock", "POST", "/localcloud/clock", self._set_clock),
            Route("localcloud.instances", "GET", "/localcloud/instances", self._running),
            Route("localcloud.instances", "DELETE", "/localcloud/instances", self._remove_all),
        ]

    def _handler(self, known: Document, method: Method) -> Handler:
        done = self._handlers.get(method.id)

        def handle(request: Request) -> Answer:
            if done is None:
                raise not_done(method.id)
            if request.caller is None:
                raise ApiError(401, "required", "Login Required.")
            _check_query(method, request.query)
            given = request.body.json()
            _check_body(known, method, given)
            request.given = known.canonical(method.request, given) if method.request else {}
            try:
                answer = done(request)
            except (ServerFailed, psycopg.OperationalError) as error:
                log.warning("%s: %s", method.id, error)
                raise ApiError(503, "backendError", "Backend Error") from None
            shown = answer.document
            wrong = known.violations(method.response, shown)
            if wrong:
                log.error("%s answers what it may not: %s", method.id, wrong)
                raise ApiError(500, "internalError", f"a fault of the local cloud: {wrong}")
            if "fields" in request.query:
                return Answer.of(selected(shown, request.query["fields"]))
            return answer

        return handle

    # -- our own

    def _running(self, request: Request) -> Answer:
        found = [
            {
                "project": each.project,
                "name": each.name,
                "state": each.state,
                "port": each.port,
                "pid": self._clusters.pid(each),
                "data": str(self._clusters.data(each)),
            }
            for each in self._store.instances()
        ]
        return Answer.of({"instances": found})

    def _remove_all(self, request: Request) -> Answer:
        """Begin anew: every operation is cancelled, every instance removed, protected or not."""
        self._operations.cancel_all()
        self._clusters.each(self._instances.remove, self._store.instances())
        self._store.remove_clocks()
        return Answer(204)

    def _clocks(self, request: Request) -> Answer:
        found = [
            {
                "project": each.project,
                "instance": each.name,
                "now": format_time(self._store.clock(each.clock).now()),
            }
            for each in self._store.instances()
        ]
        return Answer.of({"clocks": found})

    def _set_clock(self, request: Request) -> Answer:
        try:
            told = _ClockSetting.model_validate(request.body.json())
            now = parse_time(told.now)
        except ValidationError as error:
            raise invalid(f"no such clock: {error}") from None
        except ValueError as error:
            raise invalid(str(error)) from None
        with self._store.locked():
            instance = self._store.instance(told.project, told.instance)
            name = instance.clock if instance else f"{told.project}/{told.instance}"
            clock = self._store.clock(name)
            if instance is not None and not clock.segments and now < clock.now():
                raise invalid(
                    f"the clock of {told.instance} has told real time already; it can't go back. "
                    "Set it before the instance is made."
                )
            try:
                clock = Clock(()).set(now) if instance is None else clock.set(now)
            except ValueError as error:
                raise invalid(str(error)) from None
            self._store.put_clock(name, clock)
        return Answer.of({"clock": name, "now": format_time(clock.now())})


def _check_query(method: Method, query: Mapping[str, str]) -> None:
    for name, value in query.items():
        kind = method.parameters.get(name, {}).get("type")
        if kind == "integer" and not value.removeprefix("-").isdigit():
            raise malformed([Violation(name, f"Invalid value at '{name}' (TYPE_INT32), {value!r}")])
        if kind == "boolean" and value.lower() not in ("true", "false"):
            raise malformed([Violation(name, f"Invalid value at '{name}' (TYPE_BOOL), {value!r}")])


def _check_body(known: Document, method: Method, body: Mapping[str, Any]) -> None:
    if method.request is None:
        wrong = [Violation("", f'Unknown name "{key}": Cannot find field.') for key in body]
    else:
        wrong = known.violations(method.request, body)
    if wrong:
        raise malformed(wrong)
