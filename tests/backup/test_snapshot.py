"""The snapshot that a backup shows."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dagster_resil.backup import snapshot
from dagster_resil.backup.snapshot import hold_snapshot
from dagster_resil.cli import cli
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.vault import open_vault
from tests.conftest import Source, owner_session
from tests.taking import take_backup, verify_backup


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
        with owner_session(endpoint, autocommit=False) as connection:
            connection.execute("INSERT INTO t VALUES (1)")

    monkeypatch.setattr(
        snapshot, "time", SimpleNamespace(sleep=commit_something, monotonic=time.monotonic)
    )
    with hold_snapshot(endpoint, lock_timeout_s=5) as held:
        assert held.in_progress == 1


def test_what_is_about_to_end_is_told(one_source: Source) -> None:
    """Its commit may be timed before the snapshot, which does not show it."""
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE t (x int)")
    with owner_session(endpoint, autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        with hold_snapshot(endpoint, lock_timeout_s=5) as held:
            assert held.in_progress == 1
            assert held.taken_at.microsecond % 1000 == 0
            now = held.connection.execute("SELECT clock_timestamp()").fetchone()
            assert now is not None
            assert held.taken_at <= now[0]


def test_what_a_login_is_not_shown_is_told(one_source: Source, tmp_path: Path) -> None:
    endpoint = one_source.create()
    name = endpoint.parameters["dbname"]
    one_source.execute(
        endpoint,
        "CREATE TABLE t AS SELECT 1 AS x",
        "CREATE SUBSCRIPTION elsewhere CONNECTION 'dbname=nowhere' PUBLICATION p "
        "WITH (connect = false, slot_name = NONE, enabled = false)",
        f"CREATE ROLE reader_{name} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data",
    )
    reader = Endpoint({**endpoint.parameters, "user": f"reader_{name}"}, "x")
    vault = open_vault(tmp_path.as_uri())
    try:
        manifest = take_backup(reader, vault, name="app")
        assert len(manifest.left_out) == 1
        assert manifest.left_out[0].startswith("subscriptions (1): ")
        receipt = verify_backup(vault, manifest)
        assert manifest.left_out[0] in receipt.not_checked
        assert receipt.check("row_counts_match").summary.endswith(manifest.left_out[0])
        shown = CliRunner().invoke(cli, ["show", manifest.backup_id, "--vault", vault.url])
        assert "left out   subscriptions (1): " in shown.output
        assert take_backup(endpoint, vault, name="app").left_out == ()
    finally:
        one_source.execute(endpoint, "DROP SUBSCRIPTION elsewhere")
        one_source.execute(endpoint, f"DROP ROLE reader_{name}")
