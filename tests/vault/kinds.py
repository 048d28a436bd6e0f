"""The kinds of vault, and a way past each of them: what a thief or a failing disk does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.cloud import storage

from dagster_resil.vault.base import Vault
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.local import LocalVault
from tests.localcloud.cloud import QUICK, Cloud

KINDS = ("local", "gcs")


class OwnedVault(GcsVault):
    """A vault in the local cloud whose bucket's owner is at hand."""

    owner: storage.Client


@dataclass(frozen=True)
class RawObject:
    """An object as its bucket's owner has it: spoken to as a file is."""

    blob: storage.Blob

    def read_bytes(self) -> bytes:
        return bytes(self.blob.download_as_bytes(raw_download=True))

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        # A handle of its own: the blob's would keep what it had before.
        self.blob.bucket.blob(self.blob.name).upload_from_string(data)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def unlink(self) -> None:
        self.blob.bucket.blob(self.blob.name).delete()

    def exists(self) -> bool:
        return bool(self.blob.exists())


def raw(vault: Vault, name: str) -> Path | RawObject:
    """Return an object past the vault, which lets nobody change anything."""
    if isinstance(vault, LocalVault):
        return vault.path / name
    assert isinstance(vault, OwnedVault)
    return RawObject(vault.owner.bucket(vault.bucket_name).blob(vault.prefix + name))


def all_names(vault: Vault) -> list[str]:
    """Return every object there is, those too that the vault does not show."""
    if isinstance(vault, LocalVault):
        files = (file for file in vault.path.rglob("*") if not file.is_dir())
        return sorted(file.relative_to(vault.path).as_posix() for file in files)
    assert isinstance(vault, OwnedVault)
    blobs = vault.owner.list_blobs(vault.bucket_name, prefix=vault.prefix)
    return sorted(str(blob.name).removeprefix(vault.prefix) for blob in blobs)


def new_vault(kind: str, folder: Path, cloud: Callable[[], Cloud]) -> Vault:
    """Return an empty vault of a kind."""
    if kind == "local":
        return LocalVault(folder / "vault")
    running = cloud()
    # Its writer may delete, as the local one may; that others may not is tested on its own.
    vault = OwnedVault(
        running.bucket().name,
        "some/prefix",
        settings=QUICK,
        client=lambda: running.client("owner"),
    )
    vault.owner = running.client("owner")
    return vault
