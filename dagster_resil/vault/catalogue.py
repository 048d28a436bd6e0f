"""What a vault holds: the manifests and receipts of its backups. No manifest, no backup."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from dagster_resil.errors import (
    ConfigurationError,
    ManifestDamaged,
    NoVault,
    ObjectMissing,
    ResilError,
    UnknownBackup,
    VaultError,
)
from dagster_resil.records.manifest import Manifest, Partition, Source
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.vault.documents import parse_manifest, parse_receipt
from dagster_resil.vault.layout import (
    check_database_name,
    folder,
    id_beginning,
    is_backup_id,
    is_database_name,
    manifest_name,
    name_of,
    receipts_folder,
)
from dagster_resil.vault.listing import Entry, Listing, Problem, age, may_be_newer, passed_over

log = logging.getLogger(__name__)

_READERS = 8
"""Manifests are read several at a time: in a distant vault each costs a round trip."""
_RECEIPT = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{6}\.json")
_NEAREST = 3
"""How many ids are suggested for one that is unknown."""


@dataclass(frozen=True)
class _Found:
    """A manifest's object: the folder that it lies in says which database it is of."""

    name: str
    backup_id: str


@dataclass(frozen=True)
class _Manifests:
    """The manifests that can be read, newest first, and those that can't."""

    manifests: tuple[Manifest, ...]
    problems: tuple[Problem, ...]


