"""What every service speaks: a request, an answer, and Google's form of an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

BLOCK_BYTES = 1 << 20
"""How much of a body is in memory at a time."""
_MOST_JSON_BYTES = 4 << 20


class ApiError(Exception):
    """A request is refused, in Google's words.

    :param reason: the machine's word for it, for example "conditionNotMet".
    :param kind: the newer word that some answers have too, for example "INVALID_ARGUMENT".
    :param details: what those answers tell more.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        kind: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.kind = kind
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        first = {"message": self.message, "domain": "global", "reason": self.reason}
        error: dict[str, Any] = {"code": self.status, "message": self.message, "errors": [first]}
        if self.kind is not None:
            error["status"] = self.kind
        if self.details:
            error["details"] = list(self.details)
        return {"error": error}


def not_done(what: str) -> ApiError:
    """Return the answer to what this fake leaves out."""
    return ApiError(501, "notImplemented", f"the local cloud does not do this: {what}")


def invalid(message: str) -> ApiError:
    """Return the answer to a request that makes no sense."""
    return ApiError(400, "invalid", message)


class Interrupted(Exception):
    """The connection ended in the middle of a body, by accident or by a fault."""


class Fault(Protocol):
    """What a fault does to the bytes that go by."""

    def passing(self, data: memoryview, offset: int, *, incoming: bool) -> None:
        """Look at a block on its way: wait, change it, or raise Interrupted."""

    def content(self, data: memoryview, offset: int) -> None:
        """Change a block of an object's content that is being uploaded."""

    @property
    def changes_content(self) -> bool:
        """Return whether it may."""


class Faults(Protocol):
    """The faults that strike one request."""

    def operation(self) -> Mapping[str, Any]:
        """Return what goes wrong with the operation that the request begins."""


@dataclass
class Body:
    """A request's body, read once, in blocks.

    :param length: what Content-Length says; None when it is missing.
    """

    stream: BufferedReader
    length: int | None
    fault: Fault | None = None
    offset: int = 0

    @property
    def left(self) -> int:
        """Return how many bytes have not been read.

        :raises ApiError: nobody knows.
        """
        if self.length is None:
            raise ApiError(411, "required", "Length Required")
        return self.length - self.offset

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes, a block at a time."""
        buffer = memoryview(bytearray(min(size, BLOCK_BYTES)))
        while size:
            block = buffer[: min(size, len(buffer))]
            count = self.stream.readinto(block)
            if not count:
                raise Interrupted
            if self.fault is not None:
                self.fault.passing(block[:count], self.offset, incoming=True)
            self.offset += count
            size -= count
            yield bytes(block[:count])

    def content(self, blocks: Iterator[bytes], offset: int = 0) -> Iterator[bytes]:
        """Yield an object's content out of the body, after what a fault has done to it.

        :param offset: where in the content of this request it begins.
        """
        fault = self.fault
        if fault is None or not fault.changes_content:
            yield from blocks
            return
        for block in blocks:
            data = bytearray(block)
            fault.content(memoryview(data), offset)
            offset += len(data)
            yield bytes(data)

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes whole."""
        return b"".join(self.blocks(size))

    def json(self) -> dict[str, Any]:
        """Return the whole body as a JSON object.

        :raises ApiError: it is none.
        """
        if not self.length:
            return {}
        if self.length > _MOST_JSON_BYTES:
            raise ApiError(413, "uploadTooLarge", "Request Too Large")
        return parse_object(self.read(self.left))

    def drain(self) -> None:
        """Read what nobody has read, so that the connection can be used again."""
        for _ in self.blocks(self.left if self.length else 0):
            pass


def parse_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    :raises ApiError: it is none.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ApiError(400, "parseError", "Parse Error") from None
    if not isinstance(document, dict):
        raise ApiError(400, "parseError", "Parse Error")
    return document


@dataclass(frozen=True)
class FilePart:
    """Bytes of a file, as an answer's body."""

    path: Path
    start: int
    length: int


@dataclass
class Answer:
    """What goes back."""

    status: int = 200
    body: bytes | FilePart | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any], status: int = 200, **headers: str) -> Answer:
        """Return an answer in JSON."""
        data = json.dumps(document, ensure_ascii=False).encode()
        return cls(status, data, {"Content-Type": "application/json; charset=UTF-8", **headers})

    @property
    def document(self) -> Any:
        """Return what it says in JSON."""
        return json.loads(self.body) if isinstance(self.body, bytes) and self.body else {}


@dataclass
class Request:
    """A request whose path has been matched.

    :param method: Google's name of the method, for example "storage.objects.insert".
    :param names: what the path names, unquoted.
    :param caller: who asks: an identity's address; None for nobody.
    :param base_url: how the server was addressed.
    :param faults: what goes wrong with it on purpose.
    :param given: the body, when it is a JSON object that somebody has read already.
    """

    method: str
    verb: str
    names: dict[str, str]
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Body
    caller: str | None
    base_url: str
    faults: Faults | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        """Return a yes or no of the query; Google's library writes "True"."""
        return self.query.get(name, "").lower() == "true"


Handler = Callable[[Request], Answer]


@dataclass(frozen=True)
class Route:
    """A method of an API.

    :param path: its segments; one in braces is a name.
    :param pattern: a regular expression of the whole path, in place of ``path``.
    :param parameters: the query's parameters that it knows.
    :param where: the query's parameters (with their values) that tell it from another method of
        the same path.
    """

    method: str
    verb: str
    path: str
    handler: Handler
    parameters: frozenset[str] = frozenset()
    where: Mapping[str, str] = field(default_factory=dict)
    pattern: re.Pattern[str] | None = None

    def match(self, path: str) -> dict[str, str] | None:
        """Return what a path names, unquoted; None when it is another method's."""
        if self.pattern is not None:
            found = self.pattern.fullmatch(path)
            return None if found is None else {k: unquote(v) for k, v in found.groupdict().items()}
        expected, segments = self.path.split("/"), path.split("/")
        if len(expected) != len(segments):
            return None
        names = {}
        for want, have in zip(expected, segments, strict=True):
            if want.startswith("{"):
                names[want.strip("{}")] = unquote(have)
            elif want != have:
                return None
        return names if all(names.values()) else None
