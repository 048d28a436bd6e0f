"""A vault in a bucket of Cloud Storage."""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import requests
import urllib3.exceptions
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage

from dagster_resil.errors import (
    ArrivedDamaged,
    ConfigurationError,
    ObjectDamaged,
    ResilError,
    VaultError,
    VaultUnreachable,
)
from dagster_resil.google import auth_said, signing_in_hint
from dagster_resil.records.base import format_time
from dagster_resil.records.manifest import StoredObject
from dagster_resil.vault.base import Vault, check_name, check_prefix, is_name
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.gcs_client import (
    LOCALCLOUD_VARIABLE,
    ClientSource,
    GcsSettings,
    check_client,
    new_client,
    prepare,
)
from dagster_resil.vault.gcs_media import DamagedOnTheWay, Media, Receiver, is_passing

log = logging.getLogger(__name__)

CREATE, GET, LIST, DELETE = (
    f"storage.objects.{verb}" for verb in ("create", "get", "list", "delete")
)
ROLES = {
    CREATE: "roles/storage.objectCreator",
    GET: "roles/storage.objectViewer",
    LIST: "roles/storage.objectViewer",
    DELETE: "roles/storage.objectUser (retention's account alone needs it)",
    "storage.objects.setRetention": "a role of your own with storage.objects.setRetention",
    "storage.buckets.get": "roles/storage.bucketViewer",
}
"""The smallest predefined role that has a permission."""
_TOKEN = "resil-token"  # noqa: S105 - it tells our own writes apart, and opens nothing
_PAGE = 1000
_READ_ATTEMPTS = 3
_MOST_NAME_BYTES = 1024
_RULE = re.compile(r"\b(retention|hold)\b", re.IGNORECASE)
_PERMISSION = re.compile(r"storage\.[a-zA-Z]+\.[a-zA-Z]+")


