"""What the structure promises: who imports whom, and that a recovery depends on no orchestrator."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import dagster_resil

PACKAGE = Path(dagster_resil.__file__).parent
FACE = ("components/", "definitions.py", "defs/", "demo/materialize.py")

_TOOLS = {"errors", "logs", "process", "progress", "crew", "workspace"}
ALLOWED: dict[str, set[str]] = {
    # What is below everything: records, and tools that know nothing of backups.
    "records": set(),
    "errors": {"records"},
    "logs": set(),
    "process": set(),
    "progress": set(),
    "crew": set(),
    "workspace": {"errors"},
    "google": {"errors"},
    # The core: the four verbs, and what they stand on. It knows neither Cloud SQL nor Dagster.
    "postgres": _TOOLS | {"records"},
    "vault": _TOOLS | {"records", "google"},
    "backup": _TOOLS | {"records", "postgres", "vault"},
    "verify": _TOOLS | {"records", "postgres", "vault"},
    "restore": _TOOLS | {"records", "postgres", "vault", "verify"},
    "preflight": _TOOLS | {"records", "postgres", "vault", "backup"},
    # What only Cloud SQL has.
    "cloudsql": _TOOLS | {"records", "postgres", "vault", "backup", "verify", "google"},
    # The faces. None of them imports another one, and nothing imports the command line.
    "alerts": _TOOLS,
    "cli": _TOOLS | {"records", "postgres", "vault", "backup", "verify", "restore", "preflight"},
    "components": _TOOLS
    | {"records", "postgres", "vault", "backup", "verify", "restore", "cloudsql", "alerts"},
    "defs": set(),
    "definitions": {"defs"},
    # The laptop: a cloud that stands by itself, and demonstrations, which use everything.
    "localcloud": {"errors", "logs", "process", "postgres"},
    "demo": _TOOLS
    | {"records", "postgres", "vault", "verify", "components", "definitions", "localcloud"},
}
"""Which folder or module of the package may import which others; all may import the package."""


def _modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = _modules()


def _imported(file: Path) -> Iterator[str]:
    """Yield what a module imports at any place, also under TYPE_CHECKING and in functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imports(file: Path) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for imported in _imported(file):
        name = imported
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name and name != "dagster_resil":
            found.add(name)
    return found


GRAPH = {
    name: _imports(file) - {name}
    for name, file in MODULES.items()
    if name != "dagster_resil"  # which loads what it offers when it is used
}


def _room(module: str) -> str:
    return module.split(".")[1]


def test_each_folder_imports_what_is_below_it() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if _room(other) != _room(module) and _room(other) not in ALLOWED[_room(module)]
    ]
    assert wrong == []


def test_the_table_of_imports_names_what_there_is() -> None:
    assert set(ALLOWED) == {_room(module) for module in MODULES if "." in module}
    assert set().union(*ALLOWED.values()) <= set(ALLOWED)


def test_no_module_imports_itself_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_records_import_pydantic_and_the_standard_library_alone() -> None:
    known = sys.stdlib_module_names | {"pydantic"}
    offenders = [
        f"{file.name} imports {name}"
        for file in (PACKAGE / "records").glob("*.py")
        for name in _imported(file)
        if name.partition(".")[0] not in known and not name.startswith("dagster_resil.records.")
    ]
    assert offenders == []


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
        assert not names.search((root / name).read_text(errors="replace")), name
