"""What every kind of vault promises."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dagster_resil.errors import ConfigurationError, ObjectExists, ObjectMissing, VaultError
from dagster_resil.vault.base import Vault
from tests.vault.kinds import all_names

ID = "shop-20260301T120000Z-0a1b2c"
MIB = 1 << 20


def test_sums_are_those_of_cloud_storage(vault: Vault) -> None:
    stored = vault.put("a/b", [b"1234", b"", b"56789"])

    assert stored.name == "a/b"
    assert stored.size == 9
    assert stored.crc32c == "4waSgw=="  # e3069283, big-endian
    assert stored.sha256 == "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert vault.read("a/b") == b"123456789"
    assert vault.size("a/b") == 9
    assert vault.sizes("a/") == {"a/b": 9}
    assert all_names(vault) == ["a/b"]


def test_an_empty_object_is_an_object(vault: Vault) -> None:
    stored = vault.put("a/empty", [])

    assert (stored.size, stored.crc32c) == (0, "AAAAAA==")
    assert vault.read("a/empty") == b""


def test_a_large_object_is_read_in_chunks(vault: Vault) -> None:
    data = os.urandom(2 * MIB + 5)
    stored = vault.put("a/b", [data])

    with vault.open("a/b") as chunks:
        sizes = [len(chunk) for chunk in chunks]
    assert sizes == [MIB, MIB, 5]
    assert stored.sha256 == hashlib.sha256(data).hexdigest()


def test_a_reader_may_stop_anywhere(vault: Vault) -> None:
    data = os.urandom(3 * MIB)
    vault.put("a/b", [data])
    for _ in range(5):
        with vault.open("a/b") as chunks:
            assert next(chunks) == data[:MIB]
        with vault.open("a/b"):
            pass
    assert vault.read("a/b") == data


def test_nothing_is_overwritten(vault: Vault) -> None:
    vault.put("a/b", [b"first"])

    for other in (b"second", b"first", b""):
        with pytest.raises(ObjectExists, match="a/b"):
            vault.put("a/b", [other])
    assert vault.read("a/b") == b"first"
    assert all_names(vault) == ["a/b"]


def test_one_of_many_threads_wins(vault: Vault) -> None:
    start = threading.Barrier(8)

    def write(number: int) -> bool:
        def chunks() -> Iterator[bytes]:
            yield b"%d" % number
            start.wait(timeout=30)  # all of them have found the name free
            yield b"%d" % number

        try:
            vault.put("a/b", chunks())
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert vault.read("a/b") == b"%d" % won.index(True) * 2
    assert all_names(vault) == ["a/b"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "the source's disk"), ValueError("no more"), KeyboardInterrupt()]
)
def test_a_stream_that_breaks_leaves_nothing(vault: Vault, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise error

    with pytest.raises(type(error)) as raised:
        vault.put("a/b", chunks())
    assert raised.value is error, "the stream's failure is not the vault's"
    assert all_names(vault) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "..",
        "a/../b",
        "a/..",
        ".",
        "a/./b",
        ".incoming/x",
        "a/.hidden",
        "a\x00b",
        "a/\udcff",
    ],
)
def test_names_that_lead_elsewhere_are_refused(vault: Vault, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be an object's name") as error:
        vault.put(name, [b""])
    assert error.value.hint
    for read in (vault.size, vault.read):
        with pytest.raises(ConfigurationError):
            read(name)
    assert all_names(vault) == []


def test_odd_names_are_kept(vault: Vault) -> None:
    for name in ("a/ä ö", "a/b c", "a/b.c", 'a/"', "a/…", "a/?x=1&y#z", "a/100%", "a/+"):
        vault.put(name, [name.encode()])
        assert vault.read(name) == name.encode()
        assert vault.size(name) == len(name.encode())
    assert len(list(vault.names("a/"))) == 8


def test_names_are_sorted_and_cut_anywhere(vault: Vault) -> None:
    for name in ("b/2", "a/x/1", "a/x-1", "a/x/10", "ab/c", "a/y", "z"):
        vault.put(name, [b""])

    def names(prefix: str) -> list[str]:
        assert sorted(vault.sizes(prefix)) == sorted(vault.names(prefix))
        return list(vault.names(prefix))

    assert names("") == ["a/x-1", "a/x/1", "a/x/10", "a/y", "ab/c", "b/2", "z"]
    assert names("a") == ["a/x-1", "a/x/1", "a/x/10", "a/y", "ab/c"]
    assert names("a/") == ["a/x-1", "a/x/1", "a/x/10", "a/y"]
    assert names("a/x") == ["a/x-1", "a/x/1", "a/x/10"]
    assert names("a/x/1") == ["a/x/1", "a/x/10"]
    assert names("a/x/10/") == []
    assert names("c/") == []


def test_names_are_sorted_by_their_bytes(vault: Vault) -> None:
    names = ["a/z", "a/é", "a/\uffee", "a/\U0001f600"]  # UTF-16 would turn the last two round
    for name in reversed(names):
        vault.put(name, [b""])

    assert list(vault.names("")) == names


@pytest.mark.parametrize("prefix", ["/", "/etc/", "../", "a/../", ".incoming/", "a//", "a\0"])
def test_prefixes_that_lead_elsewhere_are_refused(vault: Vault, prefix: str) -> None:
    vault.put("a/b", [b""])

    with pytest.raises(ConfigurationError):
        list(vault.names(prefix))


def test_folders_are_those_of_the_names(vault: Vault) -> None:
    for name in ("b/2", "a/1", "a/x/2", "a/x/3", "a/y/z/4", "c"):
        vault.put(name, [b""])

    for prefix, folders in (("", ["a", "b"]), ("a/", ["x", "y"]), ("a/x/", []), ("d/", [])):
        assert list(vault.folders(prefix)) == folders
        assert list(Vault.folders(vault, prefix)) == folders


def test_an_object_that_is_missing_is_named(vault: Vault) -> None:
    vault.put("a/b/c", [b""])
    for name in ("x", "a/x", "a/b", "a/b/c/d"):
        for look in (vault.read, vault.size):
            with pytest.raises(ObjectMissing) as error:
                look(name)
            assert name in error.value.message
            assert vault.url in error.value.message
            assert error.value.hint


def test_a_vault_that_can_be_written_says_so(vault: Vault) -> None:
    vault.check_writable()
    assert [name for name in all_names(vault) if not name.startswith(".")] == []


def test_a_folder_tells_when_it_was_written_into(vault: Vault) -> None:
    def now() -> datetime:
        return datetime.now(UTC)

    vault.put("a/z", [b"1"])  # a vault is made with its first object
    assert vault.written_at("a/x/") is None
    spare = timedelta(seconds=1)
    begun = now()
    vault.put("a/x/archive/1", [b"1"])
    first = vault.written_at("a/x/")
    assert first is not None
    assert begun - spare <= first <= now() + spare
    time.sleep(0.02)
    vault.put("a/x/2", [b"1"])
    second = vault.written_at("a/x/")
    assert second is not None
    assert second > first
    vault.put("a/x2/3", [b"1"])
    assert vault.written_at("a/x/") == second


def test_discarding_removes_one_attempt(vault: Vault) -> None:
    other = "shop-20260301T120000Z-ffffff"
    for name in (f"{ID}/archive/a", f"{ID}/archive/sub/b", f"{ID}/c", f"{other}/c"):
        vault.put(f"shop/backups/{name}", [b""])

    vault.discard(f"shop/backups/{ID}/")
    assert all_names(vault) == [f"shop/backups/{other}/c"]
    vault.discard(f"shop/backups/{ID}/")


def test_a_whole_backup_is_not_discarded(vault: Vault) -> None:
    vault.put(f"shop/backups/{ID}/c", [b""])
    vault.put(f"shop/manifests/{ID}.json", [b"{damaged"])

    for prefix in (f"shop/backups/{ID}/", f"shop/backups/{ID}/c"):
        with pytest.raises(VaultError, match="it is a whole backup"):
            vault.discard(prefix)
    assert len(all_names(vault)) == 2


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "shop",
        "shop/",
        "shop/backups/",
        f"shop/backups/{ID}",
        f"shop/manifests/{ID}.json",
        f"shop/receipts/{ID}/",
    ],
)
def test_more_than_one_backup_is_not_discarded(vault: Vault, prefix: str) -> None:
    vault.put(f"shop/backups/{ID}/c", [b""])

    with pytest.raises(VaultError, match="more than one backup"):
        vault.discard(prefix)
    assert len(all_names(vault)) == 1


def test_many_writers_and_listers_at_once(vault: Vault) -> None:
    vault.put("f/first", [b""])
    seen: list[int] = []
    stop = threading.Event()

    def list_all() -> None:
        while not stop.is_set():
            seen.append(len(list(vault.names(""))))

    lister = threading.Thread(target=list_all)
    lister.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda n: vault.put(f"f/{n}", [b"x" * 1000]), range(60)))
    finally:
        stop.set()
        lister.join()
    assert len(list(vault.names(""))) == 61
    assert seen == sorted(seen)
