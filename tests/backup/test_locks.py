"""Locks that are in the way of a backup: who has them is named, with what ends it."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import LockTimeout
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.vault.base import Vault
from tests.command import resil
from tests.conftest import Source, majors, owner_session, run_server, stock
from tests.taking import in_parts, take_backup

SHORT = in_parts(lock_timeout_s=1)


@pytest.fixture(scope="module", params=[majors()[0], majors()[-1]], ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    with run_server(stock(request.param), max_prepared_transactions="5") as found:
        yield found


@pytest.fixture
def database(source: Source) -> Iterator[Endpoint]:
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE t (a int)",
        "CREATE TABLE u (a int)",
        "CREATE TABLE p (a int) PARTITION BY LIST (a)",
        "CREATE TABLE p1 PARTITION OF p DEFAULT",
        "CREATE VIEW v AS SELECT 1 AS a",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",
        "CREATE SEQUENCE q",
        "CREATE INDEX i ON t (a)",
    )
    yield endpoint
    with owner_session(endpoint) as session:
        for (gid,) in session.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            session.execute("ROLLBACK PREPARED '" + gid.replace("'", "''") + "'")
    source.drop_all()


# A partitioned table, a view, a materialized view and a sequence are pg_dump's to lock, or to read.
LOCKS = {
    "t": "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
    "u": "ALTER TABLE u ADD COLUMN b int",
    "p": "LOCK TABLE ONLY p IN ACCESS EXCLUSIVE MODE",
    "p1": "TRUNCATE p1",
    "v": "ALTER VIEW v RENAME COLUMN a TO b",
    "m": "REFRESH MATERIALIZED VIEW m",
    "q": "ALTER SEQUENCE q RENAME TO q2",
}


def locked(database: Endpoint, statement: str, application: str = "a migration") -> Connection:
    named = {**database.parameters, "application_name": application}
    session = owner_session(replace(database, parameters=named), autocommit=False)
    session.execute(statement)
    return session


@pytest.mark.parametrize("name", LOCKS)
def test_a_prepared_transaction_is_named(database: Endpoint, vault: Vault, name: str) -> None:
    session = locked(database, LOCKS[name])
    session.execute("PREPARE TRANSACTION 'st''uck'")
    session.close()
    with pytest.raises(LockTimeout) as stopped:
        take_backup(database, vault, name="app", settings=SHORT)
    assert f"prepared transaction 'st''uck' has locked public.{name}" in stopped.value.message
    assert "ROLLBACK PREPARED 'st''uck' or COMMIT PREPARED 'st''uck'" in stopped.value.hint


@pytest.mark.parametrize("name", LOCKS)
def test_a_session_is_named(database: Endpoint, vault: Vault, name: str) -> None:
    with locked(database, LOCKS[name]) as session:
        with pytest.raises(LockTimeout) as stopped:
            take_backup(database, vault, name="app", settings=SHORT)
        pid = session.info.backend_pid
    assert stopped.value.message.count(f"process {pid} (a migration) has locked public.{name}") == 1
    assert "setting lock_timeout_s" in stopped.value.hint


def test_a_prepared_transaction_that_was_there_before_a_restart_is_named(vault: Vault) -> None:
    with run_server(stock(majors()[0]), max_prepared_transactions="5") as source:
        database = source.create()
        source.execute(database, "CREATE TABLE t (a int)")
        session = locked(database, LOCKS["t"])
        session.execute("PREPARE TRANSACTION 'stuck'")
        session.close()
        source.server.stop()
        source.server.start()
        stuck = "prepared transaction 'stuck' has locked public.t"
        with pytest.raises(LockTimeout, match=re.escape(stuck)):
            take_backup(database, vault, name="app", settings=SHORT)


def test_who_waits_for_the_lock_is_named(database: Endpoint, vault: Vault) -> None:
    """A statement that waits for a long reader keeps every later one waiting."""
    with locked(database, "SELECT * FROM t"), locked(database, "SELECT", "a waiter") as waiter:

        def wait() -> None:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                waiter.execute(LOCKS["t"])

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            with pytest.raises(
                LockTimeout, match=r"process \d+ \(a waiter\) waits to lock public.t"
            ):
                take_backup(database, vault, name="app", settings=SHORT)
        finally:
            waiter.cancel_safe(timeout=5)
            thread.join()


def test_locks_that_end_in_time_are_waited_for(database: Endpoint, vault: Vault) -> None:
    with locked(database, LOCKS["v"]) as session:
        threading.Timer(2, session.rollback).start()
        take_backup(database, vault, name="app", settings=in_parts(lock_timeout_s=30))


def test_the_command_ends_with_4(database: Endpoint, vault: Vault) -> None:
    session = locked(database, LOCKS["t"])
    session.execute("PREPARE TRANSACTION 'stuck'")
    session.close()
    words = ("--url-env", "DB", "--name", "app", "--vault", vault.url, "--lock-timeout", "1")
    said = resil("backup", *words, DB=url_of(database))
    assert said.returncode == 4
    assert "prepared transaction 'stuck' has locked public.t" in said.stderr
    assert "ROLLBACK PREPARED 'stuck'" in said.stderr
    assert "None" not in said.stderr
