"""The demonstration with its vault in the local cloud."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_resil.demo.laptop import BUCKETS, CLOUD_VAULT
from dagster_resil.vault.gcs_client import GcsSettings


@pytest.mark.timeout(600)
def test_the_demo_in_the_local_cloud_gives_the_same_three_verdicts(tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE", "RESIL"))
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dagster_resil.demo",
            "--vault",
            CLOUD_VAULT,
            "--folder",
            str(tmp_path / "laptop"),
        ],
        capture_output=True,
        text=True,
        env={**environment, "COLUMNS": "120"},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = re.findall(
        r"^(as taken|one value changed|one bit flipped) .* (PASS|FAIL) *$", done.stdout, re.M
    )
    assert verdicts == [
        ("as taken", "PASS"),
        ("one value changed", "FAIL"),
        ("one bit flipped", "FAIL"),
    ]
    assert "both damaged copies were refused" in done.stdout
    assert not (tmp_path / "laptop" / "vault").exists()


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cloud-storage.md").read_text()
    for name in GcsSettings.__dataclass_fields__:
        assert f"`RESIL_GCS_{name.upper()}`" in text
    assert BUCKETS == ("resil-europe-west1", "resil-us-east1")
