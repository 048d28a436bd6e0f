"""Hints name settings as a Python user does; each face puts its own name in their place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import dagster_resil
from dagster_resil.backup.settings import BackupSettings
from dagster_resil.cli.entry import cli
from dagster_resil.cli.options import SETTINGS as OPTIONS
from dagster_resil.components.jobs import ToDatabase
from dagster_resil.components.protected_database import BackupConfig, ProtectedDatabase
from dagster_resil.components.running import SETTINGS as FIELDS
from dagster_resil.errors import ResilError, name_settings
from dagster_resil.restore import RestoreSettings
from dagster_resil.verify.prove import VerifySettings

PACKAGE = Path(dagster_resil.__file__).parent
CORE = ("backup", "cloudsql", "postgres", "records", "restore", "vault", "verify")


KNOWN = {
    "name",
    *(
        each.name
        for kind in (BackupSettings, VerifySettings, RestoreSettings)
        for each in fields(kind)
    ),
}


def texts(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def hinted() -> set[str]:
    """Return the settings that hints of the core name."""
    return {
        name
        for folder in CORE
        for text in texts(PACKAGE / folder)
        for name in re.findall(r"\bsetting (\w+(?:=\w+)?)", text)
        if name.partition("=")[0] in KNOWN
    }


def test_each_setting_in_a_hint_has_a_name_on_both_faces() -> None:
    assert {"lock_timeout_s", "timeout_s", "owners=False"} <= hinted()
    assert hinted() == OPTIONS.keys()
    assert hinted() == FIELDS.keys()


def test_the_command_line_has_those_options() -> None:
    options = {
        option
        for command in cli.commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(OPTIONS.values()) <= options


def test_the_component_and_its_runs_have_those_fields() -> None:
    own = {*ProtectedDatabase.model_fields, *BackupConfig.model_fields, *ToDatabase.model_fields}
    assert {re.match(r"\w+", name)[0] for name in FIELDS.values()} <= own  # type: ignore[index]


def test_no_hint_of_the_core_names_an_option_of_the_command_line() -> None:
    own = {
        name
        for command in cli.commands.values()
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    named = {
        (option, text)
        for folder in CORE
        for text in texts(PACKAGE / folder)
        for option in own
        # pg_dump and others have options of the same names: those stand alone, or before "=".
        if re.search(rf"(?<=[a-z,] ){option}\b(?!=)", text) and "resil " not in text
    }
    assert named == set()


@pytest.mark.parametrize(
    ("names", "said"), [(OPTIONS, "--timeout"), (FIELDS, "time_limit_seconds")]
)
def test_a_face_says_its_own_name(names: dict[str, str], said: str) -> None:
    error = ResilError("it took too long", hint="raise setting timeout_s")
    assert name_settings(error.hint, names) == f"raise {said}"
    assert name_settings("raise setting other", names) == "raise setting other"
