"""Making a backup that lies: the archive of one database under the manifest of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dagster_resil.demo.damage import LocalBackup
from dagster_resil.records.manifest import Manifest


def graft(good: LocalBackup, other: LocalBackup, vault: Path) -> LocalBackup:
    """Put the archive of ``other`` under the expectations of ``good``, every checksum fitting.

    :param vault: a folder for the new vault.
    """
    shutil.copytree(good.vault, vault)
    made = LocalBackup(vault, good.manifest)
    shutil.rmtree(made.file("archive"))
    shutil.copytree(other.file("archive"), made.file("archive"))
    shutil.copy(other.file("globals.sql"), made.file("globals.sql"))
    document = json.loads(made.manifest_file.read_text())
    lying = json.loads(other.manifest_file.read_text())
    document["objects"] = [
        item for item in document["objects"] if not item["name"].startswith("archive/")
    ] + [item for item in lying["objects"] if item["name"].startswith("archive/")]
    parts = {(t["schema"], t["name"]): t["parts"] for t in lying["tables"]}
    for table in document["tables"]:
        table["parts"] = parts.get((table["schema"], table["name"]), [])
    made.manifest_file.chmod(0o600)
    made.manifest_file.write_text(json.dumps(document))
    made.make_checksums_fit()
    return LocalBackup(vault, made.reload())


def copy_of(backup: LocalBackup, vault: Path) -> LocalBackup:
    """Copy a whole vault and return the same backup in it."""
    shutil.copytree(backup.vault, vault)
    return LocalBackup(vault, backup.manifest)


def manifest_of(backup: LocalBackup) -> Manifest:
    """Read its manifest again."""
    return backup.reload()
