"""Requests on the wire: whom we trust, what is sent once, and what answers mean."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httplib2
import pytest
from google.auth.credentials import AnonymousCredentials
from googleapiclient.errors import HttpError

from dagster_resil.cloudsql.api import GOOGLE, Api, NoAnswer, Refusal, _Http, _refusal
from dagster_resil.cloudsql.client import CloudSql, CloudSqlSettings, _time
from dagster_resil.cloudsql.refusals import refused
from dagster_resil.errors import CloudSqlError, ConfigurationError
from tests.cloudsql.test_endpoint import signed

ANYBODY = AnonymousCredentials()  # type: ignore[no-untyped-call]


def api(endpoint: str | None = None, **options: Any) -> Api:
    settings = {"impersonate": None, "request_timeout_s": 5, "retry_s": 0.2, **options}
    return Api(endpoint=endpoint, credentials=ANYBODY, **settings)


def test_whom_we_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("http://sqladmin.googleapis.com", "http://10.0.0.1:8080", "127.0.0.1:80"):
        with pytest.raises(ConfigurationError, match="neither Google's nor on this machine"):
            api(wrong)
    with pytest.raises(ConfigurationError, match="has no credentials"):
        api(GOOGLE)
    assert api("http://localhost:1").on_loopback
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="would be taken for Cloud SQL"):
        api()
    monkeypatch.setenv("RESIL_LOCALCLOUD", "http://127.0.0.1:1")
    assert api().endpoint == "http://127.0.0.1:1"
    monkeypatch.delenv("API_ENDPOINT_OVERRIDE")
    assert api().endpoint == "http://127.0.0.1:1"


def test_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/does/not/exist.json")
    with pytest.raises(ConfigurationError, match="is not known to be the local cloud"):
        CloudSql(CloudSqlSettings("local", endpoint="http://127.0.0.1:1"))
    monkeypatch.setenv("RESIL_LOCALCLOUD", "http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="can't sign in to Google Cloud"):
        CloudSql(CloudSqlSettings("local", endpoint="http://127.0.0.1:1"))


@contextmanager
def mute(
    context: ssl.SSLContext | None = None, answer: bytes = b""
) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads a request, says what it is told to say, and hangs up."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        if context is not None:
                            connection = context.wrap_socket(connection, server_side=True)
                        heard.append(connection.recv(1 << 16))
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], heard
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def request(used: Api) -> Any:
    body = {"exportContext": {"uri": "gs://x/y"}}
    return used.service.instances().export(project="p", instance="i", body=body)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", b"nonsense\r\n\r\n"]
)
def test_a_request_is_sent_once(answer: bytes) -> None:
    # httplib2 would send it twice: see its _conn_request, "the connection just went stale".
    with mute(answer=answer) as (port, heard):
        used = api(f"http://127.0.0.1:{port}")
        with pytest.raises(NoAnswer):
            used.send(request(used))
    assert len(heard) == 1
    assert heard[0].startswith(b"POST ")


def test_a_request_is_sent_once_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text(signed(tmp_path, "localhost"))
    monkeypatch.setattr(httplib2, "CA_CERTS", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with mute(context) as (port, heard):
        used = api(f"https://localhost:{port}")
        with pytest.raises(NoAnswer):
            used.send(request(used))
    assert len(heard) == 1
    assert heard[0].startswith(b"POST ")


def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with mute(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (port, heard):
        used = api(f"http://127.0.0.1:{port}")
        assert used.send(request(used)) == {}
    assert len(heard) == 1
    assert _Http().proxy_info is not None


def error(status: int, body: Any) -> HttpError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpError(httplib2.Response({"status": status}), content)


def test_reasons() -> None:
    first = {"reason": "operationInProgress", "domain": "global", "message": "m"}
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
    for body, reason, message in (
        ({"error": {"code": 409, "message": "m", "errors": [first]}}, "operationInProgress", "m"),
        # With details HttpError.error_details has no errors.
        (
            {"error": {"message": "m", "errors": [first], "details": [info]}},
            "operationInProgress",
            "m",
        ),
        ({"error": {"message": "m", "details": [info]}}, "SERVICE_DISABLED", "m"),
        ({"error": {"message": "m", "status": "ABORTED"}}, "ABORTED", "m"),
        ({"error": "m"}, "", "Ok"),
        (b"<html>A proxy's\npage</html>", "", "Ok"),
        (b"[]", "", "Ok"),
    ):
        found = _refusal(error(409, body))
        assert (found.status, found.reason, found.message) == (409, reason, message)
    assert len(_refusal(error(400, {"error": {"message": "x" * 9999}})).message) == 600
    secret = "postgresql://u:hidden@host/x"
    assert "hidden" not in _refusal(error(400, {"error": {"message": secret}})).message
    assert not Refusal(403, "notAuthorized", "m").is_throttled


def test_the_api_may_be_off() -> None:
    where = {"what": "see instance i", "project": "p", "instance": "i", "account": "a"}
    refusal = Refusal(403, "accessNotConfigured", "Cloud SQL Admin API has not been used")
    found = refused(refusal, doing="see", **where)
    assert (
        found.hint == "turn the API on: gcloud services enable sqladmin.googleapis.com --project=p"
    )
    assert isinstance(found, CloudSqlError)
    for status, words in ((401, "application-default login"), (429, "too many requests")):
        assert words in refused(Refusal(status, "x", "m"), doing="see", **where).hint


def test_times() -> None:
    text = "2026-11-25T03:41:23"
    for fraction, microseconds in ((".1", 100000), (".123456789", 123456), ("", 0)):
        found = _time(f"{text}{fraction}Z")
        assert (found.isoformat()[:19], found.microsecond) == (text, microseconds)
