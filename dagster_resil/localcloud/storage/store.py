"""Buckets and objects on disk: bytes in files, everything else in one SQLite database.

A file is whole and synced before a row names it, so a crash at any moment leaves at most files
that no row names; they are removed at the next start. A part of an upload counts when its row
says so: a longer file is cut back.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import google_crc32c

POLICY = "iamPolicy"
"""The key of a bucket's resource that the API shows on its own."""

State = Literal["live", "noncurrent", "soft_deleted"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (
    name TEXT PRIMARY KEY, metageneration INTEGER NOT NULL, resource TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS versions (
    generation INTEGER PRIMARY KEY, bucket TEXT NOT NULL, name TEXT NOT NULL,
    state TEXT NOT NULL, metageneration INTEGER NOT NULL, size INTEGER NOT NULL,
    crc32c INTEGER NOT NULL, file TEXT NOT NULL, resource TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS live ON versions (bucket, name) WHERE state = 'live';
CREATE INDEX IF NOT EXISTS by_name ON versions (bucket, name, generation);
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, file TEXT NOT NULL, received INTEGER NOT NULL,
    crc32c INTEGER NOT NULL, request TEXT NOT NULL, result TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS rewrites (
    token TEXT PRIMARY KEY, file TEXT NOT NULL, written INTEGER NOT NULL,
    crc32c INTEGER NOT NULL, request TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True)
class Bucket:
    """A bucket; ``resource`` is what the API shows, without what is computed."""

    name: str
    metageneration: int
    resource: dict[str, Any]

    @property
    def generation(self) -> int:
        """Return 0: a bucket has none."""
        return 0

    @property
    def location(self) -> str:
        """Return where it is, in capitals."""
        return str(self.resource["location"])

    @property
    def is_versioned(self) -> bool:
        """Return whether what is replaced or deleted stays as a noncurrent version."""
        return bool(self.resource.get("versioning", {}).get("enabled"))


@dataclass(frozen=True)
class Version:
    """One generation of an object."""

    generation: int
    bucket: str
    name: str
    state: State
    metageneration: int
    size: int
    crc32c: int
    file: str
    resource: dict[str, Any]


_FIELDS = tuple(field.name for field in fields(Version))


@dataclass(frozen=True)
class Upload:
    """A resumable upload.

    :param request: what it was begun with.
    :param result: the object's generation, once it is whole; -1 when it was cancelled.
    """

    id: str
    bucket: str
    file: str
    received: int
    crc32c: int
    request: dict[str, Any]
    result: int | None


@dataclass(frozen=True)
class Rewrite:
    """A copy that takes several calls."""

    token: str
    file: str
    written: int
    crc32c: int
    request: dict[str, Any]


class Store:
    """What is on disk.

    :param durable: whether a write waits for the disk.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._data = folder / "data"
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._durable = durable
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            folder / "index.sqlite", check_same_thread=False, isolation_level=None
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        self._connection.executescript(_SCHEMA)
        row = self._connection.execute("SELECT max(generation) FROM versions").fetchone()
        self._last_generation = int(row[0] or 0)
        self._clear()

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def _clear(self) -> None:
        """Remove the files that a crash has left without a row, and cut back those too long."""
        known: set[str] = set()
        for table in ("versions", "uploads", "rewrites"):
            known.update(row[0] for row in self._connection.execute(f"SELECT file FROM {table}"))
        for file in self._data.glob("*/*"):
            if file.name not in known:
                file.unlink()
        for table, size in (("uploads", "received"), ("rewrites", "written")):
            # What has ended has no file any more.
            rows = f"SELECT file, {size} FROM {table} WHERE file <> ''"
            for name, length in self._connection.execute(rows):
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(self.path(name), length)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do several things as one, with nobody between them."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    # -- files

    def path(self, file: str) -> Path:
        """Return where a file is."""
        return self._data / file[:2] / file

    @contextmanager
    def new_file(self) -> Iterator[DataFile]:
        """Yield a new file to write; it is removed if the ``with`` is left by an exception."""
        name = secrets.token_hex(16)
        path = self.path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = DataFile(name, path, durable=self._durable)
        try:
            yield file
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise
        file.close()

    def reopen(self, name: str, size: int, crc32c: int) -> DataFile:
        """Return a file to append to."""
        return DataFile(name, self.path(name), durable=self._durable, size=size, crc32c=crc32c)

    def remove_file(self, file: str) -> None:
        """Remove a file that no row names any more."""
        self.path(file).unlink(missing_ok=True)

    # -- buckets

    def bucket(self, name: str) -> Bucket | None:
        """Return a bucket, if it is there."""
        rows = self._execute("SELECT metageneration, resource FROM buckets WHERE name = ?", name)
        return Bucket(name, rows[0][0], json.loads(rows[0][1])) if rows else None

    def buckets(self) -> list[Bucket]:
        """Return every bucket, by name."""
        rows = self._execute("SELECT name, metageneration, resource FROM buckets ORDER BY name")
        return [Bucket(row[0], row[1], json.loads(row[2])) for row in rows]

    def put_bucket(self, bucket: Bucket) -> None:
        """Write a bucket's row."""
        self._execute(
            "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)",
            bucket.name,
            bucket.metageneration,
            json.dumps(bucket.resource),
        )

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket's row, and what was in it once."""
        with self.transaction():
            files = self._execute("SELECT file FROM versions WHERE bucket = ?", name)
            self._execute("DELETE FROM versions WHERE bucket = ?", name)
            self._execute("DELETE FROM buckets WHERE name = ?", name)
        for (file,) in files:
            self.remove_file(file)

    # -- versions

    def new_generation(self) -> int:
        """Return a generation that is higher than all before: the time in microseconds."""
        with self._lock:
            self._last_generation = max(self._last_generation + 1, time.time_ns() // 1000)
            return self._last_generation

    _COLUMNS = ", ".join(_FIELDS)

    def _version(self, row: Any) -> Version:
        return Version(**dict(zip(_FIELDS, row, strict=True)) | {"resource": json.loads(row[8])})

    def live(self, bucket: str, name: str) -> Version | None:
        """Return the live version of an object."""
        rows = self._execute(
            f"SELECT {self._COLUMNS} FROM versions WHERE bucket = ? AND name = ? "
            "AND state = 'live'",
            bucket,
            name,
        )
        return self._version(rows[0]) if rows else None

    def version(self, bucket: str, name: str, generation: int) -> Version | None:
        """Return a version of an object."""
        rows = self._execute(
            f"SELECT {self._COLUMNS} FROM versions WHERE generation = ? AND bucket = ? "
            "AND name = ?",
            generation,
            bucket,
            name,
        )
        return self._version(rows[0]) if rows else None

    def following(
        self, bucket: str, states: Iterable[State], start: str, after: int, limit: int
    ) -> list[Version]:
        """Return versions in the order of their names' bytes, then of their generations.

        :param start: the first name to return.
        :param after: of that name, only the generations after this one.
        """
        # Asked for as a string: SQLite compares text by its bytes in UTF-8.
        wanted = ", ".join(f"'{state}'" for state in states)
        rows = self._execute(
            f"SELECT {self._COLUMNS} FROM versions WHERE bucket = ? AND state IN ({wanted}) "
            "AND (name, generation) > (?, ?) ORDER BY name, generation LIMIT ?",
            bucket,
            start,
            after,
            limit,
        )
        return [self._version(row) for row in rows]

    def has_versions(self, bucket: str) -> bool:
        """Return whether anything but what was deleted is in a bucket."""
        return bool(
            self._execute(
                "SELECT 1 FROM versions WHERE bucket = ? AND state <> 'soft_deleted' LIMIT 1",
                bucket,
            )
        )

    def expired(self, bucket: str, now: str) -> list[Version]:
        """Return what was deleted softly and whose time is over."""
        rows = self._execute(
            f"SELECT {self._COLUMNS} FROM versions WHERE bucket = ? AND state = 'soft_deleted' "
            "AND json_extract(resource, '$.hardDeleteTime') <= ?",
            bucket,
            now,
        )
        return [self._version(row) for row in rows]

    def put_version(self, version: Version) -> None:
        """Write a version's row."""
        self._execute(
            f"INSERT OR REPLACE INTO versions ({self._COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            version.generation,
            version.bucket,
            version.name,
            version.state,
            version.metageneration,
            version.size,
            version.crc32c,
            version.file,
            json.dumps(version.resource),
        )

    def remove_version(self, version: Version) -> None:
        """Remove a version's row and its bytes."""
        self._execute("DELETE FROM versions WHERE generation = ?", version.generation)
        self.remove_file(version.file)

    # -- uploads and rewrites

    def upload(self, upload_id: str) -> Upload | None:
        """Return a resumable upload."""
        rows = self._execute("SELECT * FROM uploads WHERE id = ?", upload_id)
        if not rows:
            return None
        upload_id, bucket, file, received, crc32c, request, result = rows[0]
        return Upload(
            id=upload_id,
            bucket=bucket,
            file=file,
            received=received,
            crc32c=crc32c,
            request=json.loads(request),
            result=None if result is None else int(result),
        )

    def put_upload(self, upload: Upload) -> None:
        """Write an upload's row."""
        self._execute(
            "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)",
            upload.id,
            upload.bucket,
            upload.file,
            upload.received,
            upload.crc32c,
            json.dumps(upload.request),
            None if upload.result is None else str(upload.result),
        )

    def rewrite(self, token: str) -> Rewrite | None:
        """Return a copy that is under way."""
        rows = self._execute("SELECT * FROM rewrites WHERE token = ?", token)
        if not rows:
            return None
        found, file, written, crc32c, request = rows[0]
        return Rewrite(found, file, written, crc32c, json.loads(request))

    def put_rewrite(self, rewrite: Rewrite) -> None:
        """Write a copy's row."""
        self._execute(
            "INSERT OR REPLACE INTO rewrites VALUES (?, ?, ?, ?, ?)",
            rewrite.token,
            rewrite.file,
            rewrite.written,
            rewrite.crc32c,
            json.dumps(rewrite.request),
        )

    def remove_rewrite(self, token: str) -> None:
        """Remove a copy's row; its file has become an object's."""
        self._execute("DELETE FROM rewrites WHERE token = ?", token)


class DataFile:
    """A file that is being written, its checksum known as it grows."""

    def __init__(
        self, name: str, path: Path, *, durable: bool, size: int = 0, crc32c: int = 0
    ) -> None:
        self.name = name
        self.size = size
        self.crc32c = crc32c
        self._path = path
        self._durable = durable
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def write(self, blocks: Iterable[bytes]) -> None:
        """Append blocks."""
        for block in blocks:
            self.crc32c = google_crc32c.extend(self.crc32c, block)
            view = memoryview(block)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self.size += len(block)

    def sync(self) -> None:
        """Wait until the disk has it, and its name."""
        if not self._durable:
            return
        os.fsync(self._descriptor)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def cancelled(upload: Upload) -> Upload:
    """Return an upload that takes nothing more."""
    return replace(upload, result=-1)
