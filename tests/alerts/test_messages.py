"""What an alert says, and where it goes."""

from __future__ import annotations

import pytest

from dagster_resil.alerts import (
    LOG,
    Alert,
    FailedCheck,
    NotSent,
    Place,
    failed_checks_alert,
    failed_run_alert,
    places,
    send,
)
from dagster_resil.errors import ConfigurationError

FAIL = FailedCheck("contents_match", "ERROR", "FAIL", "1 of 9 tables differs: public.item")
OPEN = FailedCheck("schema_matches", "WARN", "INCONCLUSIVE", "not reached")


def alert(*checks: FailedCheck, run_id: str = "r1", backup_id: str | None = "b1") -> Alert:
    return failed_checks_alert(
        "shop/backup", "2026-03-07", checks, backup_id=backup_id, run_id=run_id
    )


def test_the_worst_check_is_in_the_title() -> None:
    found = alert(OPEN, FAIL)
    assert found.title == "FAIL: shop/backup of 2026-03-07, contents_match and 1 more"
    assert found.severity == "ERROR"
    assert "public.item" in found.body
    assert alert(OPEN).severity == "WARN"


def test_the_key_is_that_of_the_trouble() -> None:
    assert alert(FAIL, run_id="r1").key == alert(FAIL, run_id="r2").key
    assert alert(FAIL).key != alert(OPEN).key
    assert alert(FAIL, backup_id="b2").key != alert(FAIL).key
    assert alert(FAIL, backup_id=None).key.split(":")[-2] == "r1"


def test_a_long_reason_is_cut_and_the_run_is_still_named() -> None:
    found = failed_run_alert("shop_backup", None, "r1", "x" * 9000)
    assert len(found.body) < 2000
    assert found.body.endswith("run: r1")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" , \n", 0),
        ("json://a/b", 1),
        ("json://a/b, json://c/d\njson://e/f json://a/b", 3),
        ("mailto://me:secret@example.com?to=one@example.com,two@example.com", 1),
    ],
)
def test_addresses_are_told_apart(text: str, count: int) -> None:
    found = places({"RESIL_ALERT_URLS": text})
    assert found[0] is LOG
    assert len(found) == 1 + count
    assert "secret" not in repr(found)


def test_an_address_that_is_none_is_named_by_its_number() -> None:
    [_, place] = places({"RESIL_ALERT_URLS": "hunter2"})
    with pytest.raises(ConfigurationError, match="number 1") as caught:
        send(alert(FAIL), place)
    assert "hunter2" not in str(caught.value)


def test_a_service_that_is_not_there_is_said() -> None:
    place = Place("x", "number 1 of the URLs", "json://127.0.0.1:1/hunter2")
    with pytest.raises(NotSent, match="number 1") as caught:
        send(alert(FAIL), place)
    assert "hunter2" not in str(caught.value)
