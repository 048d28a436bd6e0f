from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import schema
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.layout import manifest_name
from dagster_resil.vault.local import LocalVault
from tests.vault.records import a_partition, a_receipt, committed


def validator(file: str) -> jsonschema.Draft202012Validator:
    document = json.loads(Path(schema.__file__).with_name(file).read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_what_is_written_is_valid(tmp_path: Path) -> None:
    vault = LocalVault(tmp_path)
    manifest = committed(vault)
    receipt = Backups(vault).put_receipt(a_receipt(manifest, Verdict.PASS))

    validator("manifest.schema.json").validate(
        json.loads(vault.read(manifest_name(manifest.backup_id)))
    )
    validator("receipt.schema.json").validate(json.loads(vault.read(receipt)))


@pytest.mark.parametrize(
    "change",
    [
        {"tables": None},
        {"format": 0},
        {"backup_id": "x"},
        {"objects": [{"name": "a", "size": "1", "crc32c": "AAAAAA==", "sha256": "0" * 64}]},
        {"objects": [{"name": "a", "size": 1, "crc32c": "AAAA", "sha256": "0" * 64}]},
    ],
)
def test_what_is_damaged_is_not_valid(tmp_path: Path, change: dict[str, Any]) -> None:
    document = committed(LocalVault(tmp_path)).to_json()
    assert validator("manifest.schema.json").is_valid(document)

    assert not validator("manifest.schema.json").is_valid(document | change)


def test_a_partition_is_valid(tmp_path: Path) -> None:
    manifest = committed(LocalVault(tmp_path))
    partition = a_partition(manifest.snapshot.taken_at)
    document = manifest.model_copy(update={"partition": partition}).to_json()

    assert document["partition"]["late"] is False
    validator("manifest.schema.json").validate(document)
