"""An export that is damaged where it lands."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dagster_resil.localcloud.identities import LANDING_BUCKET
from dagster_resil.vault.gcs import GcsVault
from tests.components.cloud_project import CloudProject, allow_landing
from tests.components.cloud_sql.faults import (
    SOURCE,
    clean,
    live,
    refused,
)


@pytest.mark.parametrize("fault", ["export_truncated", "export_corrupted"])
def test_an_export_is_damaged(project: CloudProject, fault: str) -> None:
    allow_landing(project, SOURCE)
    project.sql.execute(
        SOURCE,
        "INSERT INTO other SELECT n, md5(n::text) FROM generate_series(1, 2000) n",
        database=project.database,
    )
    with project.sql.cloud.failing(fault, method="sql.instances.export", at_byte=20_000):
        result = project.materialize(**live(project))
    refused(project, result, "of an export, is damaged")


Files = dict[str, str]
"""What a file holds → its object's name."""


def _removed(project: CloudProject, files: Files, kind: str) -> None:
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    bucket.blob(files[kind]).delete()


def _exchanged(project: CloudProject, files: Files, kind: str) -> None:
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    other = {"item": "other", "blob": "another blob"}.get(kind, "item")
    blobs = [bucket.blob(files[each]) for each in (kind, other)]
    data = [blob.download_as_bytes(raw_download=True) for blob in blobs]
    for blob, content in zip(blobs, reversed(data), strict=True):
        blob.upload_from_string(content, content_type="application/octet-stream")


def _doubled(project: CloudProject, files: Files, kind: str) -> None:
    """Have a file twice: under its name without Google's compression, or one of the next number."""
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    name = files[kind]
    folder, _, file = name.rpartition("/")
    copy = {"blob": "blob_4711.dat.gz.gz", "item": "4711.dat.gz.gz"}.get(
        kind, file.removesuffix(".gz")
    )
    data = bucket.blob(name).download_as_bytes(raw_download=True)
    bucket.blob(f"{folder}/{copy}").upload_from_string(data)


@pytest.mark.parametrize("kind", ["toc", "item", "list", "blob"])
@pytest.mark.parametrize("damage", [_removed, _exchanged, _doubled])
def test_a_file_of_an_export(
    project: CloudProject,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[CloudProject, Files, str], None],
    kind: str,
) -> None:
    """Between export and reading a file is removed, exchanged for another, or doubled."""
    allow_landing(project, SOURCE)
    project.sql.execute(
        SOURCE,
        "SELECT lo_from_bytea(0, 'one'), lo_from_bytea(0, 'another one')",
        database=project.database,
    )
    done: list[bool] = []
    names = GcsVault.names

    def damaged(vault: GcsVault, prefix: str = "", **more: Any) -> Iterator[str]:
        found = list(names(vault, prefix, **more))
        if not done and found and f"gs://{LANDING_BUCKET}" in vault.url:
            done.append(True)
            files = _files(project, f"{vault.url.removeprefix(f'gs://{LANDING_BUCKET}/')}", found)
            damage(project, files, kind)
        return names(vault, prefix, **more)

    monkeypatch.setattr(GcsVault, "names", damaged)
    result = project.materialize(**live(project))
    assert done
    if result.success:
        # What only the comparison can tell: two large objects for each other.
        assert (damage, kind) == (_exchanged, "blob")
        assert "FAIL" in project.verdicts().values()
        clean(project)
    else:
        said = refused(project, result, "export")
        assert "report it" not in said


def _files(project: CloudProject, folder: str, found: list[str]) -> Files:
    """Tell an export's files by what they hold."""
    bucket = project.sql.cloud.client().bucket(LANDING_BUCKET)
    files: Files = {}
    for each in found:
        name = f"{folder}/{each}"
        data = gzip.decompress(bucket.blob(name).download_as_bytes(raw_download=True))
        file = name.rpartition("/")[2]
        if file == "toc.dat.gz":
            files["toc"] = name
        elif file.endswith(".toc.gz"):
            files["list"] = name
        elif file.startswith("blob_"):
            files["another blob" if "blob" in files else "blob"] = name
        else:
            text = gzip.decompress(data)
            files["item" if b"item" in text else "other"] = name
    assert files.keys() == {"toc", "list", "blob", "another blob", "item", "other"}
    return files