class GcsVault(Vault):
    """Objects are those of a bucket; the write-once promise is a generation's precondition.

    An object that fits in memory goes up in one request, a larger one in parts. Either way Cloud
    Storage compares the bytes with their crc32c before there is an object. A write whose answer
    was lost meets its own object when it is tried again, and knows it by a token of its own.

    :param prefix: what the names of the vault's objects begin with in the bucket; without a slash
        at its ends, and perhaps empty.
    :param client: makes the client when it is needed first; by default one with Application
        Default Credentials.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        settings: GcsSettings | None = None,
        client: ClientSource | None = None,
    ) -> None:
        self.bucket_name = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"gs://{bucket}" + (f"/{quote(prefix)}" if prefix else "")
        self.settings = settings or GcsSettings()
        self._client_source = client
        self._lock = threading.Lock()
        # Of writes that nobody knows the outcome of: object → token.
        self._unsettled: dict[str, str] = {}
        self._connected: tuple[storage.Client, Media] | None = None

    # -- the connection

    def _connect(self) -> tuple[storage.Client, Media]:
        with self._lock:
            if self._connected is None:
                if self._client_source is None:
                    client = new_client(self.settings)
                else:
                    client = self._client_source()
                    check_client(client)
                    prepare(client)
                self._connected = (client, Media(client, self.bucket_name, self.settings))
            return self._connected

    @property
    def client(self) -> storage.Client:
        """Return the client, made when it is needed first.

        :raises ConfigurationError: there are no credentials.
        """
        return self._connect()[0]

    @property
    def _media(self) -> Media:
        return self._connect()[1]

    @property
    def bucket(self) -> storage.Bucket:
        """Return the bucket, by its name; nothing is asked of Cloud Storage."""
        return self.client.bucket(self.bucket_name)

    @property
    def options(self) -> dict[str, Any]:
        """Return what each of the library's calls is given: when to give up."""
        return {"timeout": self._media.timeout, "retry": self._media.retry}

    def _blob(self, name: str) -> storage.Blob:
        check_name(name)
        full = self.prefix + name
        if len(full.encode()) > _MOST_NAME_BYTES:
            raise ConfigurationError(
                f"{name[:80]!r}… can't be an object's name: it is longer than "
                f"{_MOST_NAME_BYTES:,} bytes",
                hint="use a shorter prefix",
            )
        return self.bucket.blob(full)

    @contextmanager
    def telling(self, what: str, permission: str, name: str | None = None) -> Iterator[None]:
        """Turn what goes wrong in a ``with`` into an error that says what to do.

        :param what: what is being done, for example "write a/b".
        :param permission: what that takes.
        :param name: the object that is missing when Cloud Storage finds nothing.
        """
        try:
            yield
        except ResilError:
            raise
        except (
            GoogleAPICallError,
            RetryError,
            GoogleAuthError,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise self._told(what, permission, name, error) from None

    def _told(self, what: str, permission: str, name: str | None, error: Exception) -> VaultError:
        tried = ""
        if isinstance(error, RetryError) and isinstance(error.cause, Exception):
            tried = f" (tried again for {self.settings.retry_s:g} s)"
            error = error.cause
        said = _said(error)
        code = error.code if isinstance(error, GoogleAPICallError) else None
        if code == 404 and "bucket does not exist" in said:
            return VaultUnreachable(
                f"there is no bucket {self.bucket_name}: can't {what}",
                hint=f"check the vault's address {self.url}, or make the bucket",
            )
        if code == 404 and name is not None:
            return self._missing(name)
        found = _PERMISSION.search(said)
        if code == 403 and (found or not _RULE.search(said)):
            missing = found[0] if found else permission
            role = ROLES.get(missing, "a role that has it")
            return VaultUnreachable(
                f"can't {what} in vault {self.url}: {missing} is missing: {said}",
                hint=f"grant {role} on bucket {self.bucket_name} to {_caller(said)}",
            )
        if code == 401 or (isinstance(error, GoogleAuthError) and not is_passing(error)):
            return VaultUnreachable(
                f"can't {what} in vault {self.url}: signing in failed: {said}",
                hint=signing_in_hint(self.settings.impersonate),
            )
        passing = is_passing(error)
        # To be refused a look, by whatever words, says nothing of what is there.
        kind = VaultUnreachable if passing or permission in (GET, LIST) else VaultError
        return kind(
            f"can't {what} in vault {self.url}: {said}{tried}",
            hint=_outage_hint()
            if passing
            else f"look at bucket {self.bucket_name}: its retention, holds and keys",
            transient=passing,
        )

    # -- writing

    def put(self, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write a new object durably, or leave nothing.

        A write that was given up may have been accepted all the same: one of the same bytes that
        follows it is then the same write.
        """
        with self._lock:
            token = self._unsettled.pop(name, None) or secrets.token_hex(16)
        try:
            return self._put(name, chunks, token)
        except VaultError as error:
            if error.transient:
                with self._lock:
                    self._unsettled[name] = token
            raise

    def _put(self, name: str, chunks: Iterable[bytes], token: str) -> StoredObject:
        blob = self._blob(name)
        sums = Checksums()

        def summed() -> Iterator[bytes]:
            for chunk in chunks:
                sums.update(chunk)
                yield chunk

        stream = summed()
        held: list[bytes] = []
        for chunk in stream:
            held.append(chunk)
            if sums.size > self.settings.whole_bytes:
                break
        metadata = self._metadata(blob.name, token)
        what = f"write {name}"
        if sums.size <= self.settings.whole_bytes:
            metadata["crc32c"] = sums.crc32c
            with self.telling(what, CREATE):
                there = self._created(
                    name, metadata, sums, lambda: self._media.send_whole(metadata, held)
                )
        else:
            if self._found(blob) is not None:  # known before gigabytes are sent for nothing
                raise self._exists(name)
            broken: list[BaseException] = []

            def rest() -> Iterator[bytes]:
                while held:
                    yield held.pop(0)
                yield from _noting(stream, broken)

            try:
                with self.telling(what, CREATE):
                    there = self._created(
                        name,
                        metadata,
                        sums,
                        lambda: self._media.send_stream(metadata, rest(), lambda: sums.crc32c),
                    )
            except BaseException:
                if broken:  # what reading the caller's stream raises is not the vault's failure
                    raise broken[0] from None
                raise
        if (int(there["size"]), there["crc32c"]) != (sums.size, sums.crc32c):
            raise ObjectDamaged(
                f"object {name} is in vault {self.url} with other contents than were sent",
                hint="this should not happen: please report it",
            )
        return StoredObject(name=name, size=sums.size, crc32c=sums.crc32c, sha256=sums.sha256)

    def _metadata(self, full_name: str, token: str) -> dict[str, Any]:
        settings = self.settings
        metadata: dict[str, Any] = {
            "name": full_name,
            # No encoding: a gzip that Cloud Storage knows of is decompressed on its way back.
            "contentType": "application/octet-stream",
            "metadata": {_TOKEN: token},
        }
        if settings.storage_class:
            metadata["storageClass"] = settings.storage_class
        if settings.hold:
            metadata["temporaryHold" if settings.hold == "temporary" else "eventBasedHold"] = True
        if settings.object_retention_days:
            until = datetime.now(UTC) + timedelta(days=settings.object_retention_days)
            metadata["retention"] = {
                "mode": settings.object_retention_mode,
                "retainUntilTime": format_time(until),
            }
        return metadata

    def _created(
        self,
        name: str,
        metadata: dict[str, Any],
        sums: Checksums,
        send: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Send an object; when there is one, find out whether it is this one.

        :raises ObjectExists: it is another.
        """
        try:
            return send()
        except (GoogleAPICallError, RetryError) as error:
            if not _says_it_exists(error):
                raise
        there = self._found(self._blob(name))
        if (
            there is None
            or (there.metadata or {}).get(_TOKEN) != metadata["metadata"][_TOKEN]
            or (there.size, there.crc32c) != (sums.size, sums.crc32c)
        ):
            raise self._exists(name)
        log.info("an earlier attempt has written %s, although its answer was lost", name)
        return {"size": there.size, "crc32c": there.crc32c}

    def _found(self, blob: storage.Blob) -> storage.Blob | None:
        """Look at an object, if it is there."""
        with self.telling(f"look at {blob.name}", GET):
            return self.bucket.get_blob(blob.name, **self.options)

    def check_writable(self, name: str | None = None) -> None:
        """Ask whether objects may be created, read and listed.

        Nothing is written: a writer that may not delete would leave it there for ever. The rights
        are the bucket's, so that they are the same for every database.
        """
        wanted = [CREATE, GET, LIST]
        if self.settings.object_retention_days:
            wanted.append("storage.objects.setRetention")
        have = self.permissions(wanted)
        missing = [each for each in wanted if each not in have]
        if missing:
            roles = " and ".join(dict.fromkeys(ROLES[each] for each in missing))
            raise VaultUnreachable(
                f"vault {self.url} can't be used: {', '.join(missing)} missing on bucket "
                f"{self.bucket_name}",
                hint=f"grant {roles} on bucket {self.bucket_name} to {self.caller()}",
            )

    def permissions(self, wanted: list[str]) -> frozenset[str]:
        """Return which permissions we have on the bucket."""
        with self.telling("look at the rights", "storage.buckets.getIamPolicy"):
            return frozenset(self.bucket.test_iam_permissions(wanted, **self.options))

    def caller(self) -> str:
        """Return as whom we sign in, as far as the credentials tell."""
        email = getattr(self.client._credentials, "service_account_email", None)
        return str(email) if email and "@" in str(email) else "the account that this runs as"

    def may_discard(self) -> bool:
        """Return whether we have the right to delete objects."""
        return DELETE in self.permissions([DELETE])

    def discard(self, prefix: str) -> None:
        """Remove what an attempt that will have no manifest has written.

        A writer that may not delete, or a bucket that keeps what it has, leaves it to retention.

        :param prefix: the beginning of names inside one backup's folder.
        :raises VaultError: that backup has a manifest, or the prefix reaches further than one
            backup; nothing is removed.
        """
        manifest = self._manifest_of(prefix)
        check_prefix(prefix)
        if self._found(self._blob(manifest)) is not None:
            raise self._is_whole(prefix)
        for blob in self._listed(prefix, "name,generation"):
            try:
                # By its name, not by its generation, which would be gone for good in a bucket
                # with versioning.
                self.bucket.blob(blob.name).delete(
                    if_generation_match=blob.generation, **self.options
                )
            except GoogleAPICallError as error:
                if error.code == 403:
                    log.info("what %s has written is left to retention: %s", prefix, _said(error))
                    return
                if error.code not in (404, 412):
                    raise self._told(f"remove {prefix}", DELETE, None, error) from None
            except (RetryError, GoogleAuthError, requests.RequestException, OSError) as error:
                raise self._told(f"remove {prefix}", DELETE, None, error) from None

    # -- reading

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        """Read an object as a stream of chunks."""
        what = f"read {name}"
        blob = self._blob(name)
        with self.telling(what, GET, name):
            receiver = self._media.receive(blob.path)
        try:
            yield self._chunks(receiver, name)
        finally:
            receiver.close()

    def _chunks(self, receiver: Receiver, name: str) -> Iterator[bytes]:
        stream = iter(receiver)
        while True:
            try:
                with self.telling(f"read {name}", GET, name):
                    chunk = next(stream, None)
            except DamagedOnTheWay as error:
                raise self._arrived_damaged(name, error) from None
            if chunk is None:
                return
            yield chunk

    def _arrived_damaged(self, name: str, error: DamagedOnTheWay) -> ArrivedDamaged:
        """Return what to raise for an object that arrives damaged, with what is in the bucket.

        :raises VaultError: it can't be looked at any more.
        """
        blob = self._found(self._blob(name))
        if blob is not None and (blob.size, blob.crc32c) != (error.size, error.crc32c):
            # One of the two was damaged itself.
            blob = self._found(self._blob(name))
        if blob is None:
            raise self._missing(name)
        return ArrivedDamaged(
            f"object {name} of vault {self.url} arrives damaged: {error}",
            hint="try again; if it stays so, look at the network between here and Cloud Storage",
            size=int(blob.size or 0),
            crc32c=str(blob.crc32c),
        )

    def read(self, name: str) -> bytes:
        """Return a small object whole; what arrives damaged is asked for again."""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return super().read(name)
            except ArrivedDamaged:
                if attempt == _READ_ATTEMPTS:
                    raise
                log.warning("%s arrived damaged, reading it again", name)
        raise AssertionError

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        blob = self._blob(name)
        with self.telling(f"look at {name}", GET, name):
            blob.reload(**self.options)
        return int(blob.size or 0)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size of each object whose name begins with ``prefix``: a request a page."""
        check_prefix(prefix)
        return {
            self._inside(blob): int(blob.size or 0) for blob in self._listed(prefix, "name,size")
        }

    def _inside(self, blob: storage.Blob) -> str:
        return str(blob.name).removeprefix(self.prefix)

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with ``prefix``, sorted by their bytes, a page at a time."""
        check_prefix(prefix)
        for blob in self._listed(prefix, "name"):
            yield self._inside(blob)

    def _listed(self, prefix: str, fields: str) -> Iterator[storage.Blob]:
        with self.telling(f"list {prefix or 'what is there'}", LIST):
            for blob in self.client.list_blobs(
                self.bucket_name,
                prefix=self.prefix + prefix,
                page_size=_PAGE,
                fields=f"items({fields}),nextPageToken",
                **self.options,
            ):
                # What other programs call a folder is no object of ours.
                if is_name(self._inside(blob)):
                    yield blob

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Yield the next parts of the names below a prefix that go on after it, sorted."""
        check_prefix(prefix)
        beginning = self.prefix + prefix
        with self.telling(f"list {prefix or 'what is there'}", LIST):
            listing = self.client.list_blobs(
                self.bucket_name,
                prefix=beginning,
                delimiter="/",
                page_size=_PAGE,
                fields="prefixes,nextPageToken",
                **self.options,
            )
            found: set[str] = set()
            for page in listing.pages:
                found.update(page.prefixes)
        names = (each.removeprefix(beginning).rstrip("/") for each in found)
        yield from sorted(filter(is_name, names), key=str.encode)

    def written_at(self, folder: str) -> datetime | None:
        """Return when the newest object in a folder was created, as the bucket has it."""
        check_prefix(folder)
        times = (blob.time_created for blob in self._listed(folder, "name,timeCreated"))
        return max((moment for moment in times if moment is not None), default=None)


def _noting(stream: Iterator[bytes], broken: list[BaseException]) -> Iterator[bytes]:
    try:
        yield from stream
    except GeneratorExit:
        raise
    except BaseException as error:
        broken.append(error)
        raise


def _says_it_exists(error: GoogleAPICallError | RetryError) -> bool:
    """Return whether an answer means that there is an object of that name.

    To overwrite is to delete: whoever may not delete may be told so before any precondition, and
    a retention policy or a hold may be what speaks first.
    """
    if isinstance(error, RetryError):
        return False
    if error.code == 412:
        return True
    said = _said(error)
    return error.code == 403 and (DELETE in said or "overwritten" in said)


def _said(error: Exception) -> str:
    """Return the first line of what an error says, without the request's address."""
    if isinstance(error, GoogleAuthError) and error.args and isinstance(error.args[0], Exception):
        return _said(error.args[0])  # what went wrong in signing in
    if isinstance(error, GoogleAuthError):
        return auth_said(error)
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return "an answer that is not JSON, so it is not from Cloud Storage"
    message = error.message if isinstance(error, GoogleAPICallError) else str(error)
    text = str(message).strip().splitlines()
    first = text[0] if text else type(error).__name__
    if isinstance(error, GoogleAPICallError) and first.endswith("unknown error"):
        first = f"an answer of status {error.code} without a message"
    # "POST https://…?uploadType=multipart: " before the words is no help to anybody.
    return re.sub(r"^[A-Z]+ https?://\S+: ", "", first)[:400]


def _outage_hint() -> str:
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    if local:
        return (
            f"does the local cloud at {local} run (python -m dagster_resil.localcloud), and "
            f"without faults ({local}/localcloud/faults)?"
        )
    return "Cloud Storage or the network fails: try again, and look at its status page"


def _caller(said: str) -> str:
    found = re.match(r"(\S+@\S+) does not have", said)
    return found[1] if found else "the account that this runs as"


__all__ = ["CREATE", "DELETE", "GET", "LIST", "ROLES", "GcsVault"]
