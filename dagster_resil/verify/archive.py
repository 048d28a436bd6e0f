"""``archive_intact``: fetching a backup's objects, with every checksum looked at."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dagster_resil.errors import ObjectMissing, VaultError
from dagster_resil.postgres.archive import ArchiveUnreadable, read_contents
from dagster_resil.progress import Progress, Step
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.model import Check, Manifest, StoredObject
from dagster_resil.verify.compare import DETAILS_SHOWN
from dagster_resil.verify.verdict import Verdict


def fetch(
    backups: Backups, manifest: Manifest, folder: Path, *, jobs: int, progress: Progress
) -> Check:
    """Copy a backup's objects below a folder and compare each with the manifest.

    What is restored is what was summed: the same bytes, read once.

    :return: the check ``archive_intact``.
    """
    total = manifest.bytes
    done = 0

    def fetch_one(item: StoredObject) -> str | None:
        nonlocal done
        wrong = _fetch_object(backups, manifest.backup_id, item, folder)
        done += item.size
        progress(Step("fetching", done, total, "bytes"))
        return wrong

    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="fetch") as pool:
        problems = [
            _named(manifest, item, wrong)
            for item, wrong in zip(
                manifest.objects, pool.map(fetch_one, manifest.objects), strict=True
            )
            if wrong
        ]
    listed = {item.name for item in manifest.objects}
    problems += [
        f"object {part} of table {table.schema_}.{table.name} is not in the manifest's list"
        for table in manifest.tables
        for part in table.parts
        if part not in listed
    ]
    if not problems:
        problems += _parse(folder / "archive" / "toc.dat", manifest.source.encoding)
    if problems:
        more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
        return Check(
            name="archive_intact",
            verdict=Verdict.FAIL,
            summary=problems[0] + more,
            details=tuple(problems[:DETAILS_SHOWN]),
        )
    return Check(
        name="archive_intact",
        verdict=Verdict.PASS,
        summary=f"{len(manifest.objects):,} objects, {total / 1e6:,.1f} MB, every size, crc32c "
        "and sha256 as in the manifest",
    )


def _fetch_object(backups: Backups, backup_id: str, item: StoredObject, folder: Path) -> str | None:
    """Copy one object; return what is wrong with it."""
    target = folder / item.name
    target.parent.mkdir(parents=True, exist_ok=True)
    sums = Checksums()
    try:
        with backups.open_object(backup_id, item.name) as chunks, target.open("wb") as file:
            for chunk in _summed(chunks, sums):
                file.write(chunk)
    except ObjectMissing:
        return "is missing"
    except VaultError as error:
        return f"can't be read: {error.message}"
    if sums.size != item.size:
        return f"has {sums.size:,} bytes, the manifest says {item.size:,}"
    if sums.crc32c != item.crc32c or sums.sha256 != item.sha256:
        return "has other contents than its checksums say"
    return None


def _summed(chunks: Iterator[bytes], sums: Checksums) -> Iterator[bytes]:
    for chunk in chunks:
        sums.update(chunk)
        yield chunk


def _named(manifest: Manifest, item: StoredObject, wrong: str) -> str:
    """Name the table whose rows an object holds: that is what its owner knows."""
    for table in manifest.tables:
        if item.name in table.parts:
            return f"{table.schema_}.{table.name}: object {item.name} {wrong}"
    return f"object {item.name} {wrong}"


def _parse(toc: Path, encoding: str) -> list[str]:
    try:
        read_contents(toc.read_bytes(), encoding)
    except ArchiveUnreadable as error:
        return [error.message]
    except OSError as error:
        return [f"the archive has no toc.dat: {error.strerror}"]
    return []
