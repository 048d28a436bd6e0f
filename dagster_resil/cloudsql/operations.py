"""Long operations: each begun once, and waited for.

Cloud SQL takes no request twice as one. So where we don't know whether a request was accepted, we
look for the operation that it would have begun, and only where there is none is it sent again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dagster_resil import logs
from dagster_resil.cloudsql.api import Api, NoAnswer, Refusal, Request, Watch, nothing, wait
from dagster_resil.cloudsql.refusals import failed, refused
from dagster_resil.errors import CloudSqlError, OperationUnfinished

log = logging.getLogger(__name__)

_DONE = "DONE"
_PROJECT = re.compile(r"/projects/([^/]+)/operations/")
_PAGE = 100
_MOST_PAGES = 50
"""Of an instance's operations, newest first. What was just begun, or goes on, is on the first."""
_CANCEL_S = 60
"""For as long we wait for the end of an export that we have cancelled."""


@dataclass(frozen=True)
class OperationRequest:
    """What begins an operation.

    :param doing: which permission it takes, a key of :data:`refusals.PERMISSIONS`.
    :param what: for messages: "export database shop of instance orders".
    :param request: makes the request.
    :param kind: the operation's type in Google's words: EXPORT, CLONE, DELETE, UPDATE.
    :param project: where the operation's target is.
    :param instance: the operation's target: for a clone its destination.
    :param source: of a clone: the project and name of the instance that it is of.
    :param uri: of an export: where it goes.
    """

    doing: str
    what: str
    request: Callable[[], Request]
    kind: str
    project: str
    instance: str
    source: tuple[str, str] | None = None
    uri: str | None = None

    def matches(self, operation: dict[str, Any]) -> bool:
        """Return whether an operation is what this request would begin."""
        context = operation.get("exportContext", {})
        return (
            operation.get("operationType") == self.kind
            and operation.get("targetId") == self.instance
            and operation.get("targetProject", self.project) == self.project
            and (self.uri is None or context.get("uri", "").rstrip("/") == self.uri.rstrip("/"))
        )


