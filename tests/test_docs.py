"""The pages keep step with the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import dagster_resil
from dagster_resil.cli import cli

PACKAGE = Path(dagster_resil.__file__).parent
ROOT = PACKAGE.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TEXT = "\n".join(page.read_text() for page in PAGES)
INTERNAL = {"RESIL_LOCALCLOUD", "RESIL_TEST_SEED", "RESIL_TEST_SEEDS"}


def _anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in map(_anchor, headings), f"{page.name} links to {target}"


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert f"`resil {name}" in readme, name


def test_every_file_that_a_page_names_is_there() -> None:
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        text = (ROOT / page).read_text()
        for name in re.findall(r"`((?:dagster_resil|tests)/[\w/]+\.py)`", text):
            assert (ROOT / name).exists(), f"{page} names {name}"


def test_every_environment_variable_is_documented() -> None:
    done = subprocess.run(
        ["grep", "-rhoE", "RESIL_[A-Z_]+[A-Z]", "--include=*.py", str(PACKAGE)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in done.stdout.split() if not name.startswith("RESIL_GCS")}
    assert "RESIL_PG_BIN" in found
    missing = sorted(name for name in found - INTERNAL if name not in TEXT)
    assert missing == []
