"""Damaging a copy of a backup, as a demonstration and for tests."""

from __future__ import annotations

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_resil.records.manifest import Manifest, Table
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.layout import folder, manifest_name

if TYPE_CHECKING:
    from google.cloud import storage


class Damageable(ABC):
    """A backup that can be changed past its vault, which lets nobody change anything.

    :ivar manifest: the manifest as it was when the backup was taken.
    """

    manifest: Manifest

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return an object's bytes; its name is that in the vault."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put other bytes in an object's place."""

    def _object(self, relative: str) -> str:
        return folder(self.manifest.backup_id) + relative

    @property
    def _manifest_name(self) -> str:
        return manifest_name(self.manifest.backup_id)

    def table(self, schema: str, name: str) -> Table:
        """Return one of its tables."""
        return next(
            table for table in self.manifest.tables if (table.schema_, table.name) == (schema, name)
        )

    def data_of(self, table: Table) -> bytes:
        """Return the rows of a table's first part, as COPY writes them."""
        return gzip.decompress(self.read(self._object(table.parts[0])))

    def rewrite(self, relative: str, change: Callable[[bytes], bytes]) -> None:
        """Change an object's bytes; its checksums do not fit any more."""
        name = self._object(relative)
        self.write(name, change(self.read(name)))

    def make_checksums_fit(self) -> None:
        """Write the manifest anew with the sizes and checksums of what is there now."""
        document = json.loads(self.read(self._manifest_name))
        for item in document["objects"]:
            sums = Checksums()
            sums.update(self.read(self._object(item["name"])))
            item |= {"size": sums.size, "crc32c": sums.crc32c, "sha256": sums.sha256}
        self.write(self._manifest_name, json.dumps(document).encode())

    def reload(self) -> Manifest:
        """Return the manifest as it is in the vault now."""
        return Manifest.model_validate_json(self.read(self._manifest_name))


@dataclass(frozen=True)
class LocalBackup(Damageable):
    """A backup's files in a local vault's folder.

    :param vault: the vault's folder.
    """

    vault: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return (self.vault / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Put other bytes into a file."""
        file = self.vault / name
        file.chmod(0o600)
        file.write_bytes(data)

    def file(self, relative: str) -> Path:
        """Return the file of one of its objects."""
        return self.vault / self._object(relative)

    @property
    def manifest_file(self) -> Path:
        """Return the file of its manifest."""
        return self.vault / self._manifest_name


@dataclass(frozen=True)
class CloudBackup(Damageable):
    """A backup's objects in a bucket.

    :param bucket: as somebody has it who may overwrite.
    :param prefix: the vault's, with a slash at its end unless it is empty.
    """

    bucket: storage.Bucket
    prefix: str
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""
        return bytes(self.bucket.blob(self.prefix + name).download_as_bytes(raw_download=True))

    def write(self, name: str, data: bytes) -> None:
        """Put another object in an object's place."""
        self.bucket.blob(self.prefix + name).upload_from_string(data)

    def copy(self, prefix: str) -> CloudBackup:
        """Copy it within the bucket into a vault of its own; Cloud Storage moves the bytes."""
        self.remove(prefix)
        for name in (
            self._manifest_name,
            *(self._object(item.name) for item in self.manifest.objects),
        ):
            source = self.bucket.blob(self.prefix + name)
            target = self.bucket.blob(f"{prefix}/{name}")
            token, _, _ = target.rewrite(source)
            while token is not None:
                token, _, _ = target.rewrite(source, token=token)
        return CloudBackup(self.bucket, f"{prefix}/", self.manifest)

    def remove(self, prefix: str) -> None:
        """Remove such a copy."""
        for blob in list(self.bucket.list_blobs(prefix=f"{prefix}/")):
            blob.delete()


def change_one_value(backup: Damageable, schema: str, name: str, old: bytes, new: bytes) -> None:
    """Change one value in a table's data, and make every checksum fit."""
    part = backup.table(schema, name).parts[0]

    def change(data: bytes) -> bytes:
        text = gzip.decompress(data)
        if old not in text:
            raise ValueError(f"{old!r} is not in the data of {schema}.{name}")
        return gzip.compress(text.replace(old, new, 1), 1)

    backup.rewrite(part, change)
    backup.make_checksums_fit()


def flip_one_byte(backup: Damageable, schema: str, name: str) -> None:
    """Flip one bit in the middle of a table's data, as a failing disk does."""
    part = backup.table(schema, name).parts[0]

    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x01]) + data[middle + 1 :]

    backup.rewrite(part, flip)
