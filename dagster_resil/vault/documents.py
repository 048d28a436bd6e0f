"""Reading what a vault holds beside the data: manifests and receipts are JSON documents."""

from __future__ import annotations

import json

from pydantic import ValidationError

from dagster_resil.errors import ManifestDamaged, ManifestTooNew
from dagster_resil.records.base import FORMAT
from dagster_resil.records.manifest import Manifest
from dagster_resil.vault.layout import name_of


def first_of(error: ValidationError) -> str:
    """Return the first thing that is wrong with a document, in words."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"it is not JSON ({first['msg'].removeprefix('Invalid JSON: ')})"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def format_of(data: bytes) -> int | None:
    """Return the format that a record says it has; None when it says none.

    Read before anything else: the rest of a newer format may be unlike anything known here.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    version = document.get("format") if isinstance(document, dict) else None
    return version if type(version) is int else None


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

    version = format_of(data)
    if version is not None and version > FORMAT:
        raise ManifestTooNew(
            f"the manifest of {backup_id} is of format {version}; this release reads up to "
            f"{FORMAT}",
            hint="upgrade dagster_resil",
        )
    try:
        # Strict, as its JSON Schema is: a number in quotes is not a number.
        manifest = Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise damaged(first_of(error)) from None
    if manifest.backup_id != backup_id or manifest.name != name_of(backup_id):
        raise damaged(f"it is that of {manifest.backup_id}")
    return manifest
