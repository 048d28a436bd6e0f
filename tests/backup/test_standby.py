"""Backups of a streaming replica: as good as the primary's, or none."""

from __future__ import annotations

import contextlib
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from dagster_resil.backup.dump import source_error
from dagster_resil.backup.expectations import _explained
from dagster_resil.errors import BackupFailed
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.server import Server, hand_over, reachable_programs, server_user
from dagster_resil.process import run
from dagster_resil.records.manifest import Partition
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace
from tests.backup.test_exactness import assert_nothing_is_left, listed
from tests.conftest import Source, majors, run_server, stock
from tests.taking import in_parts, take_backup, verify_backup

ROWS = """
CREATE TABLE account (id int PRIMARY KEY, note text);
INSERT INTO account SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 20000) n;
CREATE TABLE other AS SELECT * FROM account;
CREATE SEQUENCE ticket; SELECT nextval('ticket');
SELECT lo_from_bytea(4711, 'one large object');
"""


@dataclass
class Pair:
    """A primary and its replica, which do not wait for one another's sessions."""

    primary: Source
    replica: Source

    def caught_up(self) -> None:
        with self.primary.admin() as there, self.replica.admin() as here:
            row = there.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                done = here.execute("SELECT pg_last_wal_replay_lsn() >= %s", row).fetchone()
                if done and done[0]:
                    return
                time.sleep(0.02)
        raise AssertionError("the replica does not follow")

    def create(self) -> tuple[Endpoint, Endpoint]:
        """Make a database; return the ways to it on either server."""
        endpoint = self.primary.create()
        self.primary.execute(endpoint, ROWS)
        self.caught_up()
        return endpoint, self.replica.server.endpoint(endpoint.parameters["dbname"])


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    programs = stock(majors()[0])
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(run_server(programs, max_wal_senders="4"))
        with (primary.server.data / "pg_hba.conf").open("a") as file:
            file.write("local replication all scram-sha-256\n")
        with primary.admin() as connection:
            connection.execute("SELECT pg_reload_conf()")
        space = stack.enter_context(Workspace())
        server = Server(
            reachable_programs(programs),
            space.path / "data",
            space.socket_dir,
            password=primary.server.password,
        )
        server.data.mkdir(mode=0o700)
        hand_over(server.data)
        hand_over(server.socket_dir)
        parameters = primary.server.endpoint().parameters
        copied = run(
            [
                server.programs.path("pg_basebackup"),
                f"--pgdata={server.data}",
                f"--host={parameters['host']}",
                f"--port={parameters['port']}",
                f"--username={parameters['user']}",
                *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"),
                *("--no-sync", "--no-password"),
            ],
            env={"PGPASSWORD": primary.server.password, "PATH": "/usr/bin:/bin"},
            cwd="/",
            user=server_user(),
            timeout_s=120,
        )
        assert copied.ok, copied.complaint
        with (server.data / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{server.socket_dir}'\n")
            file.write("max_standby_streaming_delay = 0\nhot_standby_feedback = off\n")
        server.start()
        stack.callback(server.stop)
        yield Pair(primary, Source(server, programs))


def test_a_replica_is_backed_up_and_proved(pair: Pair, vault: Vault) -> None:
    _, replica = pair.create()

    manifest = take_backup(replica, vault, name="replica")

    assert manifest.rows == 40_000
    # What the primary had under way at that moment a replica can not tell.
    assert manifest.snapshot.in_progress is None
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.PASS, receipt.checks
    assert_nothing_is_left(pair.replica)


def test_a_replica_that_is_behind_shows_an_earlier_moment(pair: Pair, vault: Vault) -> None:
    """And is not filed under the window that is open, if that is not what it shows."""
    primary, replica = pair.create()
    with pair.replica.admin() as standby:
        standby.execute("SELECT pg_wal_replay_pause()")
        try:
            begun = datetime.now(UTC)
            pair.primary.execute(primary, "DELETE FROM account")
            window = Partition(key="now", start=begun, end=begun + timedelta(days=1))
            until_received(pair, standby)
            with pytest.raises(BackupFailed, match="is not in partition now") as error:
                take_backup(replica, vault, name="replica", partition=window)
            assert "is a replica behind its primary?" in error.value.hint
            manifest = take_backup(replica, vault, name="replica")
        finally:
            standby.execute("SELECT pg_wal_replay_resume()")
    assert manifest.rows == 40_000
    assert manifest.snapshot.taken_at < begun


def until_received(pair: Pair, standby: Connection) -> None:
    with pair.primary.admin() as there:
        row = there.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    deadline = time.monotonic() + 20
    while not (standby.execute("SELECT pg_last_wal_receive_lsn() >= %s", row).fetchone() or [0])[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _drop(pair: Pair, primary: Endpoint) -> None:
    pair.primary.execute(primary, "DROP TABLE other")


def _vacuum(pair: Pair, primary: Endpoint) -> None:
    pair.primary.execute(primary, "DELETE FROM account WHERE id % 2 = 0", "VACUUM account")


@pytest.mark.parametrize("conflict", [_drop, _vacuum])
@pytest.mark.parametrize(
    "where",
    [
        "dagster_resil.backup.copying.CopySession.rows",
        "dagster_resil.backup.expectations.read_contents",
    ],
    ids=["copying", "comparing"],
)
def test_a_conflict_with_recovery_fails_the_backup(
    pair: Pair,
    vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
    conflict: Callable[[Pair, Endpoint], None],
    where: str,
) -> None:
    primary, replica = pair.create()
    came = threading.Event()
    real = pkgutil.resolve_name(where)

    def after_the_conflict(*words: object) -> object:
        if not came.is_set():
            came.set()
            conflict(pair, primary)
            pair.caught_up()
        return real(*words)

    monkeypatch.setattr(where, after_the_conflict)

    with pytest.raises(BackupFailed) as error:
        take_backup(replica, vault, name="replica", settings=in_parts(part_bytes=1 << 18))

    assert came.is_set()
    assert "hot_standby_feedback" in error.value.hint, error.value
    assert error.value.exit_code == 4
    assert not listed(vault)
    assert_nothing_is_left(pair.replica)


def test_any_session_that_a_conflict_ends_says_what_helps() -> None:
    """Which of them is the first to hear of it is a matter of chance."""
    words = "canceling statement due to conflict with recovery"
    compared = _explained(psycopg.errors.SerializationFailure(words), "app on replica")
    copied = source_error("psql", f"ERROR:  {words}", "replica/app")
    for error in (compared, copied):
        assert isinstance(error, BackupFailed)
        assert "hot_standby_feedback" in error.hint


def test_an_unlogged_table_of_a_replica_is_not_taken_for_empty(pair: Pair, vault: Vault) -> None:
    primary, replica = pair.create()
    pair.primary.execute(primary, "CREATE UNLOGGED TABLE u (a int)", "INSERT INTO u VALUES (1)")
    pair.caught_up()
    with pytest.raises(BackupFailed, match="unlogged"):
        take_backup(replica, vault, name="replica")
    assert not listed(vault)
