"""Damaging a copy of a backup, as a demonstration and for tests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.model import Manifest, Table


@dataclass(frozen=True)
class LocalBackup:
    """A backup's files in a local vault's folder.

    :param vault: the vault's folder.
    """

    vault: Path
    manifest: Manifest

    def file(self, relative: str) -> Path:
        """Return the file of one of its objects."""
        backup_id = self.manifest.backup_id
        return self.vault / self.manifest.name / "backups" / backup_id / relative

    @property
    def manifest_file(self) -> Path:
        """Return the file of its manifest."""
        name = self.manifest.name
        return self.vault / name / "manifests" / f"{self.manifest.backup_id}.json"

    def table(self, schema: str, name: str) -> Table:
        """Return one of its tables."""
        return next(
            table for table in self.manifest.tables if (table.schema_, table.name) == (schema, name)
        )

    def rewrite(self, relative: str, change: Callable[[bytes], bytes]) -> None:
        """Change an object's bytes; its checksums do not fit any more."""
        file = self.file(relative)
        data = change(file.read_bytes())
        file.chmod(0o600)
        file.write_bytes(data)

    def make_checksums_fit(self) -> None:
        """Write the manifest anew with the sizes and checksums of what is there now."""
        document = json.loads(self.manifest_file.read_text())
        for item in document["objects"]:
            sums = Checksums()
            sums.update(self.file(item["name"]).read_bytes())
            item |= {"size": sums.size, "crc32c": sums.crc32c, "sha256": sums.sha256}
        self.manifest_file.chmod(0o600)
        self.manifest_file.write_text(json.dumps(document))

    def reload(self) -> Manifest:
        """Return the manifest as it is in the vault now."""
        return Manifest.model_validate_json(self.manifest_file.read_bytes())


def change_one_value(backup: LocalBackup, schema: str, name: str, old: bytes, new: bytes) -> None:
    """Change one value in a table's data, and make every checksum fit."""
    part = backup.table(schema, name).parts[0]

    def change(data: bytes) -> bytes:
        text = gzip.decompress(data)
        if old not in text:
            raise ValueError(f"{old!r} is not in the data of {schema}.{name}")
        return gzip.compress(text.replace(old, new, 1), 1)

    backup.rewrite(part, change)
    backup.make_checksums_fit()


def flip_one_byte(backup: LocalBackup, schema: str, name: str) -> None:
    """Flip one bit in the middle of a table's data, as a failing disk does."""
    part = backup.table(schema, name).parts[0]

    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x01]) + data[middle + 1 :]

    backup.rewrite(part, flip)
