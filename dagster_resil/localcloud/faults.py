"""What goes wrong on purpose: a switch that tests and a developer turn, from this machine only.

``POST /localcloud/faults`` takes one :class:`Fault` as a JSON object, ``GET`` lists them with how
often each has struck, ``DELETE`` clears them. ``GET /localcloud/requests`` counts what was asked,
by method, with the log of it; ``DELETE`` begins anew.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from dagster_resil.localcloud.protocol import Interrupted, Request, invalid

_UPLOADS = ("storage.objects.insert", "storage.uploads.put")
_KEPT_REQUESTS = 20_000
_SLOW_STEP_S = 0.5

Kind = Literal[
    "error",
    "drop",
    "cut",
    "slow",
    "corrupt",
    "denied",
    "region_gone",
    "operation_slow",
    "operation_stuck",
    "operation_failed",
    "export_truncated",
    "export_corrupted",
    "archive_lag",
    "replica_lag",
]
_LAGS: tuple[Kind, ...] = ("archive_lag", "replica_lag")
_LASTING: tuple[Kind, ...] = ("region_gone", *_LAGS)


class Fault(BaseModel):
    """Something that goes wrong, and with which requests.

    - error: the answer is ``status`` and ``reason``; ``when`` is before the request has done
      anything, or after all of it was done.
    - drop: no answer; the connection ends, before or after.
    - cut: the connection ends after ``at_byte`` bytes of a body, whichever way it goes.
    - slow: bodies go at ``bytes_per_s``.
    - corrupt: one bit of the byte at ``at_byte`` is flipped in a body, whichever way it goes. Of
      an upload it is the object's content, whatever is round it, and not the answer (but with
      ``incoming`` False).
    - denied: nobody has ``permission`` (a pattern).
    - region_gone: buckets in ``location`` answer 503, and so do Cloud SQL's instances, whose
      servers crash; they start again when the fault is cleared.

    With requests that begin an operation of Cloud SQL:

    - operation_slow: it is PENDING for ``pending_s``, and RUNNING for ``seconds`` before it does
      anything.
    - operation_stuck: it is RUNNING until it is cancelled, the faults are cleared, or the local
      cloud ends.
    - operation_failed: it ends with ``code`` and ``message``; ``when`` is before it has done
      anything, or after all of it.
    - export_truncated, export_corrupted: what is exported ends at ``at_byte``, or has a bit of
      that byte flipped, and the operation ends well.

    For as long as they are on, with the instances that ``instance`` and ``project`` name:

    - archive_lag: no WAL is archived.
    - replica_lag: a replica receives WAL and does not replay it.

    :param method: a pattern of Google's names, for example "storage.objects.*".
    :param object: a pattern of objects' names.
    :param instance: a pattern of instances' names.
    :param skip: how many matching requests are let by first.
    :param times: how many it strikes; None for every one.
    :param incoming: for cut, slow and corrupt: requests' bodies (True), answers' (False), both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    method: str = "*"
    bucket: str = "*"
    object: str = "*"
    project: str = "*"
    instance: str = "*"
    caller: str = "*"
    skip: int = Field(default=0, ge=0)
    times: int | None = Field(default=None, ge=1)
    when: Literal["before", "after"] = "before"
    status: int = Field(default=503, ge=400, le=599)
    reason: str = "backendError"
    message: str = "We encountered an internal error. Please try again."
    at_byte: int = Field(default=0, ge=0)
    bytes_per_s: float = Field(default=1 << 20, gt=0)
    permission: str = "*"
    location: str = ""
    incoming: bool | None = None
    seconds: float = Field(default=0.0, ge=0)
    pending_s: float = Field(default=0.0, ge=0)
    code: str = "INTERNAL_ERROR"
    _cleared: threading.Event = PrivateAttr(default_factory=threading.Event)

    def is_on(self) -> bool:
        """Return whether it has not been cleared."""
        return not self._cleared.is_set()

    def end(self) -> None:
        """Clear it."""
        self._cleared.set()

    def concerns(self, request: Request) -> bool:
        """Return whether a request is one of those that it is about."""
        return (
            fnmatchcase(request.method, self.method)
            and fnmatchcase(request.names.get("bucket", ""), self.bucket)
            and fnmatchcase(request.names.get("object", ""), self.object)
            and fnmatchcase(request.names.get("project", ""), self.project)
            and fnmatchcase(request.names.get("instance", ""), self.instance)
            and fnmatchcase(request.caller or "", self.caller)
        )


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0
    struck: int = 0


