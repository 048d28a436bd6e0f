"""A connection pooler between us and the server, PgBouncer: what it lends is left as it was."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import PoolerBetween
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.server import dies_with_us, hand_over, server_user
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.workspace import Workspace
from tests.command import resil
from tests.conftest import Source, owner_session
from tests.taking import restore_backup, take_backup, verify_backup

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

Bouncer = Callable[..., "Pooled"]


@dataclass
class Pooled:
    """A database behind PgBouncer."""

    port: int
    password: str

    def way_to(self, endpoint: Endpoint) -> Endpoint:
        parameters = {"host": "127.0.0.1", "port": str(self.port), "user": "postgres"}
        parameters |= {"dbname": endpoint.parameters["dbname"], "sslmode": "disable"}
        return Endpoint(parameters, self.password, private=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(source: Source, **settings: object) -> Iterator[Pooled]:
    assert PROGRAM
    server = source.server.endpoint()
    port = free_port()
    with Workspace() as space:
        folder = space.socket_dir
        (folder / "users").write_text(f'"postgres" "{server.password}"\n')
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
            "query_wait_timeout": 30,
            **settings,
        }
        (folder / "ini").write_text(
            "[databases]\n"
            f"* = host={server.parameters['host']} port={server.parameters['port']}\n"
            "[pgbouncer]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
        )
        for path in (folder, *folder.iterdir()):
            hand_over(path)
        user = server_user()
        with subprocess.Popen(
            [*dies_with_us("TERM"), PROGRAM, "--quiet", str(folder / "ini")],
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stderr=subprocess.DEVNULL,
        ) as child:
            try:
                deadline = time.monotonic() + 10
                while True:
                    with (
                        contextlib.suppress(OSError),
                        socket.create_connection(("127.0.0.1", port)),
                    ):
                        break
                    assert child.poll() is None, "pgbouncer has ended"
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                yield Pooled(port, server.password or "")
            finally:
                child.terminate()


@pytest.fixture
def bouncer(one_source: Source) -> Iterator[Bouncer]:
    if PROGRAM is None:
        pytest.skip("pgbouncer is not on this machine: UNTESTED with it")
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(one_source, **settings))


@pytest.fixture
def database(one_source: Source) -> Endpoint:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
        "CREATE TABLE orders (a int)",
    )
    return endpoint


def application(way: Endpoint, count: int) -> list[Connection]:
    """Open connections as an application has them, each of which has worked once."""
    sessions = [owner_session(way) for _ in range(count)]
    for session in sessions:
        session.prepare_threshold = None
    for session in sessions:
        session.execute("BEGIN")
        session.execute("SELECT")
    for session in sessions:
        session.execute("COMMIT")
    return sessions


SHARING: dict[str, dict[str, object]] = {
    "the last one first": {"pool_mode": "transaction"},
    "in turn": {"pool_mode": "transaction", "server_round_robin": 1},
    "one for all": {"pool_mode": "transaction", "default_pool_size": 1},
    "two in turn": {"pool_mode": "transaction", "server_round_robin": 1, "default_pool_size": 2},
}


@pytest.mark.parametrize("which", SHARING)
def test_a_pool_in_transaction_mode_is_named_and_left_as_it_was(
    bouncer: Bouncer, database: Endpoint, vault: Vault, which: str
) -> None:
    pooled = bouncer(**SHARING[which])
    way = pooled.way_to(database)
    size = int(str(SHARING[which].get("default_pool_size", 3)))
    sessions = application(way, size)
    shown = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name <> 'application_name'"
    before = [sorted(session.execute(shown).fetchall()) for session in sessions]

    with pytest.raises(
        PoolerBetween, match=f"127.0.0.1:{pooled.port}/.* in transaction mode"
    ) as no:
        take_backup(way, vault, name="app")
    assert "pool_mode = session" in no.value.hint

    for _ in range(12):
        for session in sessions:
            assert session.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    assert [sorted(session.execute(shown).fetchall()) for session in sessions] == before
    for session in sessions:
        session.close()


def test_a_busy_pool_in_transaction_mode_is_named(
    bouncer: Bouncer, database: Endpoint, vault: Vault
) -> None:
    way = bouncer(pool_mode="transaction", default_pool_size=3).way_to(database)
    first, second = application(way, 2)
    first.execute("BEGIN")  # and stays there
    second.execute("BEGIN")
    with pytest.raises(PoolerBetween):
        take_backup(way, vault, name="app")
    for session in (first, second):
        session.execute("COMMIT")
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (0,)
        session.close()


def test_a_pool_in_statement_mode_is_named(
    bouncer: Bouncer, database: Endpoint, vault: Vault
) -> None:
    way = bouncer(pool_mode="statement").way_to(database)
    with pytest.raises(PoolerBetween):
        take_backup(way, vault, name="app")
    with owner_session(way) as session:
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (0,)


def test_the_commands_end_with_4(
    bouncer: Bouncer, database: Endpoint, one_source: Source, vault: Vault
) -> None:
    take_backup(database, vault, name="app")
    pooled = bouncer(pool_mode="transaction")
    env = {
        "DB": url_of(pooled.way_to(database)),
        "TO": url_of(pooled.way_to(one_source.create())),
        "RESIL_VAULT": vault.url,
    }
    for words in (
        ("backup", "--url-env", "DB", "--name", "other"),
        ("prove", "--url-env", "DB"),
        ("restore", "latest", "--name", "app", "--to-env", "TO"),
    ):
        said = resil(*words, "--json", **env)
        assert said.returncode == 4, words
        error = json.loads(said.stdout)["error"]
        assert f"127.0.0.1:{pooled.port}/" in error["message"], words
        assert "PgBouncer" in error["message"]
        assert "session mode" in error["hint"]
    said = resil("check", "--url-env", "DB", **env)
    assert said.returncode == 4
    assert "in transaction mode" in said.stdout


def test_a_pool_in_session_mode_works(
    bouncer: Bouncer, database: Endpoint, one_source: Source, vault: Vault
) -> None:
    pooled = bouncer(pool_mode="session")
    manifest = take_backup(pooled.way_to(database), vault, name="app")
    assert verify_backup(vault, manifest).verdict is Verdict.PASS
    report = restore_backup(vault, manifest, pooled.way_to(one_source.create()))
    assert report.verdict is Verdict.PASS


def test_a_pool_in_session_mode_that_is_used_up_is_not_taken_for_another(
    bouncer: Bouncer, database: Endpoint
) -> None:
    way = bouncer(pool_mode="session", default_pool_size=1).way_to(database)
    with way.connect(autocommit=True) as connection:
        path = connection.execute("SELECT pg_catalog.current_setting('search_path')").fetchone()
        assert path == ("",)


def test_without_a_pooler_a_connection_costs_one_round_trip(database: Endpoint) -> None:
    with database.connect(autocommit=True) as connection:
        named = replace(database, parameters={**database.parameters, "application_name": "seen"})
        with named.connect(autocommit=True):
            seen = connection.execute(
                "SELECT count(*), min(query) FROM pg_stat_activity WHERE application_name = 'seen'"
            ).fetchone()
    assert seen is not None
    assert seen[0] == 1, "a second connection"
    assert "set_config" in seen[1], "another statement after it"


def test_what_a_session_is_told_at_its_start_comes_after_what_the_address_says(
    database: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=7MB")
    reached = replace(
        database,
        parameters={key: value for key, value in database.parameters.items() if key != "options"},
        private=False,
    )
    with reached.connect(autocommit=True) as connection:
        told = reached.with_settings(connection, {"lc_monetary": "C", "resil.x": "a b\\c"})
    with told.connect(autocommit=True) as connection:
        found = connection.execute(
            "SELECT current_setting('work_mem'), current_setting('resil.x')"
        ).fetchone()
    assert found == ("7MB", "a b\\c")
