"""Long operations: PENDING, RUNNING, DONE; one at a time for each instance.

There is no status for failure: an operation that is DONE and has ``error`` has failed. What was
under way when the local cloud ended is DONE with an error when it starts again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.protocol import Answer, ApiError, Request
from dagster_resil.localcloud.sql.access import Access
from dagster_resil.localcloud.sql.discovery import format_time
from dagster_resil.localcloud.sql.errors import (
    Cancelled,
    OperationFailed,
    in_progress,
    invalid_request,
)
from dagster_resil.localcloud.sql.store import Instance, Store
from dagster_resil.process import ProcessTimeout

log = logging.getLogger(__name__)

Key = tuple[str, str]
Work = Callable[["Running"], None]

_MOST_RESULTS = 100
_CANCELLABLE = ("EXPORT", "IMPORT")
_STEP_S = 0.02
_END_TIMEOUT_S = 20


@dataclass
class Running:
    """An operation under way, as its work sees it."""

    document: dict[str, Any]
    faults: Mapping[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Go on only while nobody has cancelled it.

        :raises OperationFailed: somebody has, or the local cloud ends.
        """
        if self.cancelled.is_set():
            raise Cancelled
        if self.ending.is_set():
            raise interrupted()


def interrupted() -> OperationFailed:
    """Return how an operation ends that the local cloud did not live to finish."""
    return OperationFailed("INTERNAL_ERROR", "The operation was interrupted by a restart.")


