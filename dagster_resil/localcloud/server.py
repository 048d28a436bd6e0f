"""The HTTP server of the local cloud: loopback only, a thread for each connection.

Python's own server does: a body goes from the socket to the disk in blocks of a megabyte, and
from the disk to the socket by the kernel (sendfile), so that neither memory nor Python's speed
bounds an object's size.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dagster_resil.localcloud.faults import Striking, Switch, read_fault
from dagster_resil.localcloud.identities import Identities, address
from dagster_resil.localcloud.protocol import (
    BLOCK_BYTES,
    Answer,
    ApiError,
    Body,
    FilePart,
    Interrupted,
    Request,
    Route,
    invalid,
    not_done,
)
from dagster_resil.localcloud.sql.service import SqlService
from dagster_resil.localcloud.storage.buckets import LOCATIONS
from dagster_resil.localcloud.storage.service import StorageService
from dagster_resil.postgres.server import server_user

log = logging.getLogger(__name__)

_COMMON = frozenset({"alt", "fields", "key", "prettyPrint", "quotaUser", "userIp", "userProject"})
_REPEATED = frozenset({"permissions"})
_IDLE_TIMEOUT_S = 600
_SWITCH = "/localcloud/"


class _Wanted(BaseModel):
    """What ``POST /localcloud/accounts`` takes: an account, and all that it may do from now on.

    :param name: a new one's, or an instance's service account's whole address.
    :param permissions: place → patterns of permissions, as in :class:`identities.Account`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"[a-z][a-z0-9-]{1,40}(@[a-z0-9.-]+)?")
    permissions: dict[str, tuple[str, ...]]