@dataclass
class Striking:
    """The faults that strike one request."""

    faults: list[Fault]
    uploads: bool = False
    begun: float = field(default_factory=time.monotonic)

    def of(self, *kinds: Kind, when: str | None = None) -> Fault | None:
        """Return the first of some kinds."""
        for fault in self.faults:
            if fault.kind in kinds and (when is None or fault.when == when):
                return fault
        return None

    def operation(self) -> dict[str, Any]:
        """Return what goes wrong with the operation that the request begins."""
        wrong: dict[str, Any] = {}
        for fault in self.faults:
            if fault.kind == "operation_slow":
                wrong |= {"slow_s": fault.seconds, "pending_s": fault.pending_s}
            elif fault.kind == "operation_stuck":
                wrong["stuck"] = fault.is_on
            elif fault.kind == "operation_failed":
                wrong |= {"failed": fault.when, "code": fault.code, "message": fault.message}
            elif fault.kind in ("export_truncated", "export_corrupted"):
                wrong[fault.kind.removeprefix("export_")] = fault.at_byte
        return wrong

    def passing(self, data: memoryview, offset: int, *, incoming: bool) -> None:
        """Do to a block of a body what the faults do.

        :raises Interrupted: the connection is to end here.
        """
        for fault in self.faults:
            if fault.incoming is not None and fault.incoming is not incoming:
                continue
            end = offset + len(data)
            if fault.kind == "cut" and fault.at_byte < end:
                raise Interrupted
            if fault.kind == "corrupt" and not self._of_content(fault):
                _flip(data, fault.at_byte - offset)
            if fault.kind == "slow":
                due = self.begun + end / fault.bytes_per_s
                while (left := due - time.monotonic()) > 0:
                    time.sleep(min(left, _SLOW_STEP_S))

    def _of_content(self, fault: Fault) -> bool:
        return self.uploads and fault.incoming is not False

    @property
    def changes_content(self) -> bool:
        """Return whether an upload's content is changed."""
        return any(fault.kind == "corrupt" and self._of_content(fault) for fault in self.faults)

    def content(self, data: memoryview, offset: int) -> None:
        """Do to a block of an upload's content what the faults do."""
        for fault in self.faults:
            if fault.kind == "corrupt" and self._of_content(fault):
                _flip(data, fault.at_byte - offset)

    @property
    def block_bytes(self) -> int | None:
        """Return how much may go at a time; None where no fault touches a body."""
        slow = self.of("slow")
        if slow is not None:
            return max(1, min(1 << 16, int(slow.bytes_per_s * _SLOW_STEP_S)))
        if self.of("cut", "corrupt"):
            return 1 << 16
        return None

    def cut_at(self) -> int | None:
        """Return after how many bytes an answer ends too early, if it does."""
        cut = self.of("cut")
        return cut.at_byte if cut is not None and cut.incoming is not True else None


def _flip(data: memoryview, place: int) -> None:
    if 0 <= place < len(data):
        data[place] ^= 0x01


def read_fault(document: dict[str, Any], methods: set[str], locations: Sequence[str]) -> Fault:
    """Return the fault that a JSON object describes.

    :param methods: those that there are.
    :raises ApiError: there is no such fault, or it would never strike.
    """
    kinds = get_args(Kind)
    if document.get("kind") not in kinds:
        raise invalid(f"no such kind of fault: {document.get('kind')!r}; one of {', '.join(kinds)}")
    try:
        fault = Fault.model_validate(document)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}"
            + (
                f" (there are {', '.join(Fault.model_fields)})"
                * (each["type"] == "extra_forbidden")
            )
            for each in error.errors()
        ]
        raise invalid("no such fault: " + "; ".join(wrong)) from None
    if not any(fnmatchcase(method, fault.method) for method in methods):
        near = difflib.get_close_matches(fault.method, methods, n=5, cutoff=0)
        raise invalid(f"no method is {fault.method!r}; near ones: {', '.join(near)}")
    if fault.kind == "region_gone" and fault.location.upper() not in locations:
        there = ", ".join(each.lower() for each in locations)
        raise invalid(f"no location is {fault.location!r}; there are: {there}")
    return fault


class Switch:
    """The faults that are on, and what was asked so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._counts: Counter[str] = Counter()
        self._log: deque[dict[str, Any]] = deque(maxlen=_KEPT_REQUESTS)
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have something called whenever a fault that lasts is turned on or off."""
        self._listeners.append(listener)

    def armed(self) -> list[Fault]:
        """Return the faults that are on."""
        with self._lock:
            return [armed.fault for armed in self._armed]

    def add(self, fault: Fault) -> None:
        """Turn a fault on."""
        with self._lock:
            self._armed.append(_Armed(fault))
        if fault.kind in _LASTING:
            self._tell()

    def clear(self) -> None:
        """Turn every fault off."""
        with self._lock:
            lasting = any(armed.fault.kind in _LASTING for armed in self._armed)
            for armed in self._armed:
                armed.fault.end()
            self._armed.clear()
        if lasting:
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that are on, and how often each has struck."""
        with self._lock:
            return [
                {**armed.fault.model_dump(), "seen": armed.seen, "struck": armed.struck}
                for armed in self._armed
            ]

    def strike(self, request: Request, location: str | None) -> Striking:
        """Return what happens to a request.

        :param location: where its bucket or instance is.
        """
        striking = []
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                if fault.kind in _LAGS or not fault.concerns(request):
                    continue
                if fault.kind == "region_gone" and fault.location.upper() != location:
                    continue
                armed.seen += 1
                if armed.seen <= fault.skip:
                    continue
                if fault.times is not None and armed.struck >= fault.times:
                    continue
                armed.struck += 1
                striking.append(fault)
        return Striking(striking, uploads=request.method in _UPLOADS)

    def note(self, request: Request, status: int) -> None:
        """Count a request; 0 stands for one that got no answer."""
        if request.method.startswith("localcloud."):
            return
        with self._lock:
            self._counts[request.method] += 1
            self._log.append(
                {
                    "method": request.method,
                    "bucket": request.names.get("bucket", ""),
                    "object": request.names.get("object", ""),
                    "instance": request.names.get("instance", ""),
                    "caller": request.caller,
                    "status": status,
                }
            )

    def requests(self) -> dict[str, Any]:
        """Return how often each method was asked for, and the last requests in their order."""
        with self._lock:
            return {"counts": dict(self._counts), "log": list(self._log)}

    def forget_requests(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self._counts.clear()
            self._log.clear()
