"""The package as a library: what it offers, what importing it costs, and the page about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dagster_resil
from dagster_resil.postgres.connection import Endpoint
from tests.conftest import Source

PAGE = Path(dagster_resil.__file__).parent.parent / "docs" / "library.md"


def test_every_name_is_there() -> None:
    for name in dagster_resil.__all__:
        assert getattr(dagster_resil, name).__name__ == name
        assert name in dir(dagster_resil)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dagster_resil.nothing


def test_importing_it_imports_nothing_else_that_is_installed() -> None:
    """It takes a few milliseconds then; of the package itself there is only one module."""
    script = (
        "import sys; before = set(sys.modules); import dagster_resil\n"
        "new = set(sys.modules) - before - sys.stdlib_module_names\n"
        "print(sorted(n for n in new if n.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['dagster_resil']"


def test_a_library_user_needs_no_dagster() -> None:
    script = (
        "import sys; sys.modules['dagster'] = None\n"
        "import dagster_resil\n"
        "for name in dagster_resil.__all__: getattr(dagster_resil, name)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_page_works_as_it_is_written(
    one_source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = one_source.create(), one_source.create()
    one_source.execute(source, "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    addresses = {
        "postgresql://backup@db.example.com/orders": source,
        "postgresql://admin@new.example.com/orders": target,
    }
    monkeypatch.setattr(Endpoint, "parse", staticmethod(addresses.__getitem__))
    code = code.replace("file:///srv/backups", (tmp_path / "vault").as_uri())
    exec(compile(code, PAGE.name, "exec"), {})
    out = capsys.readouterr().out
    assert "100 rows" in out
    assert "PASS contents_match" in out
    assert re.search(r"restored in [0-9.]+ s: PASS", out)
