"""The JSON Schemas of manifests and receipts: ``python -m dagster_resil.vault.schema`` writes them.

They document the vault's format for other programs; a test keeps them equal to the models.
"""

from __future__ import annotations

import json
from pathlib import Path

from dagster_resil.records.base import Record
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.receipt import Receipt

FILES: dict[str, type[Record]] = {
    "manifest.schema.json": Manifest,
    "receipt.schema.json": Receipt,
}


def schema_text(model: type[Record]) -> str:
    """Return a model's JSON Schema (draft 2020-12) as the file holds it."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(by_alias=True, mode="validation"),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file, model in FILES.items():
        Path(__file__).with_name(file).write_text(schema_text(model))
