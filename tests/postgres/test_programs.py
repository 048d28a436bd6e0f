"""Finding PostgreSQL's programs, also where a server and its clients are in different folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.programs import (
    BIN_DIR_VARIABLE,
    CLIENTS,
    SERVERS,
    client_for,
    find_all,
    server_for,
)
from tests.conftest import majors, stock


def folder_with(path: Path, source: Path, names: tuple[str, ...]) -> Path:
    path.mkdir()
    for name in names:
        (path / name).symlink_to(source / name)
    return path


def test_a_server_alone_takes_its_clients_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = stock(majors()[0])
    server = folder_with(tmp_path / "server", installed.bin_dir, SERVERS)
    clients = folder_with(tmp_path / "clients", installed.bin_dir, CLIENTS)
    monkeypatch.setenv(BIN_DIR_VARIABLE, os.pathsep.join(map(str, (server, clients))))
    found = server_for(installed.major)
    assert found.version == installed.version
    assert (found.bin_dir, found.client_dir) == (server, clients)
    assert found.path("postgres") == server / "postgres"
    assert found.path("pg_restore") == clients / "pg_restore"
    assert client_for(installed.major).bin_dir == clients

    # Without clients that are as new it is of no use.
    monkeypatch.setenv(BIN_DIR_VARIABLE, str(server))
    assert find_all() == []


def test_a_folder_without_programs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BIN_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigurationError, match="there is no pg_dump and no postgres"):
        find_all()
