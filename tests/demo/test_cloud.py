"""The demonstration with its vault in the local cloud."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from dagster_resil.demo.laptop import BUCKETS, CLOUD_VAULT
from dagster_resil.localcloud.faults import Fault, Kind
from dagster_resil.localcloud.identities import ROLES
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
    assert "with bucket resil-europe-west1 (made, unless it was there)" in done.stdout
    assert "below damaged-value/ and damaged-bit/" in done.stdout
    # What is said of how to look at it again works as it stands, but for where the programs are.
    start, source, show = re.findall(r"^  (\S.*)$", done.stdout.partition("again:")[2], re.M)
    start = start.partition("&")[0].replace(".venv/bin/python", sys.executable)
    show = show.replace(".venv/bin/resil", f"{sys.executable} -m dagster_resil.cli")
    with subprocess.Popen(shlex.split(start), stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout is not None
            assert "url" in json.loads(cloud.stdout.readline())
            shown = subprocess.run(
                ["sh", "-c", f"{source}\n{show}"],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
                check=False,
            )
        finally:
            cloud.terminate()
    assert shown.returncode == 0, shown.stderr
    assert "contents_match" in shown.stdout
    assert not (tmp_path / "laptop" / "vault").exists()


@pytest.mark.parametrize("vault", ["gs://My_b/x", "s3://a", "gs://"])
def test_an_address_that_can_not_be_is_told_before_anything_starts(
    tmp_path: Path, vault: str
) -> None:
    folder = tmp_path / "laptop"
    done = subprocess.run(
        [sys.executable, "-m", "dagster_resil.demo", "--vault", vault, "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert vault.partition(":")[0] in done.stdout
    assert "hint: " in done.stdout
    assert not folder.exists()


def test_every_kind_of_fault_and_every_field_is_documented() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = "".join((docs / name).read_text() for name in ("cloud-storage.md", "local-cloud-sql.md"))
    for word in (*get_args(Kind), *Fault.model_fields, *ROLES):
        assert f"`{word}`" in text, word


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cloud-storage.md").read_text()
    for name in GcsSettings.__dataclass_fields__:
        assert f"`RESIL_GCS_{name.upper()}`" in text
    assert BUCKETS == ("resil-europe-west1", "resil-us-east1")
