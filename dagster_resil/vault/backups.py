"""The backups in a vault: their manifests and receipts. No manifest, no backup."""

from __future__ import annotations

import difflib
import json
import logging
import re
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from dagster_resil.errors import (
    ConfigurationError,
    ManifestDamaged,
    ManifestTooNew,
    ObjectDamaged,
    ObjectMissing,
    ResilError,
    UnknownBackup,
    VaultError,
)
from dagster_resil.vault.base import Vault
from dagster_resil.vault.model import (
    BACKUP_ID_PATTERN,
    FORMAT,
    NAME_PATTERN,
    Manifest,
    Receipt,
    Source,
    StoredObject,
)
from dagster_resil.verify.verdict import Verdict

log = logging.getLogger(__name__)

_READERS = 8
"""Manifests are read several at a time: in a distant vault each costs a round trip."""


@dataclass(frozen=True)
class Entry:
    """A whole backup.

    :param verdict: that of the newest receipt that says PASS or FAIL; INCONCLUSIVE when every
        receipt says so; None when it was never verified.
    """

    manifest: Manifest
    verdict: Verdict | None
    verified_at: datetime | None
    receipts: int


@dataclass(frozen=True)
class Problem:
    """A manifest or receipt that can't be read, so that what it stands for is not listed."""

    backup_id: str
    message: str
    hint: str


@dataclass(frozen=True)
class Listing:
    """What a vault holds, newest first."""

    backups: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def new_backup_id(name: str, moment: datetime) -> str:
    """Return an id that no other attempt has: ``<name>-<YYYYMMDDTHHMMSSZ>-<6 hex>``."""
    return f"{name}-{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _name_of(backup_id: str) -> str:
    if not re.match(BACKUP_ID_PATTERN, backup_id):
        raise UnknownBackup(
            f"{backup_id!r} is no backup's id",
            hint="ids look like shop-20260101T000000Z-0a1b2c; list them with: resil list",
        )
    return backup_id.split("-", 1)[0]


def _folder(backup_id: str) -> str:
    return f"{_name_of(backup_id)}/backups/{backup_id}/"


def _manifest_name(backup_id: str) -> str:
    return f"{_name_of(backup_id)}/manifests/{backup_id}.json"


