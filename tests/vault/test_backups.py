from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

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
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.vault.layout import folder, manifest_name, new_backup_id
from dagster_resil.vault.local import LocalVault
from tests.localcloud.cloud import Cloud
from tests.vault.kinds import KINDS, RawObject, all_names, raw
from tests.vault.records import (
    NOON,
    a_manifest,
    a_partition,
    a_receipt,
    a_source,
    committed,
)

HOUR = timedelta(hours=1)
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


@pytest.fixture
def backups(vault: Vault) -> Backups:
    return Backups(vault)


@pytest.fixture(params=KINDS)
def nowhere(
    request: pytest.FixtureRequest, tmp_path: Path, any_cloud: Callable[[], Cloud]
) -> Backups:
    """The backups of a vault that was never made."""
    if request.param == "local":
        return Backups(LocalVault(tmp_path / "vault"))
    return Backups(any_cloud().vault("b-that-is-not-there", account="owner"))


@pytest.fixture(autouse=True)
def _logs_reach_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have configured the package's logs, which stops them there.
    monkeypatch.setattr(logging.getLogger("dagster_resil"), "propagate", True)


def file_of(vault: Vault, manifest: Manifest) -> Path | RawObject:
    return raw(vault, manifest_name(manifest.backup_id))


def edit(file: Path | RawObject, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


# -- names


def test_an_id_tells_name_and_time() -> None:
    moment = datetime(2026, 3, 1, 13, 0, 59, 999999, timezone(HOUR))
    ids = {new_backup_id("my_shop2", moment) for _ in range(50)}

    assert len(ids) == 50
    for each in ids:
        assert re.fullmatch(r"my_shop2-20260301T120059Z-[0-9a-f]{6}", each)
        assert folder(each) == f"my_shop2/backups/{each}/"
        assert manifest_name(each) == f"my_shop2/manifests/{each}.json"


@pytest.mark.parametrize("name", ["", "Shop", "2shop", "my-shop", "shop\n", "../shop", "a/b"])
def test_a_name_that_is_none_is_refused(backups: Backups, name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be a protected database's name"):
        new_backup_id(name, NOON)
    with pytest.raises(ConfigurationError):
        backups.entries(name)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "../../etc/passwd", "shop-20260301T120000Z-0a1b2c\n", "a/b"]
)
def test_an_id_that_is_none_is_refused(backups: Backups, vault: Vault, text: str) -> None:
    committed(vault)
    for use in (folder, manifest_name, backups.load, backups.receipts, backups.discard):
        with pytest.raises(UnknownBackup, match="is no backup's id") as error:
            use(text)
        assert "resil list" in error.value.hint
    with pytest.raises(UnknownBackup):
        backups.put_object(text, "c", [b""])


# -- commit


def test_a_backup_is_what_has_a_manifest(backups: Backups, vault: Vault) -> None:
    backup_id = new_backup_id("shop", NOON)
    item = backups.put_object(backup_id, "archive/toc.dat", [b"PG", b"DMP"])
    assert (item.name, item.size) == ("archive/toc.dat", 5)
    with backups.open_object(backup_id, "archive/toc.dat") as chunks:
        assert b"".join(chunks) == b"PGDMP"
    assert backups.entries().backups == ()

    manifest = a_manifest(backup_id, (item,))
    backups.commit(manifest)
    assert backups.load(backup_id) == manifest
    (entry,) = backups.entries().backups
    assert (entry.manifest, entry.verdict, entry.verified_at, entry.receipts) == (
        manifest,
        None,
        None,
        0,
    )
    assert list(vault.names("")) == [
        f"shop/backups/{backup_id}/archive/toc.dat",
        f"shop/manifests/{backup_id}.json",
    ]


def test_a_backup_is_committed_once(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)

    with pytest.raises(ObjectExists):
        backups.commit(manifest)
    with pytest.raises(ObjectExists):
        backups.put_object(manifest.backup_id, "archive/toc.dat", [b"other"])


def test_a_manifest_may_not_list_what_is_not_there(backups: Backups, vault: Vault) -> None:
    backup_id = new_backup_id("shop", NOON)
    item = backups.put_object(backup_id, "archive/toc.dat", [b"PGDMP"])
    missing = item.model_copy(update={"name": "archive/1.dat.gz"})
    longer = item.model_copy(update={"size": 6})

    with pytest.raises(ObjectMissing, match=r"1\.dat\.gz"):
        backups.commit(a_manifest(backup_id, (item, missing)))
    with pytest.raises(ObjectDamaged, match="5 bytes in the vault, 6 were written"):
        backups.commit(a_manifest(backup_id, (longer,)))
    assert backups.entries().backups == ()
    assert list(vault.names("shop/manifests/")) == []