class Operations:
    """The operations of every project, and the methods ``sql.operations.*``."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._lock = threading.Lock()
        self._busy: set[Key] = set()
        self._running: dict[str, Running] = {}
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()
        self._recover()

    def _recover(self) -> None:
        for _, document in self._store.operations(None, None, None, 1 << 30):
            if document["status"] != "DONE":
                document["startTime"] = document.get("startTime", document["insertTime"])
                self._end(document, interrupted())

    def close(self) -> None:
        """End what is under way; it is DONE with an error."""
        self._ending.set()
        self._join()

    def cancel_all(self) -> None:
        """Cancel whatever is under way, of whatever kind, and wait for its end."""
        with self._lock:
            for running in self._running.values():
                running.cancelled.set()
        self._join()

    def _join(self) -> None:
        with self._lock:
            threads = [each for each in self._threads if each.is_alive()]
        for thread in threads:
            thread.join(_END_TIMEOUT_S)

    # -- beginning one

    @contextmanager
    def alone(self, *keys: Key) -> Iterator[None]:
        """Do something quick for which no operation may have the instances.

        :raises ApiError: one has.
        """
        self._take(keys)
        try:
            yield
        finally:
            self._give_back(keys)

    def _take(self, keys: Iterable[Key]) -> None:
        with self._lock:
            if self._busy & set(keys):
                raise in_progress()
            self._busy |= set(keys)

    def _give_back(self, keys: Iterable[Key]) -> None:
        with self._lock:
            self._busy -= set(keys)

    def begin(
        self,
        request: Request,
        kind: str,
        target: Instance,
        work: Work,
        *,
        locks: Sequence[Key] = (),
        prepare: Callable[[], None] = lambda: None,
        failed: Callable[[], None] = lambda: None,
        **context: Any,
    ) -> Answer:
        """Begin an operation; return the answer, which shows it PENDING.

        :param kind: Google's name of it, for example "EXPORT".
        :param target: the instance that ``targetId`` names.
        :param work: what it does, in a thread of its own; what it raises is its error.
        :param locks: the other instances that nobody else may work on meanwhile.
        :param prepare: what is done before the answer, with the instances held.
        :param failed: what is done after the work has failed.
        :param context: further fields of the operation.
        :raises ApiError: an instance has another operation.
        """
        keys = (target.key, *locks)
        self._take(keys)
        try:
            prepare()
            document = self.document(request, kind, target, **context)
            faults = request.faults.operation() if request.faults else {}
            running = Running(document, faults, ending=self._ending)
            self._store.put_operation(document)
        except BaseException:
            self._give_back(keys)
            raise
        thread = threading.Thread(
            target=self._run,
            args=(running, work, failed, keys),
            name=f"{kind} {target.name}",
            daemon=True,
        )
        with self._lock:
            self._running[document["name"]] = running
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            # The thread may be done before this answer is written.
            shown = dict(document)
            thread.start()
        return Answer.of(shown)

    def done(self, request: Request, kind: str, target: Instance) -> Answer:
        """Record something as an operation that was done at once."""
        document = self.document(request, kind, target)
        document["startTime"] = document["insertTime"]
        self._end(document, None)
        return Answer.of(document)

    def document(
        self, request: Request, kind: str, target: Instance, **context: Any
    ) -> dict[str, Any]:
        """Return a new operation."""
        name = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        base = f"{request.base_url}/v1/projects/{target.project}"
        return {
            "kind": "sql#operation",
            "name": name,
            "operationType": kind,
            "status": "PENDING",
            "user": request.caller or "",
            "insertTime": format_time(self._store.clock(target.clock).now()),
            "targetId": target.name,
            "targetProject": target.project,
            "targetLink": f"{base}/instances/{target.name}",
            "selfLink": f"{base}/operations/{name}",
            **context,
        }

    # -- doing it

    def _run(
        self, running: Running, work: Work, failed: Callable[[], None], keys: Sequence[Key]
    ) -> None:
        document = running.document
        error: OperationFailed | None = None
        try:
            self._pause(running)
            document["status"] = "RUNNING"
            document["startTime"] = self._now(document)
            self._store.put_operation(document)
            self._strike(running, "before")
            work(running)
            self._strike(running, "after")
        except OperationFailed as failure:
            error = failure
        except (ResilError, ProcessTimeout) as failure:
            error = OperationFailed("INTERNAL_ERROR", str(failure))
        except Exception as failure:
            log.exception("%s of %s", document["operationType"], document["targetId"])
            error = OperationFailed("INTERNAL_ERROR", f"{type(failure).__name__}: {failure}")
        try:
            if error is not None:
                failed()
        except Exception:
            log.exception("clearing up after %s", document["operationType"])
        finally:
            self._give_back(keys)
            self._end(document, error)
            with self._lock:
                self._running.pop(document["name"], None)

    def _pause(self, running: Running) -> None:
        """Stay PENDING for as long as a fault says."""
        deadline = time.monotonic() + running.faults.get("pending_s", 0.0)
        while time.monotonic() < deadline:
            running.check()
            time.sleep(_STEP_S)

    def _strike(self, running: Running, when: str) -> None:
        """Do what the faults say: stand for a while, or for ever, or fail."""
        faults = running.faults
        if when == "before":
            deadline = time.monotonic() + faults.get("slow_s", 0.0)
            stuck: Callable[[], bool] = faults.get("stuck", lambda: False)
            while stuck() or time.monotonic() < deadline:
                running.check()
                time.sleep(_STEP_S)
        if faults.get("failed") == when:
            raise OperationFailed(faults["code"], faults["message"])

    def _now(self, document: Mapping[str, Any]) -> str:
        target = self._store.instance(document["targetProject"], document["targetId"])
        clock = self._store.clock(target.clock if target else "")
        return max(format_time(clock.now()), str(document.get("startTime", "")))

    def _end(self, document: dict[str, Any], error: OperationFailed | None) -> None:
        document["status"] = "DONE"
        document["endTime"] = self._now(document)
        if error is not None:
            one = {"kind": "sql#operationError", "code": error.code, "message": error.message}
            document["error"] = {"kind": "sql#operationErrors", "errors": [one]}
        self._store.put_operation(document)

    # -- the methods

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.operations.get": self._get,
            "sql.operations.list": self._list,
            "sql.operations.cancel": self._cancel,
        }

    def _found(self, request: Request) -> dict[str, Any]:
        found = self._store.operation(request.names["project"], request.names["operation"])
        # Whoever may look at one instance alone may follow what happens to it.
        self._access.check(
            request, "cloudsql.instances.get", instance=found["targetId"] if found else None
        )
        if found is None:
            raise ApiError(404, "operationDoesNotExist", "The Cloud SQL operation does not exist.")
        return found

    def _get(self, request: Request) -> Answer:
        return Answer.of(self._found(request))

    def _list(self, request: Request) -> Answer:
        project, instance = request.names["project"], request.query.get("instance")
        self._access.check(request, "cloudsql.instances.get", project=project, instance=instance)
        if instance is not None and not instance:
            raise invalid_request("instance is empty.")
        limit, before = page(request, _MOST_RESULTS)
        rows = self._store.operations(project, instance, before, limit + 1)
        answer: dict[str, Any] = {"kind": "sql#operationsList"}
        if rows:
            answer["items"] = [document for _, document in rows[:limit]]
        if len(rows) > limit:
            answer["nextPageToken"] = str(rows[limit - 1][0])
        return Answer.of(answer)

    def _cancel(self, request: Request) -> Answer:
        document = self._found(request)
        kind = str(document["operationType"])
        self._access.check(
            request,
            f"cloudsql.instances.{kind.lower() if kind in _CANCELLABLE else 'update'}",
            instance=document["targetId"],
        )
        with self._lock:
            running = self._running.get(document["name"])
        if running is None:
            raise invalid_request("The operation is done already.")
        if kind not in _CANCELLABLE:
            raise invalid_request(f"An operation of type {kind} can't be cancelled.")
        running.cancelled.set()
        return Answer.of({})


def page(request: Request, most: int) -> tuple[int, int | None]:
    """Return how many items a list is to have, and the number that it begins below.

    :raises ApiError: the page token is none of ours.
    """
    limit = int(request.query.get("maxResults", "0")) or most
    if limit < 0:
        raise invalid_request("maxResults is below 0.")
    token = request.query.get("pageToken") or None
    if token is not None and not (token.isascii() and token.isdigit()):
        raise invalid_request("The page token is invalid.")
    return min(limit, most), None if token is None else int(token)