class Backups:
    """The backups of a vault."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    # -- writing

    def put_object(self, backup_id: str, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write an object of a backup; ``name`` is relative to the backup's folder."""
        stored = self.vault.put(_folder(backup_id) + name, chunks)
        return stored.model_copy(update={"name": name})

    def open_object(self, backup_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Read an object of a backup as a stream of chunks."""
        return self.vault.open(_folder(backup_id) + name)

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes it a backup.

        :raises ObjectDamaged: an object that it lists is not in the vault with that size.
        """
        data = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1).encode()
        # What can't be read back must not be called a backup.
        if parse_manifest(data, manifest.backup_id, self.vault.url) != manifest:
            raise ManifestDamaged(f"the manifest of {manifest.backup_id} does not survive writing")

        def check(item: StoredObject) -> None:
            size = self.vault.size(_folder(manifest.backup_id) + item.name)
            if size != item.size:
                raise ObjectDamaged(
                    f"object {item.name} of {manifest.backup_id} has {size:,} bytes in the vault, "
                    f"{item.size:,} were written",
                    hint="is something else writing into the vault?",
                )

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(check, manifest.objects))
        self.vault.put(_manifest_name(manifest.backup_id), [data])

    def discard(self, backup_id: str) -> None:
        """Remove what an attempt has written that will have no manifest."""
        try:
            self.vault.size(_manifest_name(backup_id))
        except ObjectMissing:
            self.vault.discard(_folder(backup_id))
        except VaultError:
            log.warning("can't clean up after %s", backup_id)

    def put_receipt(self, receipt: Receipt) -> str:
        """Write a receipt and return its object's name."""
        moment = f"{receipt.verified_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        folder = f"{_name_of(receipt.backup_id)}/receipts/{receipt.backup_id}"
        name = f"{folder}/{moment}-{secrets.token_hex(3)}.json"
        data = json.dumps(receipt.to_json(), ensure_ascii=False, indent=1).encode()
        self.vault.put(name, [data])
        return name

    # -- reading

    def load(self, backup_id: str) -> Manifest:
        """Return a backup's manifest.

        :raises UnknownBackup: there is no such backup.
        :raises ManifestTooNew: a newer release wrote it.
        :raises ManifestDamaged: it is not valid.
        """
        try:
            data = self.vault.read(_manifest_name(backup_id))
        except ObjectMissing:
            raise UnknownBackup(
                f"there is no backup {backup_id} in vault {self.vault.url}",
                hint=self._like(backup_id),
            ) from None
        return parse_manifest(data, backup_id, self.vault.url)

    def _like(self, backup_id: str) -> str:
        ids = [identifier for _, identifier in self._ids(None)]
        near = difflib.get_close_matches(backup_id, ids, n=3)
        return ("did you mean " + " or ".join(near) + "? " if near else "") + (
            "list what there is with: resil list"
        )

    def _ids(self, name: str | None) -> Iterator[tuple[str, str]]:
        """Yield (name, backup id) of every manifest."""
        if name is not None and not re.match(NAME_PATTERN, name):
            raise ConfigurationError(
                f"{name!r} can't be a protected database's name",
                hint="small letters, digits and underscores, a letter first",
            )
        prefix = f"{name}/manifests/" if name else ""
        for item in self.vault.names(prefix):
            parts = item.split("/")
            if (
                len(parts) == 3
                and parts[1] == "manifests"
                and parts[2].startswith(parts[0] + "-")
                and parts[2].endswith(".json")
            ):
                yield parts[0], parts[2].removesuffix(".json")

    def entries(self, name: str | None = None) -> Listing:
        """Return every whole backup, newest first; what can't be read is named, not hidden."""

        def read(found: tuple[str, str]) -> Entry | Problem:
            try:
                return self._entry(self.load(found[1]))
            except ResilError as error:
                return Problem(found[1], error.message, error.hint)

        with ThreadPoolExecutor(_READERS) as pool:
            results = list(pool.map(read, list(self._ids(name))))
        backups = [result for result in results if isinstance(result, Entry)]
        backups.sort(key=lambda entry: entry.manifest.snapshot.taken_at, reverse=True)
        return Listing(
            tuple(backups), tuple(result for result in results if isinstance(result, Problem))
        )

    def _entry(self, manifest: Manifest) -> Entry:
        receipts = self.receipts(manifest.backup_id)
        conclusive = [r for r in receipts if r.verdict is not Verdict.INCONCLUSIVE]
        deciding = (conclusive or receipts)[-1:]
        return Entry(
            manifest,
            deciding[0].verdict if deciding else None,
            deciding[0].verified_at if deciding else None,
            len(receipts),
        )

    def receipts(self, backup_id: str) -> list[Receipt]:
        """Return a backup's receipts, oldest first. One that can't be read counts for nothing."""
        found = []
        for name in self.vault.names(f"{_name_of(backup_id)}/receipts/{backup_id}/"):
            try:
                receipt = Receipt.model_validate_json(self.vault.read(name))
            except (ValidationError, VaultError) as error:
                log.warning("receipt %s can't be read: %s", name, type(error).__name__)
                continue
            if receipt.backup_id == backup_id and receipt.format <= FORMAT:
                found.append(receipt)
        return sorted(found, key=lambda receipt: receipt.verified_at)

    def verdict(self, backup_id: str) -> Verdict | None:
        """Return what is known of a backup; None when it was never verified."""
        return self._entry(self.load(backup_id)).verdict

    def latest(self, name: str | None) -> Manifest:
        """Return the newest backup.

        :raises UnknownBackup: there is none.
        """
        return self._newest(name, proved=False)

    def latest_proved(self, name: str | None) -> Manifest:
        """Return the newest backup whose verdict is PASS.

        :raises UnknownBackup: there is none.
        """
        return self._newest(name, proved=True)

    def _newest(self, name: str | None, *, proved: bool) -> Manifest:
        entries = self.entries(name).backups
        names = sorted({entry.manifest.name for entry in entries})
        if len(names) > 1:
            raise ConfigurationError(
                f"vault {self.vault.url} holds backups of several databases: {', '.join(names)}",
                hint="say which with --name",
            )
        for entry in entries:
            if not proved or entry.verdict is Verdict.PASS:
                return entry.manifest
        of = f" of {name}" if name else ""
        if proved and entries:
            raise UnknownBackup(
                f"no backup{of} in vault {self.vault.url} is proved",
                hint="prove the newest with: resil verify, or name one by its id",
            )
        raise UnknownBackup(
            f"there is no backup{of} in vault {self.vault.url}",
            hint="take one with: resil backup URL --vault VAULT",
        )

    def resolve(self, text: str, name: str | None) -> Manifest:
        """Return the backup that a user named: "latest", "latest-proved" or an id."""
        if text == "latest":
            return self.latest(name)
        if text == "latest-proved":
            return self.latest_proved(name)
        manifest = self.load(text)
        if name is not None and manifest.name != name:
            raise ConfigurationError(
                f"backup {text} is of {manifest.name}, not of {name}",
                hint="leave --name out when you give an id",
            )
        return manifest

    def for_partition(self, name: str, key: str) -> list[Entry]:
        """Return the backups of one partition, newest first."""
        return [
            entry
            for entry in self.entries(name).backups
            if entry.manifest.partition is not None and entry.manifest.partition.key == key
        ]

    def last_source(self, name: str) -> Source | None:
        """Return where the newest readable backup of that name came from."""
        if not re.match(NAME_PATTERN, name):
            return None
        try:
            ids = sorted((identifier for _, identifier in self._ids(name)), reverse=True)
        except VaultError:
            return None
        for identifier in ids:
            try:
                return self.load(identifier).source
            except ResilError:
                continue
        return None


def parse_manifest(data: bytes, backup_id: str, vault_url: str) -> Manifest:
    """Read a manifest's bytes.

    :raises ManifestTooNew: a newer release wrote it.
    :raises ManifestDamaged: it is no manifest, or another backup's.
    """

    def damaged(reason: str) -> ManifestDamaged:
        return ManifestDamaged(
            f"the manifest of {backup_id} in vault {vault_url} is damaged: {reason}",
            hint="bring it back from a copy of the vault, or use another backup (resil list)",
        )

    try:
        document = json.loads(data)
    except ValueError as error:
        raise damaged(f"it is not JSON ({error})") from None
    version = document.get("format") if isinstance(document, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ManifestTooNew(
            f"the manifest of {backup_id} is of format {version}; this release reads up to "
            f"{FORMAT}",
            hint="upgrade dagster_resil",
        )
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise damaged(f"{place}: {first['msg']}") from None
    if manifest.backup_id != backup_id or manifest.name != _name_of(backup_id):
        raise damaged(f"it is that of {manifest.backup_id}")
    return manifest
