"""Reading what a vault holds beside the data: manifests and receipts are JSON documents."""

from __future__ import annotations

import json

from pydantic import ValidationError

from dagster_resil.errors import ManifestDamaged, ManifestTooNew, VaultError
from dagster_resil.records.base import FORMAT
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Receipt
from dagster_resil.vault.layout import name_of


def _first_of(error: ValidationError) -> str:
    """Return the first thing that is wrong with a document, in words."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"it is not JSON ({first['msg'].removeprefix('Invalid JSON: ')})"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _format_of(data: bytes) -> int | None:
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

    version = _format_of(data)
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
        raise damaged(_first_of(error)) from None
    if manifest.backup_id != backup_id or manifest.name != name_of(backup_id):
        raise damaged(f"it is that of {manifest.backup_id}")
    return manifest


def parse_receipt(data: bytes, name: str, backup_id: str, vault_url: str) -> Receipt:
    """Read a receipt's bytes.

    :param name: the object that they are of.
    :raises VaultError: a newer release wrote it, or it is not a receipt of this backup.
    """

    def damaged(reason: str) -> VaultError:
        return VaultError(
            f"receipt {name} in vault {vault_url} is damaged: {reason}",
            hint=f"prove the backup again with: resil verify {backup_id}",
        )

    version = _format_of(data)
    if version is not None and version > FORMAT:
        raise VaultError(
            f"receipt {name} in vault {vault_url} is of format {version}; this release "
            f"reads up to {FORMAT}",
            hint="upgrade dagster_resil",
        )
    try:
        receipt = Receipt.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise damaged(_first_of(error)) from None
    if receipt.backup_id != backup_id:
        raise damaged(f"it is of {receipt.backup_id}")
    return receipt
