"""Bytes to Cloud Storage and back, over the client's own session.

The library's own ways up and down would cost what matters here: above 8 MB it takes more than one
request, it holds a payload three times in memory, writes a half object whole when its writer is
dropped, and reads in pieces of 8 KiB into a file. So these requests are made here; signing in, and
everything else that is asked of Cloud Storage, is the library's.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlencode

import google_crc32c
import requests
import urllib3.exceptions
from google.api_core.exceptions import BadRequest, GoogleAPICallError, from_http_response
from google.api_core.retry import Retry
from google.auth.exceptions import TransportError
from google.cloud import storage

from dagster_resil.vault.gcs_client import GcsSettings

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_SEND_BYTES = 1 << 18
"""Small chunks are joined to this size on their way out."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0
_LONG_S = 3.0
"""Somebody at a terminal wonders by then."""
_CONNECT_TIMEOUT_S = 20.0

P = ParamSpec("P")
T = TypeVar("T")


class DamagedOnTheWay(Exception):
    """What arrived is not what Cloud Storage says it has sent.

    :param size: what it said of the object's size in bytes, where it said so.
    :param crc32c: what it said of its checksum, in base64.
    """

    def __init__(self, message: str, *, size: int | None = None, crc32c: str | None = None) -> None:
        super().__init__(message)
        self.size = size
        self.crc32c = crc32c


_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_PASSING = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    # Cloud Storage answers in JSON. What does not came from between, or was damaged there.
    requests.exceptions.InvalidJSONError,
    urllib3.exceptions.HTTPError,
    DamagedOnTheWay,
)


def is_passing(error: BaseException) -> bool:
    """Return whether the same may work in a moment."""
    if isinstance(error, GoogleAPICallError):
        return error.code in _PASSING_STATUS
    if isinstance(error, TransportError):  # in signing in
        return (
            not error.args or not isinstance(error.args[0], Exception) or is_passing(error.args[0])
        )
    return isinstance(error, _PASSING)


class _Patient(Retry):
    """What tries again, and says so when that takes long."""

    def __call__(
        self, func: Callable[P, T], on_error: Callable[[Exception], Any] | None = None
    ) -> Callable[P, T]:
        """Wrap what is to be tried again."""
        begun = time.monotonic()
        told = False

        def note(error: Exception) -> None:
            nonlocal told
            passed_s = time.monotonic() - begun
            if not told and passed_s >= _LONG_S:
                told = True
                log.warning(
                    "Cloud Storage has failed for %.0f s, trying again: %s",
                    passed_s,
                    str(error).strip().split("\n", 1)[0][:200],
                )

        return super().__call__(func, on_error=on_error or note)


def new_retry(retry_s: float) -> Retry:
    """Return what tries again, with growing pauses."""
    return _Patient(
        predicate=is_passing,
        initial=min(_FIRST_PAUSE_S, retry_s / 20),
        maximum=_LONGEST_PAUSE_S,
        multiplier=2,
        timeout=retry_s,
    )


