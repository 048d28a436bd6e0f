"""What every service speaks: a request, an answer, and Google's form of an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol

BLOCK_BYTES = 1 << 20
"""How much of a body is in memory at a time."""
_MOST_JSON_BYTES = 4 << 20


class ApiError(Exception):
    """A request is refused, in Google's words.

    :param reason: the machine's word for it, for example "conditionNotMet".
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        first = {"message": self.message, "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": self.message, "errors": [first]}}


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


@dataclass
class Request:
    """A request whose path has been matched.

    :param method: Google's name of the method, for example "storage.objects.insert".
    :param names: what the path names, unquoted.
    :param caller: who asks: an identity's address; None for nobody.
    :param base_url: how the server was addressed.
    """

    method: str
    verb: str
    names: dict[str, str]
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Body
    caller: str | None
    base_url: str

    def flag(self, name: str) -> bool:
        """Return a yes or no of the query; Google's library writes "True"."""
        return self.query.get(name, "").lower() == "true"


Handler = Callable[[Request], Answer]


@dataclass(frozen=True)
class Route:
    """A method of an API.

    :param path: its segments; one in braces is a name.
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
