"""Objects: what is there, its bytes, its names, and how it goes away."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dagster_resil.localcloud.protocol import (
    BLOCK_BYTES,
    Answer,
    ApiError,
    FilePart,
    Request,
    Route,
    invalid,
    not_done,
)
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.preconditions import PARAMETERS, Preconditions
from dagster_resil.localcloud.storage.resources import (
    check_fields,
    check_name,
    crc32c_text,
    joined,
    object_resource,
    selected,
    settable,
)
from dagster_resil.localcloud.storage.retention import (
    check_object_retention,
    check_removable,
    format_time,
)
from dagster_resil.localcloud.storage.store import Bucket, DataFile, State, Store, Version

_MOST_RESULTS = 1000
_HIGHEST = "\U0010ffff"
"""The character that sorts behind every other, in code points and in UTF-8."""
_PATCHABLE = frozenset(
    {"contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl"}
    | {"metadata", "customTime", "temporaryHold", "eventBasedHold", "retention"}
)


class Objects:
    """The methods ``storage.objects.*`` but those that write bytes."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def routes(self) -> list[Route]:
        """Return its methods."""
        one = "/storage/v1/b/{bucket}/o/{object}"
        get = joined(PARAMETERS, {"generation", "projection", "softDeleted"})
        return [
            Route(
                "storage.objects.list",
                "GET",
                "/storage/v1/b/{bucket}/o",
                self._list,
                frozenset(
                    {"prefix", "delimiter", "startOffset", "endOffset", "versions", "maxResults"}
                    | {"pageToken", "projection", "softDeleted", "includeFoldersAsPrefixes"}
                ),
            ),
            Route("storage.objects.get", "GET", one, self._get, get),
            Route(
                "storage.objects.get",
                "GET",
                "/download/storage/v1/b/{bucket}/o/{object}",
                self._get,
                get,
            ),
            Route(
                "storage.objects.patch",
                "PATCH",
                one,
                self._patch,
                joined(PARAMETERS, {"generation", "projection", "overrideUnlockedRetention"}),
            ),
            Route(
                "storage.objects.delete",
                "DELETE",
                one,
                self._delete,
                joined(PARAMETERS, {"generation"}),
            ),
            Route(
                "storage.objects.restore",
                "POST",
                f"{one}/restore",
                self._restore,
                joined(PARAMETERS, {"generation", "projection"}),
            ),
        ]

    # -- what the other methods share

    def find(self, request: Request, bucket: Bucket, name: str, generation: str | None) -> Version:
        """Return the version that a request means.

        :raises ApiError: there is none.
        """
        if generation is None:
            found = self._store.live(bucket.name, name)
        elif generation.isdigit():
            found = self._store.version(bucket.name, name, int(generation))
        else:
            raise invalid(f"Invalid value for generation: {generation!r}")
        wanted = request.flag("softDeleted")
        if found is None or (found.state == "soft_deleted") is not wanted:
            raise ApiError(404, "notFound", f"No such object: {bucket.name}/{name}")
        return found

    def commit(
        self,
        request: Request,
        bucket_name: str,
        name: str,
        file: DataFile,
        metadata: dict[str, Any],
        *,
        preconditions: Preconditions,
        key_name: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> Version:
        """Make a file the live version of an object.

        :param more: fields that are not the caller's to set.
        :raises ApiError: a checksum or a precondition does not hold, what is there has to stay…
        """
        path = self._store.path(file.name)
        md5 = check_checksums(metadata, file, path)
        if md5 is None and "crc32c" not in metadata and more is None:
            # Who gives no checksum may compare this one afterwards, as gcloud does. Others are
            # spared the time that it takes.
            md5 = _md5(path)
        file.sync()
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.objects.create", bucket_name)
            self.check_place(request, bucket, name, preconditions)
            fields = settable(bucket, metadata, key_name)
            if fields.get("retention"):
                self._access.check(request, "storage.objects.setRetention", bucket.name)
                check_object_retention(bucket, None, fields["retention"], override=False)
            now = format_time(datetime.now(UTC))
            live = self._store.live(bucket.name, name)
            if live is not None:
                self._put_away(bucket, live, keep=bucket.is_versioned)
            version = Version(
                generation=self._store.new_generation(),
                bucket=bucket.name,
                name=name,
                state="live",
                metageneration=1,
                size=file.size,
                crc32c=file.crc32c,
                file=file.name,
                resource={
                    "contentType": "application/octet-stream",
                    **fields,
                    "timeCreated": now,
                    "updated": now,
                    "timeFinalized": now,
                    "timeStorageClassUpdated": now,
                    **({"md5Hash": md5} if md5 else {}),
                    **(more or {}),
                },
            )
            self._store.put_version(version)
        return version

    def check_place(
        self, request: Request, bucket: Bucket, name: str, preconditions: Preconditions
    ) -> None:
        """Refuse to write where a precondition does not hold or something has to stay.

        :raises ApiError: it is refused.
        """
        live = self._store.live(bucket.name, name)
        preconditions.check(live)
        if live is not None:
            # To overwrite is to delete.
            self._access.check(request, "storage.objects.delete", bucket.name)
            check_removable(bucket, live, archiving=bucket.is_versioned)

    def _put_away(self, bucket: Bucket, version: Version, *, keep: bool) -> None:
        """Take a version out of sight: noncurrent, softly deleted, or gone."""
        now = datetime.now(UTC)
        if keep:
            resource = {**version.resource, "timeDeleted": format_time(now)}
            self._store.put_version(replace(version, state="noncurrent", resource=resource))
            return
        policy = bucket.resource.get("softDeletePolicy") or {}
        seconds = int(policy.get("retentionDurationSeconds") or 0)
        if not seconds:
            self._store.remove_version(version)
            return
        resource = {
            **version.resource,
            "softDeleteTime": format_time(now),
            "hardDeleteTime": format_time(now + timedelta(seconds=seconds)),
        }
        self._store.put_version(replace(version, state="soft_deleted", resource=resource))

    # -- the methods

    def _get(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.objects.get")
        preconditions = Preconditions.of(request.query)
        version = self.find(
            request, bucket, request.names["object"], request.query.get("generation")
        )
        preconditions.check(version, reading=True)
        if request.query.get("alt") == "media":
            return self._media(request, version)
        document = object_resource(bucket, version, request.base_url)
        if "fields" in request.query:
            document = selected(document, request.query["fields"])
        return Answer.of(document)

    def _media(self, request: Request, version: Version) -> Answer:
        path = self._store.path(version.file)
        encoding = version.resource.get("contentEncoding")
        headers = {
            "Content-Type": str(version.resource["contentType"]),
            "X-Goog-Generation": str(version.generation),
            "X-Goog-Metageneration": str(version.metageneration),
            "X-Goog-Hash": f"crc32c={crc32c_text(version.crc32c)}",
            "X-Goog-Stored-Content-Length": str(version.size),
            "X-Goog-Stored-Content-Encoding": str(encoding or "identity"),
            "X-Goog-Storage-Class": str(version.resource["storageClass"]),
            "Accept-Ranges": "bytes",
        }
        if encoding == "gzip" and "gzip" not in request.headers.get("Accept-Encoding", ""):
            # Decompressed in flight: neither a length nor a range is known, nor do sums fit.
            return Answer(200, _decompressed(path), headers)
        if encoding:
            headers["Content-Encoding"] = str(encoding)
        start, end = _range(request.headers.get("Range"), version.size)
        if (start, end) == (0, version.size):
            return Answer(200, FilePart(path, 0, version.size), headers)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{version.size}"
        return Answer(206, FilePart(path, start, end - start), headers)

    def _list(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.objects.list")
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        most = min(_number(query.get("maxResults"), _MOST_RESULTS), _MOST_RESULTS)
        states: tuple[State, ...] = ("live",)
        if request.flag("versions"):
            states = ("live", "noncurrent")
        if request.flag("softDeleted"):
            states = ("soft_deleted",)
        start, after = max(prefix, query.get("startOffset", ""), key=str.encode), -1
        if "pageToken" in query:
            start, after = _from_token(query["pageToken"])
        stop = query.get("endOffset")
        items: list[Version] = []
        groups: list[str] = []
        token: str | None = None
        while token is None:
            rows = self._store.following(bucket.name, states, start, after, most + 1)
            ended = len(rows) <= most
            for row in rows:
                if not row.name.startswith(prefix) or (stop and row.name.encode() >= stop.encode()):
                    ended = True
                    break
                if len(items) + len(groups) == most:
                    token = _to_token(start, after)
                    break
                rest = row.name[len(prefix) :]
                if delimiter and delimiter in rest:
                    group = prefix + rest[: rest.index(delimiter) + len(delimiter)]
                    groups.append(group)
                    start, after = group + _HIGHEST, -1
                    ended = False
                    break  # ask again, behind everything that the group stands for
                items.append(row)
                start, after = row.name, row.generation
            if ended:
                break
        document: dict[str, Any] = {"kind": "storage#objects"}
        if items:
            document["items"] = [object_resource(bucket, each, request.base_url) for each in items]
        if groups:
            document["prefixes"] = groups
        if token:
            document["nextPageToken"] = token
        if "fields" in query:
            document = selected(document, query["fields"])
        return Answer.of(document)

    def _patch(self, request: Request) -> Answer:
        given = request.body.json()
        unknown = given.keys() - _PATCHABLE
        if unknown:
            raise invalid(f"fields that can't be changed: {sorted(unknown)}")
        check_fields(given)
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.objects.update")
            version = self.find(
                request, bucket, request.names["object"], request.query.get("generation")
            )
            Preconditions.of(request.query).check(version)
            resource = dict(version.resource)
            if "retention" in given:
                self._access.check(request, "storage.objects.setRetention", bucket.name)
                check_object_retention(
                    bucket,
                    resource.get("retention"),
                    _retention(given),
                    override=request.flag("overrideUnlockedRetention"),
                )
            now = format_time(datetime.now(UTC))
            if resource.get("eventBasedHold") and given.get("eventBasedHold") is False:
                resource["eventBasedHoldReleased"] = now
            for key, value in given.items():
                if key == "metadata" and value is not None:
                    merged = {**(resource.get("metadata") or {}), **value}
                    value = {k: v for k, v in merged.items() if v is not None}
                resource[key] = _retention(given) if key == "retention" else value
            resource["updated"] = now
            version = replace(version, metageneration=version.metageneration + 1, resource=resource)
            self._store.put_version(version)
        return Answer.of(object_resource(bucket, version, request.base_url))

    def _delete(self, request: Request) -> Answer:
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.objects.delete")
            generation = request.query.get("generation")
            version = self.find(request, bucket, request.names["object"], generation)
            Preconditions.of(request.query).check(version)
            keep = bucket.is_versioned and generation is None
            check_removable(bucket, version, archiving=keep)
            self._put_away(bucket, version, keep=keep)
            for old in self._store.expired(bucket.name, format_time(datetime.now(UTC))):
                self._store.remove_version(old)
        return Answer(204)

    def _restore(self, request: Request) -> Answer:
        if "generation" not in request.query:
            raise ApiError(400, "required", "Required parameter: generation")
        name = check_name(request.names["object"])
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.objects.restore")
            self._access.check(request, "storage.objects.create", bucket.name)
            request.query["softDeleted"] = "true"
            old = self.find(request, bucket, name, request.query["generation"])
            self.check_place(request, bucket, name, Preconditions.of(request.query))
            live = self._store.live(bucket.name, name)
            if live is not None:
                self._put_away(bucket, live, keep=bucket.is_versioned)
            kept = {
                key: value
                for key, value in old.resource.items()
                if key not in ("softDeleteTime", "hardDeleteTime", "timeDeleted")
            }
            now = format_time(datetime.now(UTC))
            with self._store.new_file() as file:
                file.write(_file_blocks(self._store.path(old.file)))
                file.sync()
            version = replace(
                old,
                generation=self._store.new_generation(),
                state="live",
                metageneration=1,
                file=file.name,
                resource={**kept, "timeCreated": now, "updated": now},
            )
            self._store.put_version(version)
        return Answer.of(object_resource(bucket, version, request.base_url))


def _retention(given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the retention that a caller wants; both of its fields empty mean none."""
    wanted = given["retention"] or {}
    return dict(wanted) if any(wanted.values()) else None


def check_checksums(metadata: dict[str, Any], file: DataFile, path: Path) -> str | None:
    """Refuse bytes that are not those that the caller has summed.

    :return: their md5, where the caller gives it.
    :raises ApiError: they are others.
    """
    crc32c = metadata.get("crc32c")
    if crc32c is not None and crc32c != crc32c_text(file.crc32c):
        raise invalid(
            f'Provided CRC32C "{crc32c}" doesn\'t match calculated CRC32C '
            f'"{crc32c_text(file.crc32c)}".'
        )
    md5 = metadata.get("md5Hash")
    if md5 is not None and md5 != (found := _md5(path)):
        raise invalid(f'Provided MD5 hash "{md5}" doesn\'t match calculated "{found}".')
    return md5


def _md5(path: Path) -> str:
    sums = hashlib.md5(usedforsecurity=False)
    for block in _file_blocks(path):
        sums.update(block)
    return base64.b64encode(sums.digest()).decode()


def _file_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _decompressed(path: Path) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    for block in _file_blocks(path):
        with suppress(zlib.error):
            if data := inflate.decompress(block):
                yield data


def _range(header: str | None, size: int) -> tuple[int, int]:
    """Return the first byte, and the one behind the last, that are asked for.

    :raises ApiError: there are no such bytes.
    """
    if header is None:
        return 0, size
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header)
    if not found or found[0] == "bytes=-":
        raise not_done(f"Range: {header}")
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
    if start >= end:
        raise ApiError(
            416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied."
        )
    return start, end


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or not int(text):
        raise invalid(f"Invalid value: {text!r}")
    return int(text)


def _to_token(name: str, after: int) -> str:
    return base64.urlsafe_b64encode(f"{after} {name}".encode()).decode()


def _from_token(token: str) -> tuple[str, int]:
    try:
        after, _, name = base64.urlsafe_b64decode(token).decode().partition(" ")
        return name, int(after)
    except ValueError:
        raise invalid("Invalid page token") from None
