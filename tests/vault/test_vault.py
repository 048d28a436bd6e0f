"""The local vault: written once, whole or not at all."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dagster_resil.errors import (
    ConfigurationError,
    ManifestDamaged,
    ManifestTooNew,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    UnknownBackup,
    VaultError,
)
from dagster_resil.records.manifest import Manifest, StoredObject
from dagster_resil.records.receipt import Check, Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.vault.checksums import Checksums
from dagster_resil.vault.documents import parse_manifest
from dagster_resil.vault.layout import new_backup_id
from dagster_resil.vault.local import LocalVault
from dagster_resil.vault.schema import FILES, schema_text
from tests.conftest import Source
from tests.taking import take_backup
from tests.vault.kinds import raw


@pytest.fixture
def local(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


def incoming(vault: LocalVault) -> list[str]:
    return [path.name for path in (vault.path / ".incoming").iterdir()]


def test_checksums_are_those_of_the_standards() -> None:
    sums = Checksums()
    sums.update(b"1234")
    sums.update(b"56789")
    assert base64.b64decode(sums.crc32c).hex() == "e3069283"
    assert sums.sha256.startswith("15e2b0d3c33891eb")
    assert sums.size == 9


def test_an_object_comes_back_as_it_went(local: LocalVault) -> None:
    stored = local.put("a/b/c.bin", [b"one", b"", b"two"])
    assert (stored.name, stored.size) == ("a/b/c.bin", 6)
    assert local.read("a/b/c.bin") == b"onetwo"
    assert local.size("a/b/c.bin") == 6
    assert list(local.names("a/")) == ["a/b/c.bin"]
    assert list(local.names("a/b/c")) == ["a/b/c.bin"]
    assert incoming(local) == []


def test_nothing_is_overwritten(local: LocalVault) -> None:
    local.put("x", [b"first"])
    with pytest.raises(ObjectExists, match="already"):
        local.put("x", [b"second"])
    assert local.read("x") == b"first"
    assert incoming(local) == []


def test_one_of_many_writers_wins(local: LocalVault) -> None:
    outcomes: list[bool] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            local.put("same", [bytes([number]) * 1000])
            outcomes.append(True)
        except ObjectExists:
            outcomes.append(False)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
    assert len(set(local.read("same"))) == 1


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", ".hidden", "a/.b", "a\0b"])
def test_a_name_can_not_lead_out(local: LocalVault, name: str) -> None:
    with pytest.raises(ConfigurationError):
        local.put(name, [b"x"])


def test_a_failing_source_leaves_nothing(local: LocalVault) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        local.put("x", chunks())
    assert list(local.names("")) == []
    assert incoming(local) == []


def test_a_killed_writer_leaves_nothing_listed_and_is_swept(local: LocalVault) -> None:
    script = (
        "import sys, time; from pathlib import Path; "
        "from dagster_resil.vault.local import LocalVault\n"
        "def chunks():\n    yield b'half'\n    print('written', flush=True)\n    time.sleep(60)\n"
        "LocalVault(Path(sys.argv[1])).put('x', chunks())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(local.path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        [left] = incoming(local)
        old = time.time() - 3600
        os.utime(local.path / ".incoming" / left, (old, old))
        local.check_writable()
        assert left in incoming(local), "a living writer's file was swept"
        writer.send_signal(signal.SIGKILL)
    assert list(local.names("")) == []
    local.check_writable()
    assert incoming(local) == []


def test_a_full_disk(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
        "from dagster_resil.vault.local import LocalVault\n"
        "try: LocalVault(Path(sys.argv[1])).put('x', [b'x' * 50_000])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("VaultError can't write x in vault file://")
    assert "hint:" in done.stdout
    assert list(LocalVault(tmp_path).names("")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system")
def test_a_really_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("this system does not let root mount a tmpfs")
    try:
        vault = LocalVault(place / "vault")
        with pytest.raises(VaultError, match="No space left on device") as error:
            vault.put("x", [b"x" * 10_000] * 100)
        assert "free some space" in error.value.hint
        assert list(vault.names("")) == []
        assert incoming(vault) == []
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_vault_that_can_not_be_written(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    script = (
        "import sys; from pathlib import Path; from dagster_resil.vault.local import LocalVault\n"
        "vault = LocalVault(Path(sys.argv[1]))\n"
        "import os; os.setuid(65534) if os.geteuid() == 0 else None\n"
        "try: vault.check_writable()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(place / "vault")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("VaultError can't write in vault"), done.stdout
    assert "let the user that takes backups write there" in done.stdout


@pytest.mark.parametrize(
    ("url", "path"),
    [("file:///srv/backups", "/srv/backups"), ("file:///a%20b/c", "/a b/c")],
)
def test_addresses(url: str, path: str) -> None:
    vault = open_vault(url)
    assert isinstance(vault, LocalVault)
    assert vault.path == Path(path)


# --- manifests and receipts --------------------------------------------------------------------


@pytest.fixture
def backups(one_source: Source, vault: Vault) -> Backups:
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    take_backup(endpoint, vault, name="app")
    return Backups(vault)


def receipt(manifest: Manifest, verdict: Verdict, age_s: float = 0) -> Receipt:
    return Receipt(
        format=1,
        backup_id=manifest.backup_id,
        name=manifest.name,
        database="d",
        verdict=verdict,
        checks=(Check(name="archive_intact", verdict=verdict, summary="s"),),
        seconds={},
        rows=1,
        bytes=1,
        verified_at=datetime.now(UTC) - timedelta(seconds=age_s),
        server_version=None,
        tools={},
    )


@pytest.mark.parametrize(
    ("verdicts", "known"),
    [
        ([], None),
        (["PASS"], "PASS"),
        (["PASS", "INCONCLUSIVE"], "PASS"),
        (["PASS", "FAIL"], "FAIL"),
        (["FAIL", "PASS"], "PASS"),
        (["INCONCLUSIVE"], "INCONCLUSIVE"),
    ],
)
def test_the_newest_conclusive_receipt_decides(
    backups: Backups, verdicts: list[str], known: str | None
) -> None:
    manifest = backups.latest("app")
    for number, verdict in enumerate(verdicts):
        backups.put_receipt(receipt(manifest, Verdict(verdict), age_s=100 - number))
    assert backups.verdict(manifest.backup_id) == known
    [entry] = backups.entries().backups
    assert entry.receipts == len(verdicts)
    if known == "PASS":
        assert backups.latest_proved("app") == manifest
    else:
        with pytest.raises(UnknownBackup, match="is proved"):
            backups.latest_proved("app")


def test_a_damaged_receipt_counts_for_nothing(backups: Backups, vault: Vault) -> None:
    manifest = backups.latest("app")
    name = backups.put_receipt(receipt(manifest, Verdict.PASS))
    raw(vault, name).write_text('{"verdict": "PASS"}')
    assert backups.verdict(manifest.backup_id) is None


def test_a_half_backup_is_not_listed(backups: Backups, vault: Vault) -> None:
    half = new_backup_id("app", datetime.now(UTC))
    backups.put_object(half, "archive/toc.dat", [b"half"])
    assert [e.manifest.backup_id for e in backups.entries().backups] != [half]
    with pytest.raises(UnknownBackup):
        backups.load(half)
    whole = backups.latest("app")
    backups.discard(half)
    backups.discard(whole.backup_id)
    assert not list(vault.names(f"app/backups/{half}/"))
    assert backups.load(whole.backup_id) == whole
    assert list(vault.names(f"app/backups/{whole.backup_id}/")), "a whole backup was discarded"


def test_a_manifest_without_its_objects_is_not_committed(backups: Backups) -> None:
    whole = backups.latest("app")
    copy = whole.model_copy(update={"backup_id": new_backup_id("app", datetime.now(UTC))})
    with pytest.raises(ObjectMissing):
        backups.commit(copy)
    for item in whole.objects:
        backups.put_object(copy.backup_id, item.name, [b"x" * (item.size + 1)])
    with pytest.raises(ObjectDamaged):
        backups.commit(copy)
    with pytest.raises(UnknownBackup):
        backups.load(copy.backup_id)


def test_damaged_manifests(backups: Backups) -> None:
    whole = backups.latest("app")
    good = whole.to_json()

    def parse(document: object) -> Manifest:
        return parse_manifest(json.dumps(document).encode(), whole.backup_id, "file:///v")

    assert parse(good) == whole
    assert parse(good | {"a_later_field": 1}) == whole
    with pytest.raises(ManifestTooNew, match="format 7"):
        parse({"format": 7})
    wrongs: list[object] = [[], {}]
    wrongs += [good | change for change in ({"tables": None}, {"name": "other"}, {"format": "x"})]
    for wrong in wrongs:
        with pytest.raises(ManifestDamaged, match="damaged"):
            parse(wrong)
    with pytest.raises(ManifestDamaged, match="not JSON"):
        parse_manifest(b"{", whole.backup_id, "file:///v")
    for name in ("../outside", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="inside a backup"):
            StoredObject(name=name, size=1, crc32c="AAAAAA==", sha256="0" * 64)


def test_resolving_names(backups: Backups, vault: Vault) -> None:
    manifest = backups.latest(None)
    assert backups.resolve("latest", "app") == manifest
    assert backups.resolve(manifest.backup_id, None) == manifest
    with pytest.raises(ConfigurationError, match="not of other"):
        backups.resolve(manifest.backup_id, "other")
    with pytest.raises(UnknownBackup, match="no backup of other"):
        backups.latest("other")
    with pytest.raises(ConfigurationError, match="can't be"):
        backups.latest("No Name")
    for name in list(vault.names("app/")):
        vault.put(name.replace("app/", "other/", 1), [vault.read(name)])
    # A stray copy under another name is no backup of that name.
    assert [entry.manifest for entry in backups.entries().backups] == [manifest]


def test_the_published_schemas_are_the_models(backups: Backups) -> None:
    import dagster_resil.vault.schema as module

    for file, model in FILES.items():
        assert Path(module.__file__).with_name(file).read_text() == schema_text(model), (
            "python -m dagster_resil.vault.schema writes them"
        )
    import jsonschema

    jsonschema.validate(
        backups.latest("app").to_json(), json.loads(schema_text(FILES["manifest.schema.json"]))
    )