class Operations:
    """Begins operations and waits for them.

    :param timeout_s: how long one may take, and how long it may wait for its turn.
    """

    def __init__(self, api: Api, timeout_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s

    def run(
        self, asked: OperationRequest, *, watch: Watch = nothing, turn_s: float | None = None
    ) -> None:
        """Begin an operation, or find it under way, and wait until it has ended well.

        :param turn_s: how long to wait for another operation to end; by default as long as an
            operation may take.
        :raises CloudSqlError: it was refused, or it failed.
        :raises OperationUnfinished: it took too long, or it can't be told how it went on.
        """
        operation = self._begin(asked, watch, self._timeout_s if turn_s is None else turn_s)
        if operation is None:
            self._await_instance(asked, watch)
        else:
            self._finish(asked, operation, watch)

    # -- beginning

    def _begin(self, asked: OperationRequest, watch: Watch, turn_s: float) -> dict[str, Any] | None:
        """Begin an operation exactly once; return it.

        None stands for a clone that is there although its operation can't be found.
        """
        # What was there before we asked is no answer to us, unless it is under way still. Not told
        # by times: the server's clock is not ours.
        before = {each["name"] for each in self._matching(asked, watch)}
        turn_ends = time.monotonic() + turn_s
        retry_ends = time.monotonic() + self._api.retry_s
        pauses = self._api.pauses()
        unsure = False
        while True:
            try:
                operation = self._api.send(asked.request())
                log.info("operation %s: %s", operation.get("name"), asked.what)
                return operation
            except NoAnswer as failure:
                unsure = True
                log.info("it is unknown whether %r was accepted: %s", asked.what, failure)
                try:
                    if found := self._appearing(asked, before, watch):
                        return self._adopted(asked, found)
                    if self._state(asked, watch) is not None:
                        return None
                except CloudSqlError as error:
                    raise OperationUnfinished(
                        f"it is unknown whether Cloud SQL will {asked.what}: it gave no answer "
                        f"({failure}), and then: {error.message}",
                        hint=error.hint,
                        reason=error.reason,
                    ) from None
                if time.monotonic() >= retry_ends:
                    raise self._api.unreachable(f"{asked.what!r}", failure) from None
                continue  # it has just been waited for
            except Refusal as refusal:
                if refusal.is_throttled and time.monotonic() < retry_ends:
                    pass
                elif refusal.is_in_progress or (
                    # So it is said of an instance that is only now being made.
                    refusal.reason == "invalidState" and self._under_way(asked, watch)
                ):
                    # Changes can't be told from each other: the one under way may be anybody's.
                    mine = unsure or asked.kind != "UPDATE"
                    if mine and (found := self._found(asked, before, watch)):
                        return self._adopted(asked, found)
                    if time.monotonic() >= turn_ends:
                        raise self._no_turn(asked, refusal, watch) from None
                    # It answers: what fails in passing later does so for the first time.
                    retry_ends = time.monotonic() + self._api.retry_s
                elif unsure and (found := self._appearing(asked, before, watch)):
                    # It collides with what we asked for ourselves.
                    return self._adopted(asked, found)
                elif unsure and self._state(asked, watch) is not None:
                    return None
                else:
                    raise self._refused(asked, refusal) from None
            pauses(watch)

    def _adopted(self, asked: OperationRequest, operation: dict[str, Any]) -> dict[str, Any]:
        log.info("operation %s is what %r asked for", operation["name"], asked.what)
        return operation

    def _appearing(
        self, asked: OperationRequest, before: set[str], watch: Watch
    ) -> dict[str, Any] | None:
        """Look for an operation that may take a moment to show."""
        deadline = time.monotonic() + self._api.pace.settle_s
        while True:
            found = self._found(asked, before, watch)
            if found is not None or time.monotonic() >= deadline:
                return found
            wait(self._api.pace.first_s, watch)

    def _found(
        self, asked: OperationRequest, before: set[str], watch: Watch
    ) -> dict[str, Any] | None:
        for operation in self._matching(asked, watch):
            # The same request of a worker that has died is under way: no need for another.
            if operation["name"] not in before or operation["status"] != _DONE:
                return operation
        return None

    def _matching(self, asked: OperationRequest, watch: Watch) -> list[dict[str, Any]]:
        found = self.of_instance(asked.project, asked.instance, watch=watch)
        if asked.source is not None and asked.source[0] != asked.project:
            found += self.of_instance(*asked.source, watch=watch)
        return [each for each in found if asked.matches(each)]

    def of_instance(
        self, project: str, instance: str, *, watch: Watch = nothing, pages: int = 1
    ) -> list[dict[str, Any]]:
        """Return the newest operations of an instance, newest first, and of one that is gone.

        :param pages: how many hundreds of them.
        :raises CloudSqlError: we may not see them, or there is no answer.
        """
        found: list[dict[str, Any]] = []
        page: str | None = None
        try:
            for _ in range(pages):
                request = self._api.service.operations().list(
                    project=project,
                    instance=instance,
                    maxResults=_PAGE,
                    **({"pageToken": page} if page else {}),
                )
                answer = self._api.read(request, f"operations of {instance}", watch=watch)
                found += answer.get("items", ())
                page = answer.get("nextPageToken")
                if not page:
                    break
        except Refusal as refusal:
            if refusal.status != 404:
                raise refused(
                    refusal,
                    doing="see",
                    what=f"see the operations of instance {instance}",
                    project=project,
                    instance=instance,
                    account=self._api.account,
                ) from None
        return found

    def _under_way(self, asked: OperationRequest, watch: Watch) -> list[dict[str, Any]]:
        """Return the operations that have the instances that a request is about."""
        places = dict.fromkeys([asked.source or (asked.project, asked.instance)])
        places[(asked.project, asked.instance)] = None
        return [
            each
            for place in places
            for each in self.of_instance(*place, watch=watch)
            if each["status"] != _DONE
        ]

    def was_cloned(self, project: str, instance: str) -> bool:
        """Return whether an operation CLONE has made an instance."""
        return any(
            each["operationType"] == "CLONE" and each.get("targetId") == instance
            for each in self.of_instance(project, instance, pages=_MOST_PAGES)
        )

    # -- waiting

    def _finish(self, asked: OperationRequest, operation: dict[str, Any], watch: Watch) -> None:
        """Wait for the end of an operation; an export that nobody waits for any longer is ended.

        :raises CloudSqlError: it failed.
        :raises OperationUnfinished: it took too long, or it can't be told how it goes on.
        """
        try:
            done = self._awaited(asked, operation, self._timeout_s, watch)
        except BaseException:
            if asked.kind == "EXPORT":
                self._cancel(asked, operation)
            raise
        errors = done.get("error", {}).get("errors", ())
        if "error" in done:
            first = errors[0] if errors else {}
            raise failed(
                str(first.get("code", "UNKNOWN")),
                logs.redact(str(first.get("message") or "Cloud SQL does not say why")),
                what=asked.what,
                project=asked.project,
                instance=asked.instance,
                uri=asked.uri,
            )

    def _awaited(
        self, asked: OperationRequest, operation: dict[str, Any], timeout_s: float, watch: Watch
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        pauses = self._api.pauses()
        project = _project_of(operation) or asked.project
        name = operation["name"]
        while operation.get("status") != _DONE:
            if time.monotonic() >= deadline:
                raise OperationUnfinished(
                    f"{asked.what!r} has not ended within {timeout_s:g} s: its operation {name} "
                    f"is {operation.get('status', 'in no known state')}",
                    hint=f"see it: gcloud sql operations describe {name} --project={project}",
                    reason="timeout",
                )
            pauses(watch)
            request = self._api.service.operations().get(project=project, operation=name)
            try:
                operation = self._api.read(request, f"operation {name}", watch=watch)
            except Refusal as refusal:
                error = self._refused(asked, refusal, doing="see")
                raise OperationUnfinished(
                    f"{asked.what!r} is running, but its state can't be read: {error.message}",
                    hint=error.hint,
                    reason=refusal.reason,
                ) from None
            except CloudSqlError as error:
                raise OperationUnfinished(
                    f"{asked.what!r} is running, but its state can't be read: {error.message}",
                    hint=error.hint,
                    reason=error.reason,
                ) from None
        return operation

    def _state(self, asked: OperationRequest, watch: Watch) -> str | None:
        """Return the state of the instance that a clone makes; None when it is not there."""
        if asked.source is None:
            return None
        request = self._api.service.instances().get(project=asked.project, instance=asked.instance)
        try:
            answer = self._api.read(request, f"instance {asked.instance}", watch=watch)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise self._refused(asked, refusal, doing="see") from None
        return str(answer.get("state"))

    def _await_instance(self, asked: OperationRequest, watch: Watch) -> None:
        """Wait until a clone is made whose operation can't be found."""
        log.info("instance %s is what %r asked for", asked.instance, asked.what)
        deadline = time.monotonic() + self._timeout_s
        pauses = self._api.pauses()
        while (state := self._state(asked, watch)) in ("PENDING_CREATE", "MAINTENANCE"):
            if time.monotonic() >= deadline:
                raise OperationUnfinished(
                    f"{asked.what!r} has not ended within {self._timeout_s:g} s: it is {state}",
                    hint=f"see it: gcloud sql operations list --instance={asked.instance} "
                    f"--project={asked.project}",
                    reason="timeout",
                )
            pauses(watch)
        if state != "RUNNABLE":
            raise CloudSqlError(
                f"can't {asked.what}: it is {state or 'gone'}",
                hint=f"see why: gcloud sql operations list --instance={asked.instance} "
                f"--project={asked.project}",
                reason="INSTANCE_" + (state or "GONE"),
            )

    def _cancel(self, asked: OperationRequest, operation: dict[str, Any]) -> None:
        """End an export, so that it does not write on, nor have the next one wait."""
        name = operation["name"]
        project = _project_of(operation) or asked.project
        try:
            self._api.send(self._api.service.operations().cancel(project=project, operation=name))
            self._awaited(asked, operation, min(self._timeout_s, _CANCEL_S), nothing)
            log.info("cancelled operation %s: %s", name, asked.what)
        except (NoAnswer, Refusal, CloudSqlError) as error:
            log.warning(
                "operation %s (%s) may still be running: it can't be cancelled: %s",
                name,
                asked.what,
                error,
            )

    # -- errors

    def _refused(
        self, asked: OperationRequest, refusal: Refusal, *, doing: str | None = None
    ) -> CloudSqlError:
        project, instance = asked.source or (asked.project, asked.instance)
        return refused(
            refusal,
            doing=doing or asked.doing,
            what=asked.what,
            project=project,
            instance=instance,
            account=self._api.account,
            destination_project=asked.project,
        )

    def _no_turn(self, asked: OperationRequest, refusal: Refusal, watch: Watch) -> CloudSqlError:
        running = [
            f"{each['operationType']} {each['name']}" for each in self._under_way(asked, watch)
        ]
        return CloudSqlError(
            f"can't {asked.what}: another operation is running on the instance, and did not end "
            "in time" + (f": {', '.join(running)}" if running else ""),
            hint="wait for its end, or cancel it: gcloud sql operations list "
            f"--instance={(asked.source or (asked.project, asked.instance))[1]}",
            reason=refusal.reason,
        )


def _project_of(operation: dict[str, Any]) -> str | None:
    found = _PROJECT.search(operation.get("selfLink", ""))
    return found[1] if found else operation.get("targetProject")
