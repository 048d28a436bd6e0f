"""The snapshot that a backup shows."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from dagster_resil.backup import snapshot
from dagster_resil.backup.snapshot import hold_snapshot
from tests.conftest import Source


@pytest.mark.parametrize(
    ("earlier", "seen", "holding", "expected"),
    [
        ("10:10:", "10:10:", 0, 0),
        ("10:10:", "10:10:", 2, 2),  # they began after the last one that has ended
        ("10:12:10", "10:12:10", 1, 1),
        ("10:12:10", "12:12:", 0, 1),  # one has ended
        ("10:10:", "11:11:", 0, 1),  # one began and ended
        ("10:12:10,11", "11:14:11,13", 2, 4),
        (None, None, 0, None),  # a standby
    ],
)
def test_what_was_under_way(
    earlier: str | None, seen: str | None, holding: int, expected: int | None
) -> None:
    assert snapshot._in_progress(earlier, seen, holding) == expected


def test_what_has_just_ended_is_told(one_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery to the snapshot's time may come out before its commit."""
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE t (x int)")
    with hold_snapshot(endpoint, lock_timeout_s=5) as held:
        assert held.in_progress == 0

    def commit_something(seconds: float) -> None:
        with endpoint.connect() as connection:
            connection.execute("INSERT INTO t VALUES (1)")

    monkeypatch.setattr(
        snapshot, "time", SimpleNamespace(sleep=commit_something, monotonic=time.monotonic)
    )
    with hold_snapshot(endpoint, lock_timeout_s=5) as held:
        assert held.in_progress == 1