@pytest.mark.parametrize(
    "update",
    [{"seconds": {"total": float("nan")}}, {"seconds": {"total": -1.0}}, {"name": "other"}],
)
def test_a_manifest_that_cannot_be_read_back_is_not_written(
    backups: Backups, vault: Vault, update: dict[str, Any]
) -> None:
    backup_id = new_backup_id("shop", NOON)
    manifest = a_manifest(backup_id).model_copy(update=update)

    with pytest.raises(ManifestDamaged):
        backups.commit(manifest)
    assert all_names(vault) == []


def test_an_empty_database_is_a_backup(backups: Backups) -> None:
    manifest = a_manifest(new_backup_id("shop", NOON)).model_copy(update={"tables": ()})

    backups.commit(manifest)
    assert backups.latest("shop") == manifest


def test_an_attempt_is_discarded_and_a_backup_is_not(
    backups: Backups, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = committed(vault)
    attempt = new_backup_id("shop", NOON)
    backups.put_object(attempt, "archive/toc.dat", [b"x"])

    backups.discard(attempt)
    backups.discard(attempt)
    backups.discard(manifest.backup_id)
    assert list(vault.names(folder(attempt))) == []
    assert len(list(vault.names(folder(manifest.backup_id)))) == 1
    assert not caplog.records


def test_a_failing_clean_up_does_not_hide_the_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    Backups(LocalVault(tmp_path / "loop")).discard(new_backup_id("shop", NOON))

    assert "can't clean up after shop-" in caplog.text


# -- load


def test_an_unknown_id_is_told_with_the_nearest(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    committed(vault, "billing")
    typed = manifest.backup_id[:-1] + ("0" if manifest.backup_id[-1] != "0" else "1")

    with pytest.raises(UnknownBackup, match="there is no backup") as error:
        backups.load(typed)
    assert manifest.backup_id in error.value.hint
    assert "billing" not in error.value.hint.split(" or ")[0]
    assert "resil list" in error.value.hint
    with pytest.raises(UnknownBackup) as error:
        backups.load(manifest.backup_id[:12])
    assert f"did you mean {manifest.backup_id}?" in error.value.hint


def test_an_unknown_id_in_a_vault_that_is_not_there(nowhere: Backups) -> None:
    with pytest.raises(VaultError, match=r"there is no (vault|bucket)"):
        nowhere.load("shop-20260301T120000Z-0a1b2c")


def test_a_newer_manifest_is_told_before_it_is_understood(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    file_of(vault, manifest).write_text('{"format": 2, "everything": "else"}')

    with pytest.raises(ManifestTooNew, match="format 2; this release reads up to 1") as error:
        backups.load(manifest.backup_id)
    assert "upgrade" in error.value.hint
    assert error.value.exit_code == 2


def test_fields_of_a_later_release_are_ignored(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    edit(file_of(vault, manifest), lambda document: document.update(later={"a": 1}))

    assert backups.load(manifest.backup_id) == manifest


def _first_table(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["tables"][0].update({key: value})


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no format": lambda document: document.pop("format"),
    "format of another type": lambda document: document.update(format="2"),
    "format true": lambda document: document.update(format=True),
    "format 0": lambda document: document.update(format=0),
    "no tables": lambda document: document.pop("tables"),
    "rows in quotes": _first_table("rows", "3"),
    "fewer than no rows": _first_table("rows", -1),
    "rows true": _first_table("rows", True),
    "a time without a zone": lambda document: document.update(started_at="2026-03-01T12:00:00"),
    "an object elsewhere": lambda document: document["objects"][0].update(name="../../x"),
    "another database": lambda document: document.update(name="billing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_invalid_manifest_is_damaged(backups: Backups, vault: Vault, damage: str) -> None:
    manifest = committed(vault)
    edit(file_of(vault, manifest), DAMAGES[damage])

    with pytest.raises(
        ManifestDamaged, match=f"{manifest.backup_id} in vault {vault.url}"
    ) as error:
        backups.load(manifest.backup_id)
    assert error.value.exit_code == 4
    assert "copy of the vault" in error.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": NaN}',
    ],
)
def test_a_manifest_that_is_no_json_is_damaged(backups: Backups, vault: Vault, data: bytes) -> None:
    manifest = committed(vault)
    whole = file_of(vault, manifest).read_bytes()
    for damaged in (data, whole[: len(whole) // 2]):
        file_of(vault, manifest).write_bytes(damaged)
        with pytest.raises(ManifestDamaged):
            backups.load(manifest.backup_id)


def test_another_backups_manifest_is_damaged(backups: Backups, vault: Vault) -> None:
    one, other = committed(vault), committed(vault)
    file_of(vault, one).write_bytes(file_of(vault, other).read_bytes())

    with pytest.raises(ManifestDamaged, match=f"it is that of {other.backup_id}"):
        backups.load(one.backup_id)


# -- listing


def test_the_list_is_newest_first_and_of_one_name(backups: Backups, vault: Vault) -> None:
    middle = committed(vault, taken_at=NOON)
    newest = committed(vault, taken_at=NOON + HOUR)
    oldest = committed(vault, taken_at=NOON - HOUR)
    other = committed(vault, "billing", taken_at=NOON + 2 * HOUR)

    def listed(name: str | None) -> list[str]:
        return [entry.manifest.backup_id for entry in backups.entries(name).backups]

    ids = [manifest.backup_id for manifest in (newest, middle, oldest)]
    assert listed("shop") == ids
    assert listed("billing") == [other.backup_id]
    assert listed(None) == [other.backup_id, *ids]
    assert listed("unheard_of") == []


def test_what_cannot_be_read_is_named_and_hides_nothing(backups: Backups, vault: Vault) -> None:
    good = committed(vault)
    damaged, too_new, exchanged = (committed(vault, taken_at=NOON + HOUR) for _ in range(3))
    file_of(vault, damaged).write_text("{")
    file_of(vault, too_new).write_text('{"format": 99}')
    file_of(vault, exchanged).write_bytes(file_of(vault, good).read_bytes())

    listing = backups.entries("shop")
    assert [entry.manifest for entry in listing.backups] == [good]
    problems = {problem.backup_id: problem for problem in listing.problems}
    assert set(problems) == {damaged.backup_id, too_new.backup_id, exchanged.backup_id}
    assert "damaged" in problems[damaged.backup_id].message
    assert "format 99" in problems[too_new.backup_id].message
    assert "upgrade" in problems[too_new.backup_id].hint
    assert good.backup_id in problems[exchanged.backup_id].message
    assert all(problem.hint for problem in listing.problems)


def test_a_manifest_in_another_databases_folder_is_no_second_backup(
    backups: Backups, vault: Vault
) -> None:
    manifest = committed(vault)
    data = file_of(vault, manifest).read_bytes()
    vault.put(f"billing/manifests/{manifest.backup_id}.json", [data])

    listing = backups.entries()
    assert [entry.manifest for entry in listing.backups] == [manifest]
    (problem,) = listing.problems
    assert f"billing/manifests/{manifest.backup_id}.json" in problem.message


def test_what_others_put_there_is_no_backup(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    for name in ("shop/manifests/x.txt", "shop/manifests/a/b.json", "lost+found/x", "README"):
        vault.put(name, [b""])
    vault.put("shop/manifests/notes.json", [b"{}"])
    vault.put(f"shop/receipts/{manifest.backup_id}/notes.txt", [b""])

    listing = backups.entries()
    assert [entry.verdict for entry in listing.backups] == [None]
    (problem,) = listing.problems
    assert "shop/manifests/notes.json" in problem.message


def test_a_backup_that_has_lost_objects_is_listed(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    raw(vault, folder(manifest.backup_id) + "archive/toc.dat").unlink()

    assert len(backups.entries().backups) == 1


def test_listing_asks_for_two_prefixes_a_database(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        manifest = committed(vault, taken_at=NOON + number * HOUR)
        for later in range(1, 4):
            Backups(vault).put_receipt(a_receipt(manifest, PASS, verified_at=NOON + later * HOUR))
    committed(vault, "billing")

    listed: list[str] = []
    read: list[str] = []
    names_of, read_of = vault.names, vault.read

    def names(prefix: str) -> Iterator[str]:
        listed.append(prefix)
        return names_of(prefix)

    def read_one(name: str) -> bytes:
        read.append(name)
        return read_of(name)

    monkeypatch.setattr(vault, "names", names)
    monkeypatch.setattr(vault, "read", read_one)
    assert len(Backups(vault).entries().backups) == 6
    assert sorted(listed) == [
        "billing/manifests/",
        "billing/receipts/",
        "shop/manifests/",
        "shop/receipts/",
    ]
    assert len(read) == 6 + 5, "only the newest conclusive receipt is needed"


def test_a_vault_that_is_not_there_is_not_empty(nowhere: Backups) -> None:
    for look in (nowhere.entries, lambda: nowhere.latest(None)):
        with pytest.raises(VaultError, match=r"there is no (vault|bucket)"):
            look()
    if isinstance(nowhere.vault, LocalVault):  # the first backup makes the folder, but no bucket
        assert nowhere.last_source("a") is None
    else:
        with pytest.raises(VaultError, match="there is no bucket"):
            nowhere.last_source("a")


# -- receipts


@pytest.mark.parametrize(
    ("verdicts", "verdict", "deciding"),
    [
        ([PASS], PASS, 0),
        ([FAIL], FAIL, 0),
        ([INCONCLUSIVE], INCONCLUSIVE, 0),
        ([INCONCLUSIVE, INCONCLUSIVE], INCONCLUSIVE, 1),
        ([PASS, FAIL], FAIL, 1),
        ([FAIL, PASS], PASS, 1),
        ([PASS, INCONCLUSIVE], PASS, 0),
        ([FAIL, INCONCLUSIVE, INCONCLUSIVE], FAIL, 0),
    ],
)
@pytest.mark.parametrize("apart", [timedelta(hours=1), timedelta(milliseconds=1)])
def test_the_newest_conclusive_receipt_decides(
    backups: Backups,
    vault: Vault,
    verdicts: list[Verdict],
    verdict: Verdict,
    deciding: int,
    apart: timedelta,
) -> None:
    manifest = committed(vault)
    for number, each in enumerate(verdicts):
        name = backups.put_receipt(a_receipt(manifest, each, verified_at=NOON + number * apart))
        assert re.fullmatch(
            rf"shop/receipts/{manifest.backup_id}/2026030\dT\d{{6}}Z-[0-9a-f]{{6}}\.json", name
        )

    (entry,) = backups.entries().backups
    assert entry.verdict is verdict
    assert entry.verified_at == NOON + deciding * apart
    assert entry.receipts == len(verdicts)
    assert backups.verdict(manifest.backup_id) is verdict
    assert [receipt.verdict for receipt in backups.receipts(manifest.backup_id)] == verdicts


def unreadable(vault: Vault, manifest: Manifest, at: datetime, data: bytes) -> None:
    folder_name = f"shop/receipts/{manifest.backup_id}"
    vault.put(f"{folder_name}/{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-ffffff.json", [data])


@pytest.mark.parametrize("data", [b"", b'{"verdict": "PASS"}', b'{"format": 2, "verdict": "PASS"}'])
def test_a_receipt_that_cannot_be_read_is_never_a_pass(
    backups: Backups, vault: Vault, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    manifest = committed(vault)
    unreadable(vault, manifest, NOON + HOUR, data)

    listing = backups.entries()
    (entry,) = listing.backups
    assert (entry.verdict, entry.verified_at, entry.receipts) == (None, None, 1)
    (problem,) = listing.problems
    assert problem.backup_id == manifest.backup_id
    assert f"receipt shop/receipts/{manifest.backup_id}/" in problem.message
    assert problem.hint
    assert backups.receipts(manifest.backup_id) == []
    assert "receipt shop/receipts/" in caplog.text
    with pytest.raises(UnknownBackup, match="is proved"):
        backups.latest_proved("shop")


@pytest.mark.parametrize(
    ("known", "hours_later", "verdict"),
    [
        (PASS, 1, INCONCLUSIVE),  # the newer one may say FAIL
        (PASS, -1, PASS),
        (FAIL, 1, FAIL),
        (FAIL, -1, FAIL),
    ],
)
def test_a_newer_receipt_that_cannot_be_read_takes_a_pass_away(
    backups: Backups, vault: Vault, known: Verdict, hours_later: int, verdict: Verdict
) -> None:
    manifest = committed(vault)
    at = NOON + 5 * HOUR
    backups.put_receipt(a_receipt(manifest, known, verified_at=at))
    unreadable(vault, manifest, at + hours_later * HOUR, b"{")

    (entry,) = backups.entries().backups
    assert (entry.verdict, entry.verified_at) == (verdict, at)
    assert len(backups.receipts(manifest.backup_id)) == 1


def test_another_backups_receipt_counts_for_nothing(backups: Backups, vault: Vault) -> None:
    manifest, other = committed(vault), committed(vault)
    data = vault.read(backups.put_receipt(a_receipt(other, PASS)))
    unreadable(vault, manifest, NOON + HOUR, data)

    verdicts = {entry.manifest.backup_id: entry.verdict for entry in backups.entries().backups}
    assert verdicts == {manifest.backup_id: None, other.backup_id: PASS}


# -- choosing


def test_latest_and_latest_proved(backups: Backups, vault: Vault) -> None:
    oldest = committed(vault, taken_at=NOON - HOUR)
    proved = committed(vault, taken_at=NOON)
    failed = committed(vault, taken_at=NOON + HOUR)
    newest = committed(vault, taken_at=NOON + 2 * HOUR)
    for manifest, verdict in ((oldest, PASS), (proved, PASS), (failed, FAIL)):
        backups.put_receipt(a_receipt(manifest, verdict))

    for name in ("shop", None):
        assert backups.latest(name) == newest
        assert backups.latest_proved(name) == proved
        assert backups.resolve("latest", name) == newest
        assert backups.resolve("latest-proved", name) == proved
        assert backups.resolve(oldest.backup_id, name) == oldest


def test_several_databases_need_a_name(backups: Backups, vault: Vault) -> None:
    shop = committed(vault)
    billing = committed(vault, "billing")

    for text in ("latest", "latest-proved"):
        with pytest.raises(ConfigurationError, match="billing, shop") as error:
            backups.resolve(text, None)
        assert "setting name" in error.value.hint
    assert backups.resolve("latest", "billing") == billing
    assert backups.resolve(shop.backup_id, None) == shop
    with pytest.raises(ConfigurationError, match="is of shop, not of billing"):
        backups.resolve(shop.backup_id, "billing")


def test_nothing_to_choose_is_told(backups: Backups, vault: Vault) -> None:
    committed(vault)

    with pytest.raises(UnknownBackup, match="no backup of billing") as error:
        backups.latest("billing")
    assert "resil backup" in error.value.hint
    with pytest.raises(UnknownBackup, match=r"no backup of shop .* is proved") as error:
        backups.latest_proved("shop")
    assert "resil verify" in error.value.hint


def test_a_vault_of_a_newer_release_is_told(backups: Backups, vault: Vault) -> None:
    manifest = committed(vault)
    file_of(vault, manifest).write_text('{"format": 2}')

    for choose in (backups.latest, backups.latest_proved):
        with pytest.raises(ManifestTooNew, match="format 2") as error:
            choose("shop")
        assert "upgrade" in error.value.hint
    file_of(vault, manifest).write_text("{")
    with pytest.raises(ManifestDamaged):
        backups.latest(None)


def test_passing_over_a_newer_one_is_not_silent(
    backups: Backups, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    older_and_damaged = committed(vault, taken_at=NOON - HOUR)
    good = committed(vault, taken_at=NOON)
    backups.put_receipt(a_receipt(good, PASS))
    file_of(vault, older_and_damaged).write_text("{")
    assert backups.latest("shop") == good
    assert not caplog.records

    damaged = committed(vault, taken_at=NOON + HOUR)
    file_of(vault, damaged).write_text("{")
    with pytest.raises(ManifestDamaged, match=damaged.backup_id):
        backups.latest("shop")  # an older one would be taken for the newest
    assert not caplog.records
    assert backups.latest_proved("shop") == good, "a recovery is not held up by it"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert damaged.backup_id in record.getMessage()


def test_what_killed_backups_left_is_cleared_when_it_is_old(
    backups: Backups, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = committed(vault, taken_at=NOON)
    # A backfill's id tells the past moment that it shows.
    old, backfill = new_backup_id("shop", NOON - HOUR), new_backup_id("shop", NOON - 24 * HOUR)
    new = new_backup_id("shop", datetime.now(UTC))
    for each in (old, backfill, new):
        backups.put_object(each, "archive/toc.dat", [b"half"])
    assert backups.unfinished("shop") == [backfill, old, new]
    assert backups.sweep("shop", older_than_s=3600) == [], "all of them were written just now"

    written_at = vault.written_at

    def and_one_long_ago(place: str) -> datetime | None:
        written = written_at(place)
        return written - 2 * HOUR if written and place == folder(old) else written

    monkeypatch.setattr(vault, "written_at", and_one_long_ago)
    assert backups.sweep("shop", older_than_s=3600) == [old]
    assert backups.unfinished("shop") == [backfill, new]
    assert backups.entries().backups[0].manifest == good
    assert not list(vault.names(folder(old)))


def test_the_backups_of_a_partition(backups: Backups, vault: Vault) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    first = committed(vault, taken_at=NOON, partition=a_partition(day))
    second = committed(vault, taken_at=NOON + HOUR, partition=a_partition(day))
    committed(vault, taken_at=NOON + 24 * HOUR, partition=a_partition(day + 24 * HOUR))
    committed(vault)
    committed(vault, "billing", partition=a_partition(day))
    backups.put_receipt(a_receipt(first, PASS))

    found = backups.for_partition("shop", a_partition(day))
    assert [(entry.manifest, entry.verdict) for entry in found.backups] == [
        (second, None),
        (first, PASS),
    ]
    assert backups.latest_of("shop", a_partition(day)) == second
    before = a_partition(day - 24 * HOUR)
    assert backups.for_partition("shop", before).backups == ()
    assert backups.latest_of("shop", before) is None


def test_the_newest_of_a_partition_is_not_passed_over(backups: Backups, vault: Vault) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    of_day = a_partition(day)
    oldest = committed(vault, taken_at=NOON - HOUR, partition=of_day)
    good = committed(vault, taken_at=NOON, partition=of_day)
    file_of(vault, oldest).write_text("{")
    after = committed(vault, taken_at=of_day.end + HOUR)
    file_of(vault, after).write_text("{")
    for foreign in ("not-one-of-ours", "shop-20260301", "shop-20260301T999999Z-ffffff"):
        raw(vault, f"shop/manifests/{foreign}.json").write_text("{")
    with pytest.raises(ManifestDamaged, match="T999999Z"):
        backups.latest_of("shop", of_day)
    raw(vault, "shop/manifests/shop-20260301T999999Z-ffffff.json").unlink()
    assert backups.latest_of("shop", of_day) == good

    late = backups.for_partition("shop", of_day, grace_s=7200)
    assert {problem.backup_id for problem in late.problems} == {oldest.backup_id, after.backup_id}
    with pytest.raises(ManifestDamaged, match=after.backup_id):
        backups.latest_of("shop", of_day, grace_s=7200)

    newer = committed(vault, taken_at=NOON + HOUR, partition=of_day)
    edit(file_of(vault, newer), lambda document: document.update(format=99))
    with pytest.raises(ManifestTooNew, match=newer.backup_id):
        backups.latest_of("shop", of_day)
    file_of(vault, good).write_text("{")
    with pytest.raises(ManifestTooNew, match=newer.backup_id):
        backups.latest_of("shop", of_day)


def test_which_of_two_backfills_is_newer(backups: Backups, vault: Vault) -> None:
    of_day = a_partition(datetime(2026, 3, 1, tzinfo=UTC))
    # Both show the same moment, so that chance alone sorts their ids.
    ids = sorted(new_backup_id("shop", NOON) for _ in range(2))
    newer, older = (
        a_manifest(each, partition=of_day).model_copy(update={"started_at": NOON + hours * HOUR})
        for each, hours in zip(ids, (25, 24), strict=True)
    )
    for each in (newer, older):
        backups.commit(each)
    assert backups.latest_of("shop", of_day) == backups.latest("shop") == newer

    backups.put_receipt(a_receipt(older, PASS))
    file_of(vault, newer).write_text("{")
    with pytest.raises(ManifestDamaged, match=newer.backup_id):
        backups.latest_of("shop", of_day)
    with pytest.raises(ManifestDamaged, match=newer.backup_id):
        backups.latest("shop")


def test_the_last_source(backups: Backups, vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    vault.check_writable()
    assert backups.last_source("shop") is None
    old = committed(vault, taken_at=NOON, source=a_source("1"))
    new = committed(vault, taken_at=NOON + HOUR, source=a_source("2"))
    committed(vault, "billing", taken_at=NOON + 2 * HOUR, source=a_source("3"))

    assert backups.last_source("shop") == new.source
    file_of(vault, new).write_text("{")
    assert backups.last_source("shop") == old.source
    assert new.backup_id in caplog.text
