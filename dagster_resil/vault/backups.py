"""Writing backups into a vault: objects first, the manifest last. No manifest, no backup."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from dagster_resil.errors import (
    ManifestDamaged,
    ObjectDamaged,
    ObjectMissing,
    VaultError,
)
from dagster_resil.records.manifest import Manifest, StoredObject
from dagster_resil.records.receipt import Receipt
from dagster_resil.vault.catalogue import Catalogue
from dagster_resil.vault.documents import parse_manifest
from dagster_resil.vault.layout import (
    folder,
    manifest_name,
    receipts_folder,
)

log = logging.getLogger(__name__)


class Backups(Catalogue):
    """The backups of a vault, also for those who write them."""

    def put_object(self, backup_id: str, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write an object of a backup; ``name`` is relative to the backup's folder."""
        stored = self.vault.put(folder(backup_id) + name, chunks)
        return stored.model_copy(update={"name": name})

    def put_objects(
        self, backup_id: str, items: Iterable[tuple[str, Iterable[bytes]]]
    ) -> Iterator[StoredObject]:
        """Write some small objects of a backup, and yield each as soon as it is written."""
        place = folder(backup_id)
        for stored in self.vault.put_many((place + name, chunks) for name, chunks in items):
            yield stored.model_copy(update={"name": stored.name.removeprefix(place)})

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes it a backup.

        :raises ObjectMissing: an object that it lists is not in the vault.
        :raises ObjectDamaged: an object that it lists has another size there.
        :raises ManifestDamaged: what would be written can't be read back as the same manifest.
        :raises ObjectExists: the backup has a manifest.
        """
        data = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1).encode()
        # What can't be read back must not be called a backup.
        if parse_manifest(data, manifest.backup_id, self.vault.url) != manifest:
            raise ManifestDamaged(
                f"the manifest of {manifest.backup_id} can't be read back as it was written"
            )

        beginning = folder(manifest.backup_id)
        # One listing: asking for each would be a round trip for every object of a large backup.
        there = self.vault.sizes(beginning) if manifest.objects else {}
        for item in manifest.objects:
            size = there.get(beginning + item.name)
            if size is None:
                raise ObjectMissing(
                    f"there is no object {beginning + item.name} in vault {self.vault.url}, which "
                    "was written",
                    hint="is something else removing objects from the vault?",
                )
            if size != item.size:
                raise ObjectDamaged(
                    f"object {item.name} of {manifest.backup_id} has {size:,} bytes in the vault, "
                    f"{item.size:,} were written",
                    hint="is something else writing into the vault?",
                )
        self.vault.put(manifest_name(manifest.backup_id), [data])

    def discard(self, backup_id: str) -> None:
        """Remove what an attempt has written, unless it has a manifest; never raise for that."""
        try:
            try:
                self.vault.size(manifest_name(backup_id))
            except ObjectMissing:
                self.vault.discard(folder(backup_id))
        except VaultError as error:
            # The attempt's own failure is on its way to the user; this must not take its place.
            log.warning("can't clean up after %s: %s", backup_id, error.message)

    def sweep(self, name: str, *, older_than_s: float) -> list[str]:
        """Remove what killed attempts have left, as far as the vault lets us.

        :param older_than_s: how long nothing was written when nobody can be at work on it any more.
        :return: their ids.
        """
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        # An id tells what the backup shows, which may be a moment long before it was begun.
        swept = [
            each
            for each in self.unfinished(name)
            if (written := self.vault.written_at(folder(each))) is not None and written < limit
        ]
        for backup_id in swept:
            self.discard(backup_id)
        if swept:
            log.info("removed the remains of %d killed backups of %s", len(swept), name)
        return swept

    def put_receipt(self, receipt: Receipt) -> str:
        """Write a receipt and return its object's name."""
        moment = f"{receipt.verified_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        name = f"{receipts_folder(receipt.backup_id)}{moment}-{secrets.token_hex(3)}.json"
        data = json.dumps(receipt.to_json(), ensure_ascii=False, indent=1).encode()
        self.vault.put(name, [data])
        return name

    def put_drill(self, receipt: Receipt) -> str:
        """Write the receipt of a point-in-time drill and return its object's name.

        It says nothing of the backup whose snapshot it was compared with, so it is not beside that
        one's receipts.
        """
        moment = f"{receipt.verified_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        name = f"{receipt.name}/drills/{moment}-{secrets.token_hex(3)}.json"
        data = json.dumps(receipt.to_json(), ensure_ascii=False, indent=1).encode()
        self.vault.put(name, [data])
        return name