class LocalCloudServer(ThreadingHTTPServer):
    """The cloud's server; it listens when it is made, and answers in :meth:`serve_forever`.

    :param folder: where everything is kept.
    :param port: 0 for any that is free.
    :param durable: whether an answer waits for the disk. Without it a crash of the machine, but
        not of the server, may lose what was acknowledged.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, folder: Path, *, port: int = 0, durable: bool = True) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if server_user() is not None:
            # Root's database servers run as somebody else, who has to walk through.
            folder.chmod(0o711)
        self.switch = Switch()
        self.identities = Identities(folder / "identities")
        (folder / "storage").mkdir(mode=0o700, exist_ok=True)
        self.storage = StorageService(folder / "storage", self.identities, durable=durable)
        self.sql = SqlService(folder / "sql", self.identities, self.switch)
        self.routes = [
            *self.identities.routes(),
            *self.storage.routes(),
            *self.sql.routes(),
            *self._switches(),
        ]
        try:
            super().__init__(("127.0.0.1", port), _Connection)
            self.url = f"http://127.0.0.1:{self.server_address[1]}"
            self.identities.write_key_files(self.url)
            self.sql.start()
        except BaseException:
            self.sql.close()
            raise

    def server_bind(self) -> None:
        """Bind without asking a name server who we are, which the standard library does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def server_close(self) -> None:
        """Stop listening and close what is on disk."""
        super().server_close()
        self.sql.close()
        self.storage.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log how a connection ended; the standard library would print it."""
        log.exception("connection from %s ended", client_address)  # noqa: LOG004 - called from one

    def _switches(self) -> list[Route]:
        return [
            Route("localcloud.faults", "GET", "/localcloud/faults", self._list_faults),
            Route("localcloud.faults", "POST", "/localcloud/faults", self._add_fault),
            Route("localcloud.faults", "DELETE", "/localcloud/faults", self._clear_faults),
            Route("localcloud.requests", "GET", "/localcloud/requests", self._list_requests),
            Route("localcloud.requests", "DELETE", "/localcloud/requests", self._forget_requests),
            Route("localcloud.status", "GET", "/localcloud/status", self._status),
            Route("localcloud.accounts", "POST", "/localcloud/accounts", self._set_account),
        ]

    def _list_faults(self, request: Request) -> Answer:
        return Answer.of({"faults": self.switch.faults()})

    def _add_fault(self, request: Request) -> Answer:
        methods = {route.method for route in self.routes}
        fault = read_fault(request.body.json(), methods, LOCATIONS)
        self.switch.add(fault)
        return Answer.of(fault.model_dump())

    def _clear_faults(self, request: Request) -> Answer:
        self.switch.clear()
        return Answer(204)

    def _list_requests(self, request: Request) -> Answer:
        return Answer.of(self.switch.requests())

    def _forget_requests(self, request: Request) -> Answer:
        self.switch.forget_requests()
        return Answer(204)

    def _status(self, request: Request) -> Answer:
        return Answer.of({"pid": os.getpid(), "peak_memory_bytes": peak_memory_bytes()})

    def _set_account(self, request: Request) -> Answer:
        try:
            wanted = _Wanted.model_validate(request.body.json())
        except ValidationError as error:
            raise invalid(f"no such account: {error}") from None
        self.identities.add(wanted.name, wanted.permissions)
        file = self.identities.key_file(wanted.name)
        return Answer.of({"email": address(wanted.name), "key_file": str(file.absolute())})

    def matching(self, verb: str, path: str, query: dict[str, str]) -> tuple[Route, dict[str, str]]:
        """Return the method that a path means, and what the path names.

        :raises ApiError: there is none, or it is not done here.
        """
        verbs = set()
        for route in self.routes:
            names = route.match(path)
            if names is None:
                continue
            if any(query.get(key) != value for key, value in route.where.items()):
                continue
            if route.verb == verb:
                return route, names
            verbs.add(route.verb)
        if verbs:
            raise ApiError(405, "httpMethodNotAllowed", f"{verb} {path}: one of {sorted(verbs)}")
        raise not_done(f"{verb} {path}")


def peak_memory_bytes() -> int:
    """Return the most memory that this process has used at a time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Connection(BaseHTTPRequestHandler):
    """One connection: requests one after another."""

    protocol_version = "HTTP/1.1"
    server_version = "localcloud"
    sys_version = ""
    timeout = _IDLE_TIMEOUT_S
    rbufsize = 1 << 16
    disable_nagle_algorithm = True

    @property
    def cloud(self) -> LocalCloudServer:
        return cast(LocalCloudServer, self.server)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def do_GET(self) -> None:
        self._take()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def _take(self) -> None:
        length = self.headers.get("Content-Length")
        chunked = "Transfer-Encoding" in self.headers
        has_body = self.command in ("POST", "PUT", "PATCH") or length is not None
        body = Body(
            cast(Any, self.rfile),
            None if chunked or not length else int(length),
        )
        if not has_body:
            body.length = 0
        striking = Striking([])
        request: Request | None = None
        try:
            try:
                self._check_local()
                request, route = self._request(body)
                if not self.path.startswith(_SWITCH):
                    striking = self._struck(request)
                body.fault = request.faults = striking
                answer = self._answered(request, route, striking)
            except ApiError as error:
                answer = self._refusal(error)
            except (Interrupted, OSError):
                raise
            except Exception:
                log.exception("%s %s", self.command, self.path)
                answer = self._refusal(ApiError(500, "internalError", "a fault of the local cloud"))
            if answer is None:
                raise Interrupted
            if body.length is None:
                self.close_connection = True
            else:
                body.fault = None
                body.drain()
            if request is not None:
                self.cloud.switch.note(request, answer.status)
                request = None
            self._send(answer, striking)
        except (Interrupted, ConnectionError, TimeoutError):
            if request is not None:
                self.cloud.switch.note(request, 0)
            self.close_connection = True
            with contextlib.suppress(OSError):
                # Not a proper end: what was promised has not come.
                self.connection.shutdown(socket.SHUT_RDWR)

    def _check_local(self) -> None:
        """Refuse what a page in a browser could send by way of a name that leads here."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        try:
            local = ipaddress.ip_address(host).is_loopback
        except ValueError:
            local = host == "localhost"
        if not local or not ipaddress.ip_address(self.client_address[0]).is_loopback:
            raise ApiError(403, "forbidden", "the local cloud answers this machine alone")
        if self.path.startswith(_SWITCH) and "Origin" in self.headers:
            raise ApiError(403, "forbidden", "no page in a browser turns the switches")

    def _request(self, body: Body) -> tuple[Request, Route]:
        parts = urlsplit(self.path)
        query: dict[str, str] = {}
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            if key in query and key not in _REPEATED:
                raise invalid(f"{key} is given twice")
            query[key] = f"{query[key]},{value}" if key in query else value
        route, names = self.cloud.matching(self.command, parts.path, query)
        unknown = query.keys() - route.parameters - _COMMON
        if unknown and not route.method.startswith("localcloud."):
            # Google ignores some of these; a misspelt precondition must not pass unseen.
            raise invalid(f"unknown parameters of {route.method}: {sorted(unknown)}")
        request = Request(
            method=route.method,
            verb=self.command,
            names=names,
            query=query,
            headers=cast(Mapping[str, str], self.headers),
            body=body,
            caller=self.cloud.identities.caller(self.headers.get("Authorization")),
            base_url=f"http://{self.headers.get('Host')}",
        )
        return request, route

    def _struck(self, request: Request) -> Striking:
        names = request.names
        if "instance" in names:
            location = self.cloud.sql.location(names.get("project", ""), names["instance"])
        else:
            location = self.cloud.storage.location(names.get("bucket", ""))
        return self.cloud.switch.strike(request, location)

    def _answered(self, request: Request, route: Route, striking: Striking) -> Answer | None:
        """Return the answer; None when there is to be none."""
        if striking.of("region_gone"):
            raise ApiError(503, "backendError", "Backend Error")
        if striking.of("drop", when="before"):
            return None
        if error := striking.of("error", when="before"):
            raise ApiError(error.status, error.reason, error.message)
        denied = striking.of("denied")
        permission = denied.permission if denied else None
        with self.cloud.storage.denying(permission), self.cloud.sql.denying(permission):
            answer = route.handler(request)
        if striking.of("drop", when="after"):
            return None
        if error := striking.of("error", when="after"):
            raise ApiError(error.status, error.reason, error.message)
        return answer

    def _refusal(self, error: ApiError) -> Answer:
        if "alt=media" in self.path:  # as Cloud Storage does it
            return Answer(error.status, error.message.encode(), {"Content-Type": "text/html"})
        return Answer.of(error.to_json(), error.status)

    def _send(self, answer: Answer, striking: Striking) -> None:
        body = answer.body
        if isinstance(body, bytes):
            length: int | None = len(body)
        elif isinstance(body, FilePart):
            length = body.length
        else:
            length = None
        headers = {"Date": self.date_time_string(), **answer.headers}
        if length is None:
            headers["Transfer-Encoding"] = "chunked"
        elif answer.status not in (204, 304):
            headers["Content-Length"] = str(length)
        if self.close_connection:
            headers["Connection"] = "close"
        head = _head(answer.status, headers)
        if self.command == "HEAD" or answer.status in (204, 304):
            self.connection.sendall(head)
            return
        if isinstance(body, FilePart) and striking.block_bytes is None:
            self._send_file(head, body)
            return
        if isinstance(body, bytes) and striking.block_bytes is None:
            self.connection.sendall(head + body)
            return
        self.connection.sendall(head)
        blocks = body if isinstance(body, Iterator) else _blocks(body, striking.block_bytes)
        offset = 0
        cut_at = striking.cut_at()
        for block in blocks:
            data = bytearray(block)
            if cut_at is not None and offset <= cut_at < offset + len(data):
                self.connection.sendall(data[: cut_at - offset])
            striking.passing(memoryview(data), offset, incoming=False)
            offset += len(data)
            if length is None:
                self.connection.sendall(b"%x\r\n%b\r\n" % (len(data), bytes(data)))
            else:
                self.connection.sendall(data)
        if length is None:
            self.connection.sendall(b"0\r\n\r\n")

    def _send_file(self, head: bytes, part: FilePart) -> None:
        with part.path.open("rb") as file:
            self.connection.sendall(head)
            if part.length:
                sent = self.connection.sendfile(file, part.start, part.length)
                if sent != part.length:  # somebody has shortened the file
                    raise Interrupted


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return an answer's first lines; with a short body they go out as one packet."""
    known = {each.value: each.phrase for each in HTTPStatus}
    lines = [f"HTTP/1.1 {status} {known.get(status, 'Other')}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _blocks(body: bytes | FilePart | Iterator[bytes], size: int | None) -> Iterator[bytes]:
    size = size or BLOCK_BYTES
    if isinstance(body, bytes):
        for start in range(0, len(body), size):
            yield body[start : start + size]
    elif isinstance(body, FilePart):
        with body.path.open("rb") as file:
            file.seek(body.start)
            left = body.length
            while left:
                block = file.read(min(size, left))
                if not block:
                    raise Interrupted
                left -= len(block)
                yield block


def serve(server: LocalCloudServer) -> threading.Thread:
    """Answer requests in a thread of its own; ``server.shutdown()`` ends it."""
    thread = threading.Thread(target=server.serve_forever, name="localcloud", daemon=True)
    thread.start()
    return thread