class Catalogue:
    """The backups of a vault, for those who list, choose and read them."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def open_object(self, backup_id: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Read an object of a backup as a stream of chunks."""
        return self.vault.open(folder(backup_id) + name)

    def object_size(self, backup_id: str, name: str) -> int:
        """Return the size of an object of a backup, in bytes.

        :raises ObjectMissing: there is none of that name.
        """
        return self.vault.size(folder(backup_id) + name)

    def unfinished(self, name: str) -> list[str]:
        """Return the ids of attempts that have objects and no manifest, the oldest first.

        They are under way, or were killed.
        """
        check_database_name(name)
        whole = {found.backup_id for found in self._find(name)}
        folders = self.vault.folders(f"{name}/backups/")
        return [each for each in folders if is_backup_id(each) and each not in whole]

    def load(self, backup_id: str) -> Manifest:
        """Return a backup's manifest.

        :raises UnknownBackup: there is no such backup.
        :raises ManifestTooNew: a newer release wrote it.
        :raises ManifestDamaged: it is not valid.
        """
        if not is_backup_id(backup_id):
            raise UnknownBackup(
                f"{backup_id!r} is no backup's id", hint=self._nearest_hint(backup_id)
            )
        try:
            data = self.vault.read(manifest_name(backup_id))
        except ObjectMissing:
            raise UnknownBackup(
                f"there is no backup {backup_id} in vault {self.vault.url}",
                hint=self._nearest_hint(backup_id),
            ) from None
        return parse_manifest(data, backup_id, self.vault.url)

    def _nearest_hint(self, text: str) -> str:
        ids = sorted((found.backup_id for found in self._find(None)), reverse=True)
        begun = [each for each in ids if text and each.startswith(text)]
        near = begun[:_NEAREST] or difflib.get_close_matches(text, ids, n=_NEAREST)
        return ("did you mean " + " or ".join(near) + "? " if near else "") + (
            "list what there is with: resil list"
        )

    def _find(self, name: str | None) -> Iterator[_Found]:
        """Yield every manifest's object, of one database or of all."""
        if name is not None:
            check_database_name(name)
        # Not one listing of everything: the archives have far more objects than this needs.
        databases = [name] if name else filter(is_database_name, self.vault.folders())
        for database in databases:
            prefix = f"{database}/manifests/"
            for item in self.vault.names(prefix):
                file = item.removeprefix(prefix)
                if file.endswith(".json") and "/" not in file:
                    yield _Found(database, file.removesuffix(".json"))

    def _manifests(self, name: str | None) -> _Manifests:
        def read(found: _Found) -> Manifest | Problem:
            try:
                if not is_backup_id(found.backup_id) or name_of(found.backup_id) != found.name:
                    raise ManifestDamaged(
                        f"object {found.name}/manifests/{found.backup_id}.json in vault "
                        f"{self.vault.url} is no backup's manifest",
                        hint="find out who put it there, and remove it",
                    )
                data = self.vault.read(manifest_name(found.backup_id))
                return parse_manifest(data, found.backup_id, self.vault.url)
            except ResilError as error:
                return Problem(found.backup_id, error)

        with ThreadPoolExecutor(_READERS, thread_name_prefix="manifests") as pool:
            results = list(pool.map(read, list(self._find(name))))
        manifests = [each for each in results if isinstance(each, Manifest)]
        manifests.sort(key=age, reverse=True)
        return _Manifests(
            tuple(manifests), tuple(each for each in results if isinstance(each, Problem))
        )

    def entries(self, name: str | None = None) -> Listing:
        """Return every whole backup, newest first; what can't be read is named, not hidden.

        A backup that has lost objects is listed: to say FAIL of it is the verification's part.
        """
        return self._with_verdicts(self._manifests(name))

    def _with_verdicts(self, found: _Manifests) -> Listing:
        receipts: dict[str, list[str]] = {}
        for database in sorted({manifest.name for manifest in found.manifests}):
            for item in self.vault.names(f"{database}/receipts/"):
                parts = item.split("/")
                if len(parts) == 4 and _RECEIPT.fullmatch(parts[3]):
                    receipts.setdefault(parts[2], []).append(item)

        def judge(manifest: Manifest) -> tuple[Entry, list[Problem]]:
            return self._judge(manifest, receipts.get(manifest.backup_id, []))

        with ThreadPoolExecutor(_READERS, thread_name_prefix="receipts") as pool:
            judged = list(pool.map(judge, found.manifests))
        return Listing(
            tuple(entry for entry, _ in judged),
            found.problems + tuple(problem for _, problems in judged for problem in problems),
        )

    def _judge(self, manifest: Manifest, names: Sequence[str]) -> tuple[Entry, list[Problem]]:
        """Read a backup's receipts, the newest first, as far as a verdict takes."""
        newest: Receipt | None = None
        deciding: Receipt | None = None
        problems: list[Problem] = []
        # A receipt's name tells its second; within one, only its contents tell what is newer.
        seconds = sorted({_second_of(name) for name in names}, reverse=True)
        for second in seconds:
            readable: list[Receipt] = []
            for name in names:
                if _second_of(name) != second:
                    continue
                try:
                    readable.append(self._receipt(name, manifest.backup_id))
                except ResilError as error:
                    problems.append(Problem(manifest.backup_id, error))
            for receipt in sorted(readable, key=lambda each: each.verified_at, reverse=True):
                newest = newest or receipt
                if deciding is None and receipt.verdict is not Verdict.INCONCLUSIVE:
                    deciding = receipt
            if deciding:
                break
        shown = deciding or newest
        if shown is None:
            return Entry(manifest, None, None, len(names)), problems
        verdict = shown.verdict
        if problems and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
        return Entry(manifest, verdict, shown.verified_at, len(names)), problems

    def _receipt(self, name: str, backup_id: str) -> Receipt:
        return parse_receipt(self.vault.read(name), name, backup_id, self.vault.url)

    def receipts(self, backup_id: str) -> list[Receipt]:
        """Return a backup's receipts, oldest first; one that can't be read is logged."""
        found = []
        for name in self.vault.names(receipts_folder(backup_id)):
            if not _RECEIPT.fullmatch(name.rpartition("/")[2]):
                continue
            try:
                found.append(self._receipt(name, backup_id))
            except VaultError as error:
                log.warning("%s", error.message)
        return sorted(found, key=lambda receipt: receipt.verified_at)

    def verdict(self, backup_id: str) -> Verdict | None:
        """Return what is known of a backup; None when it was never verified."""
        return self._entry(self.load(backup_id)).verdict

    def _entry(self, manifest: Manifest) -> Entry:
        return self._with_verdicts(_Manifests((manifest,), ())).backups[0]

    def latest(self, name: str | None) -> Manifest:
        """Return the newest backup.

        :raises UnknownBackup: there is none.
        :raises ConfigurationError: no name is given and there are several.
        :raises ResilError: the newest one's manifest can't be read; an older one in its place
            would be taken for the newest.
        """
        found = self._of_one_database(name)
        manifest = found.manifests[0]
        newer = [problem for problem in found.problems if may_be_newer(problem, manifest)]
        if newer:
            raise max(newer, key=lambda problem: problem.backup_id).error
        return manifest

    def latest_proved(self, name: str | None) -> Manifest:
        """Return the newest backup whose verdict is PASS.

        A newer one whose manifest can't be read is passed over with a warning.

        :raises UnknownBackup: there is none.
        :raises ConfigurationError: no name is given and there are several.
        :raises ResilError: no manifest can be read.
        """
        found = self._of_one_database(name)
        listing = self._with_verdicts(found)
        for entry in listing.backups:
            if entry.verdict is Verdict.PASS:
                for warning in passed_over(entry.manifest, listing.problems):
                    log.warning("%s", warning, extra={"backup_id": entry.manifest.backup_id})
                return entry.manifest
        raise UnknownBackup(
            f"no backup{f' of {name}' if name else ''} in vault {self.vault.url} is proved",
            hint=f"prove the newest with: resil verify --vault {self.vault.url}"
            + (f" --name {name}" if name else "")
            + ", or name one by its id",
        )

    def _of_one_database(self, name: str | None) -> _Manifests:
        """Return the backups to choose from, at least one and all of one database."""
        found = self._manifests(name)
        names = sorted({manifest.name for manifest in found.manifests})
        if len(names) > 1:
            raise ConfigurationError(
                f"vault {self.vault.url} holds backups of several databases: {', '.join(names)}",
                hint="choose one of them by setting name",
            )
        of = f" of {name}" if name else ""
        if not names and found.problems:
            # There are backups: what keeps the newest from being read is what has to be told.
            raise max(found.problems, key=lambda problem: problem.backup_id).error
        if not names:
            raise UnknownBackup(
                f"there is no backup{of} in vault {self.vault.url}",
                hint="take one with: resil backup URL --vault VAULT",
            )
        return found

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
                hint="leave setting name out when you give an id",
            )
        return manifest

    def for_partition(self, name: str, partition: Partition, *, grace_s: float = 0) -> Listing:
        """Return the backups of one partition, newest first, and what can't be read and may be one.

        :param grace_s: how long after its end a backup of the partition may have been taken.
        """
        return self._with_verdicts(self._of_partition(name, partition, grace_s))

    def latest_of(self, name: str, partition: Partition, *, grace_s: float = 0) -> Manifest | None:
        """Return the newest backup of a partition; None when it has none.

        :param grace_s: as :meth:`for_partition` has it.
        :raises ResilError: the manifest of what may be a newer one can't be read; an older one in
            its place would be taken for the newest.
        """
        found = self._of_partition(name, partition, grace_s)
        newest = found.manifests[0] if found.manifests else None
        newer = [
            problem for problem in found.problems if newest is None or may_be_newer(problem, newest)
        ]
        if newer:
            raise max(newer, key=lambda problem: problem.backup_id).error
        return newest

    def _of_partition(self, name: str, partition: Partition, grace_s: float) -> _Manifests:
        found = self._manifests(name)
        begin = id_beginning(name, partition.start)
        end = id_beginning(name, partition.end + timedelta(seconds=grace_s))
        return _Manifests(
            tuple(
                manifest
                for manifest in found.manifests
                if manifest.partition is not None and manifest.partition.key == partition.key
            ),
            # Which partition it is of can't be read: its id tells the time, and no more.
            tuple(
                problem
                for problem in found.problems
                if is_backup_id(problem.backup_id) and begin <= problem.backup_id < end
            ),
        )

    def last_source(self, name: str) -> Source | None:
        """Return where the newest readable backup of that name came from; None when none is.

        :raises VaultError: the vault can't be listed, so that nobody knows.
        """
        try:
            ids = sorted((found.backup_id for found in self._find(name)), reverse=True)
        except NoVault:
            return None
        for backup_id in ids:
            try:
                return self.load(backup_id).source
            except ResilError as error:
                log.warning(
                    "the source of %s could not be determined: %s", backup_id, error.message
                )
        return None


def _second_of(receipt_name: str) -> str:
    return receipt_name.rpartition("/")[2].partition("-")[0]