class Media:
    """The uploads and downloads of one bucket."""

    def __init__(self, client: storage.Client, bucket: str, settings: GcsSettings) -> None:
        self._session: requests.Session = client._http
        self._base = str(client.api_endpoint)
        self._bucket = bucket
        self._settings = settings
        self.timeout = (_CONNECT_TIMEOUT_S, settings.timeout_s)
        self.retry_s = settings.retry_s
        self.retry = new_retry(settings.retry_s)

    def _retried(self, call: Callable[[], T]) -> T:
        return self.retry(call)()

    def _request(self, verb: str, url: str, **options: Any) -> requests.Response:
        """Make a request once.

        :raises GoogleAPICallError: the answer is an error.
        """
        response = self._session.request(verb, url, timeout=self.timeout, **options)
        if response.status_code >= 400:
            with response:
                raise from_http_response(response)  # type: ignore[no-untyped-call]
        return response

    def _upload_url(self, kind: str) -> str:
        query = {"uploadType": kind, "ifGenerationMatch": "0"}
        if self._settings.kms_key:
            query["kmsKeyName"] = self._settings.kms_key
        return f"{self._base}/upload/storage/v1/b/{self._bucket}/o?{urlencode(query)}"

    def send_whole(self, metadata: Mapping[str, Any], chunks: Sequence[bytes]) -> dict[str, Any]:
        """Write a new object in one request, again if need be; return what is there now.

        :param metadata: its name and checksum among the rest.
        :raises GoogleAPICallError: 412 when there is one, which may be an earlier try of this.
        """
        body = _Related(metadata, chunks)

        def send() -> dict[str, Any]:
            try:
                response = self._request(
                    "POST",
                    self._upload_url("multipart"),
                    data=body,
                    headers={"Content-Type": body.content_type},
                )
            except BadRequest as error:
                if "CRC32C" in str(error):
                    raise DamagedOnTheWay(str(error)) from None
                raise
            return _document(response)

        return self._retried(send)

    def send_stream(
        self, metadata: Mapping[str, Any], chunks: Iterable[bytes], crc32c: Callable[[], str]
    ) -> dict[str, Any]:
        """Write a new object in parts; return what is there then.

        What fails in passing is asked how far it came, and goes on from there.

        :param crc32c: the checksum of all the chunks, asked for behind the last.
        :raises GoogleAPICallError: 412 when there is an object of that name.
        """

        def begin() -> str:
            response = self._request(
                "POST",
                self._upload_url("resumable"),
                json=dict(metadata),
                headers={"X-Upload-Content-Type": "application/octet-stream"},
            )
            return str(response.headers["Location"])

        url = self._retried(begin)
        sent = 0
        for part, is_last in _steps(chunks, self._settings.step_bytes):
            end = sent + len(part)
            answer = self._send_part(url, part, sent, end if is_last else None, crc32c)
            sent = end
        return answer

    def _send_part(
        self,
        url: str,
        part: bytes,
        start: int,
        total: int | None,
        crc32c: Callable[[], str],
    ) -> dict[str, Any]:
        """Write a part; return the object when it was the last."""
        done = start
        failed = False
        end = start + len(part)

        def send() -> dict[str, Any] | None:
            nonlocal done, failed
            if failed:
                found = self._progress_of(url)
                if isinstance(found, dict):
                    return found
                done = found
            failed = True
            headers = {
                "Content-Range": f"bytes {done}-{end - 1}/{'*' if total is None else total}"
                if end > done
                else f"bytes */{'*' if total is None else total}"
            }
            if total is not None:
                headers["X-Goog-Hash"] = f"crc32c={crc32c()}"
            response = self._request(
                "PUT",
                url,
                data=memoryview(part)[done - start :] if end > done else b"",
                headers=headers,
            )
            if response.status_code != 308:
                return _document(response)
            done = _received(response)
            return None

        while True:
            answer = self._retried(send)
            if answer is not None:
                return answer
            if done >= end and total is None:
                return {}
            if not start <= done <= end:
                raise DamagedOnTheWay(
                    f"{done:,} bytes have arrived, {start:,} to {end:,} were sent"
                )

    def _progress_of(self, url: str) -> int | dict[str, Any]:
        """Return how much of an upload has arrived, or the object when it is whole."""
        response = self._request("PUT", url, data=b"", headers={"Content-Range": "bytes */*"})
        return _document(response) if response.status_code != 308 else _received(response)

    def receive(self, path: str) -> Receiver:
        """Begin to read an object.

        :param path: of the object, in the API.
        :raises GoogleAPICallError: 404 when there is none.
        """
        return Receiver(self, f"{self._base}/download/storage/v1{path}?alt=media")

    def get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Begin a download, again if need be."""
        return self._retried(lambda: self._request("GET", url, headers=dict(headers), stream=True))


class Receiver:
    """An object that is being read, from its beginning to its end and once.

    A connection that breaks is made again, and goes on behind the last byte, of the same
    generation. At the end the bytes' checksum has to be the one that Cloud Storage has told.
    """

    def __init__(self, media: Media, url: str) -> None:
        self._media = media
        # As it is stored: nothing decompresses it on the way.
        self._headers = {"Accept-Encoding": "gzip"}
        self._url = url
        self._response = media.get(url, self._headers)
        told = self._response.headers
        self.generation = told.get("X-Goog-Generation", "")
        self.size = int(told.get("X-Goog-Stored-Content-Length") or told["Content-Length"])
        self.crc32c = _hash_of(told.get("X-Goog-Hash", ""))

    def close(self) -> None:
        """Give the connection back; one that is not read to its end is closed."""
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        offset, crc32c = 0, 0
        moved = time.monotonic()
        while offset < self.size:
            try:
                chunk = self._response.raw.read(
                    min(_CHUNK_BYTES, self.size - offset), decode_content=False
                )
                if not chunk:
                    raise ConnectionError(
                        f"the stream ended {self.size - offset:,} bytes too early"
                    )
            except (OSError, urllib3.exceptions.HTTPError) as error:
                # Connections may be made and break for ever; without a byte it is no reading.
                if not is_passing(error) or time.monotonic() - moved > self._media.retry_s:
                    raise
                self._go_on(offset)
                continue
            moved = time.monotonic()
            offset += len(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
            yield chunk
        if self.crc32c is not None and crc32c != _number(self.crc32c):
            raise self._damaged(
                "the bytes that arrived do not have the checksum that Cloud Storage reports"
            )

    def _damaged(self, what: str) -> DamagedOnTheWay:
        return DamagedOnTheWay(what, size=self.size, crc32c=self.crc32c)

    def _go_on(self, offset: int) -> None:
        self._response.close()
        url = f"{self._url}&generation={self.generation}" if self.generation else self._url
        headers = {**self._headers, "Range": f"bytes={offset}-"}
        self._response = self._media.get(url, headers)
        if offset and self._response.status_code != 206:
            raise self._damaged("Cloud Storage started from the beginning instead of resuming")


class _Related:
    """The body of an upload in one request: metadata, then the chunks, which are not copied.

    It has a length and can be sent again, which is all that the session asks of a body.
    """

    def __init__(self, metadata: Mapping[str, Any], chunks: Sequence[bytes]) -> None:
        mark = secrets.token_hex(16)
        self.content_type = f'multipart/related; boundary="{mark}"'
        head = (
            f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
            f"{json.dumps(dict(metadata))}\r\n"
            f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        self._pieces = [head.encode(), *chunks, f"\r\n--{mark}--\r\n".encode()]
        self._length = sum(map(len, self._pieces))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        small: list[bytes] = []
        size = 0
        for piece in self._pieces:
            if len(piece) >= _SEND_BYTES and not small:
                yield piece
                continue
            small.append(piece)
            size += len(piece)
            if size >= _SEND_BYTES:
                yield b"".join(small)
                small, size = [], 0
        if small:
            yield b"".join(small)


def _steps(chunks: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Join chunks into parts of one size, and tell the last, which may be smaller."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        # Kept back until more comes: the last part has to be known for it.
        while len(held) > size:
            yield bytes(memoryview(held)[:size]), False
            del held[:size]
    yield bytes(held), True


def _received(response: requests.Response) -> int:
    told = response.headers.get("Range", "")
    return int(told.rpartition("-")[2]) + 1 if told else 0


def _document(response: requests.Response) -> dict[str, Any]:
    """Return an answer's JSON object.

    :raises InvalidJSONError: it is none, which passes.
    """
    document = response.json()
    if not isinstance(document, dict):
        raise requests.exceptions.InvalidJSONError("an answer that is not a JSON object")
    return document


def _hash_of(header: str) -> str | None:
    for each in header.split(","):
        kind, _, value = each.strip().partition("=")
        if kind == "crc32c":
            return value
    return None


def _number(crc32c: str) -> int:
    try:
        return int.from_bytes(base64.b64decode(crc32c), "big")
    except ValueError:  # the header itself was damaged
        return -1
