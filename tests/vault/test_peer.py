"""The same client against an emulator by other people, for what that one does.

It knows no preconditions, retention, holds or versions, and no upload in parts whose whole size is
not known at its beginning; what it does, it does by its own reading of the wire format.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from dagster_resil.errors import ObjectMissing, VaultError
from dagster_resil.vault.gcs import GcsVault
from tests.localcloud.cloud import QUICK, Cloud

MIB = 1 << 20


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is deprecated
        from gcp_storage_emulator.server import create_server

        server = create_server("127.0.0.1", 0, in_memory=True)
        server.start()
    try:
        yield f"http://127.0.0.1:{server._api._httpd.socket.getsockname()[1]}"
    finally:
        server.stop()


@pytest.fixture(params=["peer", "local cloud"])
def vault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GcsVault:
    settings = replace(
        QUICK, whole_bytes=MIB if request.param == "local cloud" else 8 * MIB, step_bytes=MIB
    )
    if request.param == "local cloud":
        cloud: Cloud = request.getfixturevalue("cloud")
        return cloud.vault(settings=settings)
    url = request.getfixturevalue("peer")
    monkeypatch.setenv("RESIL_LOCALCLOUD", url)
    client = storage.Client(
        project="p",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options=ClientOptions(api_endpoint=url),
    )
    name = f"b-{os.urandom(4).hex()}"
    client.create_bucket(name)
    return GcsVault(name, "some/prefix", settings=settings, client=lambda: client)


@pytest.mark.parametrize("size", [0, 1, 700_000, MIB, MIB + 1, 3 * MIB, 3 * MIB + 17])
def test_bytes_come_back_as_they_went(vault: GcsVault, size: int) -> None:
    data = os.urandom(size)
    stored = vault.put("a/ä b", [data[:10], data[10:]])
    assert stored.size == size
    assert vault.read("a/ä b") == data
    assert vault.size("a/ä b") == size


def test_names_and_sizes(vault: GcsVault) -> None:
    names = ["a/1", "a/2", "b/c/d", "top"]
    for name in names:
        vault.put(name, [name.encode()])
    assert list(vault.names("")) == names
    assert list(vault.names("a")) == ["a/1", "a/2"]
    assert vault.sizes("a/") == {"a/1": 3, "a/2": 3}
    assert list(vault.folders()) == ["a", "b"]


def test_what_is_missing(vault: GcsVault) -> None:
    for look in (vault.read, vault.size):
        with pytest.raises(ObjectMissing):
            look("nothing")


def test_several_at_a_time(vault: GcsVault) -> None:
    data = {f"n{n}": os.urandom(200_000) for n in range(12)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: vault.put(name, [data[name]]), data))
        read = dict(zip(data, pool.map(vault.read, data), strict=True))
    assert read == data


def test_a_wrong_checksum_is_refused(vault: GcsVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_resil.vault.checksums.Checksums.crc32c", "AAAAAA==")
    with pytest.raises(VaultError):
        vault.put("x", [b"data"])
    monkeypatch.undo()
