"""What the structure promises: a recovery depends on no orchestrator."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import dagster_resil

PACKAGE = Path(dagster_resil.__file__).parent
FACE = ("components/", "definitions.py", "defs/")


def test_only_the_face_imports_dagster() -> None:
    offenders = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if not str(file.relative_to(PACKAGE)).startswith(FACE)
        and re.search(
            r"^\s*(import dagster\b(?!_)|from dagster(\.| import))", file.read_text(), re.M
        )
    ]
    assert offenders == []


def test_the_command_line_works_without_dagster() -> None:
    """Importing every module that a recovery uses pulls in no dagster."""
    script = (
        "import sys; sys.modules['dagster'] = None\n"
        "import dagster_resil.cli, dagster_resil.backup.take, dagster_resil.verify.prove, "
        "dagster_resil.restore, dagster_resil.preflight\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'dagster' "
        "and sys.modules[name]]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_file_names_a_package_registry() -> None:
    root = PACKAGE.parent
    names = re.compile(
        r"(py" + r"pi\.org|python" + r"hosted|registry\.npm" + r"js|deb\.deb" + r"ian)"
    )
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.split()
    for name in listed:
        if not name.endswith(".png"):
            assert not names.search((root / name).read_text()), name
