"""What pg_dump reads, on its way into the vault: written once, and never half."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from dagster_resil.backup.take import take_backup
from dagster_resil.errors import BackupFailed, ResilError, VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.manifest import StoredObject
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.vault.local import LocalVault
from dagster_resil.verify.prove import verify_backup
from tests.conftest import Source
from tests.vault.failing import FailingVault

ROWS_FILE = re.compile(r"archive/[0-9]+\.dat\.gz$")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_resil.backup.dump_archive.PAUSES_S", (0.01, 0.02, 0.03))


@pytest.fixture
def database(one_source: Source) -> Iterator[Endpoint]:
    """Sixty small tables, and two large objects: one that is no small file, and one that is."""
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        *(
            f"CREATE TABLE t{n} AS SELECT k, md5(k::text) FROM generate_series(1, {n}) k"
            for n in range(60)
        ),
        "SELECT lo_from_bytea(4711, (SELECT string_agg(sha512(n::text::bytea), '') "
        "FROM generate_series(1, 40000) n)), lo_from_bytea(4712, 'hello')",
    )
    yield endpoint
    one_source.drop_all()


def parts_of(vault: Vault) -> list[str]:
    return list(vault.names("many/"))


def test_what_fails_for_a_moment_is_written_again(database: Endpoint, tmp_path: Path) -> None:
    """Whether one of several is refused, or all of them."""
    tried: dict[str, int] = {}

    def fails(name: str) -> VaultError | None:
        if not ROWS_FILE.search(name):
            return None
        tried[name] = tried.get(name, 0) + 1
        if tried[name] > 2 or hash(name) % 3:
            return None
        return VaultError(f"can't write {name}, as told", transient=True)

    vault = FailingVault(tmp_path / "vault", writing=fails)
    manifest = take_backup(database, vault, name="many")

    assert len(tried) == 60
    assert max(tried.values()) > 1
    assert sum(table.rows for table in manifest.tables if table.kind == "table") == 60 * 59 // 2
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks


@pytest.mark.parametrize("transient", [True, False])
@pytest.mark.parametrize("which", ["archive/[0-9]+.dat.gz", "blob_4711", "blob_4712", "blobs"])
def test_what_goes_on_failing_fails_the_backup(
    database: Endpoint, tmp_path: Path, which: str, transient: bool
) -> None:
    def fails(name: str) -> VaultError | None:
        if not re.search(which, name):
            return None
        return VaultError(f"can't write {name}, as told", transient=transient)

    vault = FailingVault(tmp_path / "vault", writing=fails)
    with pytest.raises(VaultError, match="as told"):
        take_backup(database, vault, name="many")

    assert parts_of(vault) == []
    assert not [t for t in threading.enumerate() if t.name.startswith(("archive-", "keep"))]


class StruckVault(LocalVault):
    """Does something when the first small files come."""

    def __init__(self, path: Path, strike: Callable[[], None]) -> None:
        super().__init__(path)
        self._strike = strike
        self._lock = threading.Lock()
        self._struck = False

    def put_many(self, items: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[StoredObject]:
        with self._lock:
            if not self._struck:
                self._struck = True
                self._strike()
        return super().put_many(items)


def children(name: str) -> list[int]:
    """Return this process's children that run a program."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "stat").read_text().rsplit(") ", 1)
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(words[1].split()[1]) == os.getpid() and name.encode() in command:
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for pg_dump in /proc")
def test_a_pg_dump_that_is_killed_fails_the_backup(database: Endpoint, tmp_path: Path) -> None:
    """Its output may end where a file does: what it wrote is no archive then."""

    def strike() -> None:
        for pid in children("--format=custom"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)

    vault = StruckVault(tmp_path / "vault", strike)
    with pytest.raises(ResilError) as error:
        take_backup(database, vault, name="many")

    assert isinstance(error.value, BackupFailed)
    assert "killed by SIGKILL" in error.value.message
    assert parts_of(vault) == []
