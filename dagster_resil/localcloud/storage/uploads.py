"""Uploads: in one request, with or without metadata beside the bytes, or resumable."""

from __future__ import annotations

import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import google_crc32c

from dagster_resil.localcloud.protocol import (
    Answer,
    ApiError,
    Body,
    Interrupted,
    Request,
    Route,
    invalid,
    parse_object,
)
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.objects import Objects
from dagster_resil.localcloud.storage.preconditions import PARAMETERS, Preconditions
from dagster_resil.localcloud.storage.resources import (
    check_name,
    joined,
    object_resource,
    settable,
)
from dagster_resil.localcloud.storage.store import DataFile, Store, Upload, Version, cancelled

QUANTUM_BYTES = 256 << 10
"""What a part of a resumable upload, but the last, has to be a multiple of."""
_MOST_METADATA_BYTES = 1 << 20


class Uploads:
    """The method ``storage.objects.insert``, in its three forms."""

    def __init__(self, store: Store, access: Access, objects: Objects) -> None:
        self._store = store
        self._access = access
        self._objects = objects
        self._busy: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def routes(self) -> list[Route]:
        """Return its forms."""
        path = "/upload/storage/v1/b/{bucket}/o"
        # gcloud begins there what it reads from its stdin.
        resumable = f"/resumable{path}"
        insert = joined(PARAMETERS, {"uploadType", "name", "kmsKeyName", "projection"})
        going_on = frozenset({"uploadType", "upload_id"})
        method = "storage.objects.insert"
        return [
            Route(method, "POST", path, self._media, insert, {"uploadType": "media"}),
            Route(method, "POST", path, self._multipart, insert, {"uploadType": "multipart"}),
            Route(method, "POST", path, self._begin, insert, {"uploadType": "resumable"}),
            Route(method, "POST", resumable, self._begin, insert, {"uploadType": "resumable"}),
            Route(
                "storage.uploads.put",
                "PUT",
                path,
                self._go_on,
                going_on | insert,
                {"uploadType": "resumable"},
            ),
            Route(
                "storage.uploads.cancel",
                "DELETE",
                path,
                self._cancel,
                going_on | insert,
                {"uploadType": "resumable"},
            ),
        ]

    def _insert(
        self, request: Request, name: str, file: DataFile, metadata: dict[str, Any]
    ) -> Version:
        return self._objects.commit(
            request,
            request.names["bucket"],
            name,
            file,
            {**metadata, **_hashes(request)},
            preconditions=Preconditions.of(request.query),
            key_name=request.query.get("kmsKeyName"),
        )

    def _answer(self, request: Request, version: Version) -> Answer:
        bucket = self._store.bucket(version.bucket)
        if bucket is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.")
        return Answer.of(object_resource(bucket, version, request.base_url))

    def _media(self, request: Request) -> Answer:
        self._access.bucket(request, "storage.objects.create")
        name = request.names["object"] = check_name(request.query.get("name"))
        metadata = {"contentType": request.headers.get("Content-Type")}
        with self._store.new_file() as file:
            file.write(request.body.content(request.body.blocks(request.body.left)))
            version = self._insert(request, name, file, metadata)
        return self._answer(request, version)

    def _multipart(self, request: Request) -> Answer:
        self._access.bucket(request, "storage.objects.create")
        parts = _Related(request.headers.get("Content-Type", ""), request.body)
        metadata = parts.metadata()
        name = check_name(request.query.get("name") or metadata.get("name"))
        request.names["object"] = name
        with self._store.new_file() as file:
            file.write(request.body.content(parts.media()))
            metadata.setdefault("contentType", parts.content_type)
            version = self._insert(request, name, file, metadata)
        return self._answer(request, version)

    # -- resumable

    def _begin(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.objects.create")
        metadata = request.body.json()
        name = check_name(request.query.get("name") or metadata.get("name"))
        request.names["object"] = name
        metadata.setdefault("contentType", request.headers.get("X-Upload-Content-Type"))
        settable(bucket, metadata, request.query.get("kmsKeyName"))
        # What can be known now is told now, and looked at again at the end.
        self._objects.check_place(request, bucket, name, Preconditions.of(request.query))
        with self._store.new_file() as file:
            upload = Upload(
                id=secrets.token_urlsafe(24),
                bucket=bucket.name,
                file=file.name,
                received=0,
                crc32c=0,
                request={"name": name, "metadata": metadata, "query": request.query},
                result=None,
            )
            self._store.put_upload(upload)
        location = (
            f"{request.base_url}/upload/storage/v1/b/{bucket.name}/o?uploadType=resumable"
            f"&upload_id={upload.id}"
        )
        return Answer(200, b"", {"Location": location, "X-GUploader-UploadID": upload.id})

    def _found(self, request: Request) -> Upload:
        upload = self._store.upload(request.query.get("upload_id", ""))
        if upload is None or upload.bucket != request.names["bucket"]:
            raise ApiError(404, "notFound", "No such upload")
        if upload.result == -1:
            raise ApiError(410, "gone", "The upload was cancelled or has failed.")
        return upload

    def _go_on(self, request: Request) -> Answer:
        # A part that is sent again may meet itself, still being written.
        with self._busy[request.query.get("upload_id", "")]:
            upload = self._found(request)
            request.names["object"] = str(upload.request["name"])
            if upload.result is not None:
                version = self._store.version(
                    upload.bucket, str(upload.request["name"]), upload.result
                )
                if version is None:
                    raise ApiError(404, "notFound", "No such upload")
                return self._answer(request, version)
            start, end, total = _content_range(request)
            if start is not None:
                upload = self._append(request, upload, start, end, total)
            if total is not None and upload.received == total:
                return self._answer(request, self._finish(request, upload))
            return _incomplete(upload)

    def _append(
        self, request: Request, upload: Upload, start: int, end: int, total: int | None
    ) -> Upload:
        if request.body.left != end - start:
            raise invalid("Content-Range and Content-Length do not fit each other.")
        if start > upload.received:
            raise invalid(f"Bytes {upload.received} to {start} have not been sent.")
        if total is not None and not upload.received <= total:
            raise invalid(f"{upload.received} bytes have been sent already.")
        if end != total and (end - start) % QUANTUM_BYTES:
            raise invalid(f"All but the last part must be multiples of {QUANTUM_BYTES} bytes.")
        # What was sent twice counts once.
        again = min(upload.received, end) - start
        for _ in request.body.blocks(again):
            pass
        file = self._store.reopen(upload.file, upload.received, upload.crc32c)
        try:
            file.write(request.body.content(request.body.blocks(request.body.left), again))
        except Interrupted:
            # What came whole stays, in Cloud Storage's own steps.
            kept = upload.received + (file.size - upload.received) // QUANTUM_BYTES * QUANTUM_BYTES
            file.close()
            self._keep(upload, kept)
            raise
        file.sync()
        file.close()
        upload = replace(upload, received=file.size, crc32c=file.crc32c)
        self._store.put_upload(upload)
        return upload

    def _keep(self, upload: Upload, size: int) -> None:
        crc32c, left = upload.crc32c, size - upload.received
        with self._store.path(upload.file).open("rb") as stream:
            stream.seek(upload.received)
            while left:
                block = stream.read(min(left, 1 << 20))
                crc32c = google_crc32c.extend(crc32c, block)
                left -= len(block)
        file = self._store.reopen(upload.file, size, crc32c)
        file.sync()
        file.close()
        self._store.put_upload(replace(upload, received=size, crc32c=crc32c))

    def _finish(self, request: Request, upload: Upload) -> Version:
        query = dict(upload.request["query"])
        file = self._store.reopen(upload.file, upload.received, upload.crc32c)
        try:
            with self._store.transaction():
                version = self._objects.commit(
                    request,
                    upload.bucket,
                    str(upload.request["name"]),
                    file,
                    {**upload.request["metadata"], **_hashes(request)},
                    preconditions=Preconditions.of(query),
                    key_name=query.get("kmsKeyName"),
                )
                self._store.put_upload(replace(upload, file="", result=version.generation))
        except ApiError as error:
            if error.status < 500:
                self._store.put_upload(replace(cancelled(upload), file=""))
                self._store.remove_file(upload.file)
            raise
        finally:
            file.close()
        return version

    def _cancel(self, request: Request) -> Answer:
        with self._busy[request.query.get("upload_id", "")]:
            upload = self._found(request)
            if upload.result is None:
                self._store.put_upload(replace(cancelled(upload), file=""))
                self._store.remove_file(upload.file)
        return Answer(499)


def _incomplete(upload: Upload) -> Answer:
    headers = {"Range": f"bytes=0-{upload.received - 1}"} if upload.received else {}
    return Answer(308, b"", headers)


def _hashes(request: Request) -> dict[str, str]:
    """Return the checksums that a request's header gives, under their names in the metadata."""
    found = {}
    for each in request.headers.get("X-Goog-Hash", "").split(","):
        kind, _, value = each.strip().partition("=")
        if kind in ("crc32c", "md5"):
            found["crc32c" if kind == "crc32c" else "md5Hash"] = value
    return found


def _content_range(request: Request) -> tuple[int | None, int, int | None]:
    """Return the first byte of a part, the one behind its last, and the size of the whole.

    The first is None where no bytes are sent; the size is None where it is not known yet.
    """
    header = request.headers.get("Content-Range")
    if header is None:
        return 0, request.body.left, request.body.left
    found = re.fullmatch(r"bytes (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", header)
    if not found:
        raise invalid(f"Failed to parse Content-Range header: {header!r}")
    total = None if found[3] == "*" else int(found[3])
    if found[1] is None:
        return None, 0, total
    start, end = int(found[1]), int(found[2]) + 1
    if end <= start or (total is not None and end > total):
        raise invalid(f"Failed to parse Content-Range header: {header!r}")
    return start, end, total


class _Related:
    """A multipart/related body: JSON, then the bytes, which are never whole in memory."""

    def __init__(self, content_type: str, body: Body) -> None:
        # gcloud writes single quotes, which Google takes for quotes too.
        found = re.match(r"""multipart/related;.*boundary=["']?([^"';]+)["']?""", content_type)
        if not found:
            raise invalid(f"not multipart/related: {content_type!r}")
        self._mark = b"--" + found[1].encode()
        self._line_end = b"\r\n"
        self._body = body
        self._ahead = b""
        self.content_type = "application/octet-stream"

    def _until(self, end: bytes) -> bytes:
        while end not in self._ahead:
            if len(self._ahead) > _MOST_METADATA_BYTES or not self._body.left:
                raise invalid("malformed multipart body")
            self._ahead += self._body.read(min(self._body.left, 4096))
        found, _, self._ahead = self._ahead.partition(end)
        return found

    def metadata(self) -> dict[str, Any]:
        """Return the first part, and read on to where the bytes begin."""
        if self._until(self._mark).strip():
            raise invalid("malformed multipart body")
        # RFC 2046 wants both; gcloud writes the second alone, which Google takes.
        rest = self._until(b"\n")
        if rest not in (b"", b"\r"):
            raise invalid("malformed multipart body")
        self._line_end = end = rest + b"\n"
        self._ahead = end + self._ahead  # a part may have no headers
        self._until(end + end)
        metadata = parse_object(self._until(end + self._mark))
        for line in self._until(end + end).split(end):
            key, _, value = line.decode("latin-1").partition(":")
            if key.strip().lower() == "content-type":
                self.content_type = value.strip()
        return metadata

    def media(self) -> Iterator[bytes]:
        """Yield the bytes, and see that they end as they should."""
        end = self._line_end + self._mark + b"--"
        # The body's length is known, so that only its very end has to be looked at.
        tail = len(end) + len(self._line_end)
        held = self._ahead
        if self._body.left > tail:
            yield held
            yield from self._body.blocks(self._body.left - tail)
            held = b""
        held += self._body.read(self._body.left)
        data, found, rest = held.rpartition(end)
        if not found or rest.strip():
            raise invalid("malformed multipart body")
        yield data
