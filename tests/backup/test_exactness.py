"""Exactness comes from the snapshot: writers, races and dying parts make no false backup."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_resil.backup.expectations import ExpectationReader
from dagster_resil.backup.snapshot import hold_snapshot
from dagster_resil.errors import BackupFailed, LockTimeout, NoVault, ResilError, SnapshotLost
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.inventory import read_sequences
from dagster_resil.postgres.programs import find_all
from dagster_resil.postgres.scratch import sweep
from dagster_resil.records.inventory import SequenceValue
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.vault.listing import Entry
from tests.conftest import Source, majors, owner_session, run_server
from tests.taking import in_parts, take_backup, verify_backup

ROWS = """
CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL, note text);
INSERT INTO account SELECT n, 100, repeat(md5(n::text), 8) FROM generate_series(1, 60000) n;
CREATE TABLE log (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), what text);
CREATE SEQUENCE busy;
"""


def listed(vault: Vault) -> tuple[Entry, ...]:
    with contextlib.suppress(NoVault):
        return Backups(vault).entries().backups
    return ()


def _write(endpoint: Endpoint, stop: threading.Event) -> int:
    done = 0
    with owner_session(endpoint) as connection:
        while not stop.is_set():
            connection.execute(
                "WITH moved AS (UPDATE account SET amount = amount + CASE WHEN id = %s THEN 1 "
                "ELSE -1 END WHERE id IN (%s, %s) RETURNING id) "
                "INSERT INTO log (what) SELECT id::text FROM moved",
                [done % 60000, done % 60000, (done * 7) % 60000],
            )
            connection.execute("SELECT nextval('busy')")
            connection.execute("DELETE FROM account WHERE id = %s", [60000 - done % 1000])
            connection.execute(
                "INSERT INTO account VALUES (%s, 1, 'new') ON CONFLICT DO NOTHING",
                [60000 - done % 1000],
            )
            done += 1
    return done


@pytest.mark.every_version
def test_writers_do_not_disturb_a_backup(source: Source, vault: Vault) -> None:
    endpoint = source.create()
    source.execute(endpoint, ROWS)
    stop = threading.Event()
    written: list[int] = []
    writers = [
        threading.Thread(target=lambda: written.append(_write(endpoint, stop))) for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    try:
        manifests = [take_backup(endpoint, vault, name="busy") for _ in range(2)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert sum(written) > 0
    for manifest in manifests:
        receipt = verify_backup(vault, manifest)
        assert receipt.verdict is Verdict.PASS, receipt.checks


def _sessions(source: Source) -> list[str]:
    with source.admin() as connection:
        return [
            row[0]
            for row in connection.execute(
                "SELECT application_name FROM pg_stat_activity WHERE backend_type = "
                "'client backend' AND (application_name LIKE 'dagster_resil %' "
                "OR application_name = 'pg_dump')"
            )
        ]


def assert_nothing_is_left(source: Source) -> None:
    deadline = time.monotonic() + 20
    while _sessions(source):
        assert time.monotonic() < deadline, _sessions(source)
        time.sleep(0.1)


@pytest.mark.parametrize(
    "race",
    ["TRUNCATE account", "ALTER TABLE account ALTER amount TYPE bigint", "DROP TABLE log"],
)
def test_a_race_between_snapshot_and_lock_is_noticed(
    one_source: Source, vault: Vault, race: str
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)
    raced: list[int] = []

    def between() -> None:
        if not raced:
            one_source.execute(endpoint, race)
        raced.append(1)

    manifest = take_backup(endpoint, vault, name="raced", between=between)

    assert len(raced) == 2, "a second snapshot was not taken"
    assert verify_backup(vault, manifest).verdict is Verdict.PASS
    accounts = next(t for t in manifest.tables if t.name == "account")
    assert accounts.rows == (0 if race.startswith("TRUNCATE") else 60000)


_RENAMED = "ALTER TYPE mood RENAME TO temper"
_TEMPORARY = "CREATE TEMP TABLE passing (a int)"


@pytest.mark.parametrize(("statement", "attempts"), [(_RENAMED, 2), (_TEMPORARY, 1)])
def test_a_definition_that_changes_while_the_backup_runs_is_noticed(
    source: Source, vault: Vault, monkeypatch: pytest.MonkeyPatch, statement: str, attempts: int
) -> None:
    endpoint = source.create()
    source.execute(endpoint, ROWS, "CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE m (m mood)")
    looks: list[int] = []

    def read(connection: Connection) -> list[SequenceValue]:
        looks.append(1)
        if len(looks) == 2:  # both dumps are over
            source.execute(endpoint, statement)
        return read_sequences(connection)

    monkeypatch.setattr("dagster_resil.backup.reading.read_sequences", read)
    manifest = take_backup(endpoint, vault, name="app")
    assert len(looks) == 2 * attempts
    assert verify_backup(vault, manifest).verdict is Verdict.PASS


def test_a_schema_that_never_rests_fails_clearly(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)

    with pytest.raises(BackupFailed, match="truncated or rewritten") as error:
        take_backup(
            endpoint,
            vault,
            name="raced",
            settings=in_parts(attempts=2),
            between=lambda: one_source.execute(endpoint, "TRUNCATE account"),
        )
    assert "attempts" in error.value.hint
    assert not listed(vault)
    assert_nothing_is_left(one_source)


def _when_dumping(
    source: Source, act: Callable[[], None], beside: str = "pg_dump"
) -> threading.Thread:
    """Run something as soon as pg_dump's workers read, and another session is there too."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not {"pg_dump", beside} <= set(_sessions(source)):
            if time.monotonic() > deadline:
                return
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _terminate(source: Source, application: str) -> None:
    with source.admin() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            [application],
        )


@pytest.mark.parametrize("victim", ["dagster_resil snapshot", "pg_dump", "dagster_resil compare"])
def test_a_killed_session_fails_the_backup(one_source: Source, vault: Vault, victim: str) -> None:
    endpoint = one_source.create()
    # Each session has work for longer than it takes to find it.
    rows = "CREATE TABLE bulk AS SELECT n FROM generate_series(1, 1500000) n"
    functions = (
        "DO $$ BEGIN FOR n IN 1..1000 LOOP EXECUTE 'CREATE FUNCTION f' || n || '() RETURNS int "
        "LANGUAGE sql AS ''SELECT 1'''; END LOOP; END $$"
    )
    one_source.execute(endpoint, ROWS, rows, functions)
    killer = _when_dumping(one_source, lambda: _terminate(one_source, victim), victim)
    with pytest.raises(ResilError) as error:
        take_backup(endpoint, vault, name="killed")
    killer.join()

    assert error.value.exit_code == 4
    if victim == "dagster_resil snapshot":
        assert isinstance(error.value, SnapshotLost)
    assert not listed(vault)
    assert_nothing_is_left(one_source)
    assert verify_backup(vault, take_backup(endpoint, vault, name="killed")).verdict == "PASS"


def _kill_process(name: str, endpoint: Endpoint) -> None:
    """SIGKILL every process of that name that reads the database."""
    database = endpoint.parameters["dbname"].encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if words.split(b"\0", 1)[0].endswith(name.encode()) and database in words:
            os.kill(int(entry.name), signal.SIGKILL)


def test_a_killed_pg_dump_fails_the_backup(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)
    killer = _when_dumping(one_source, lambda: _kill_process("pg_dump", endpoint))
    with pytest.raises(BackupFailed, match="SIGKILL"):
        take_backup(endpoint, vault, name="killed")
    killer.join()
    assert not listed(vault)
    assert_nothing_is_left(one_source)


def test_a_migration_that_waits_fails_the_backup_instead_of_standing_still(
    one_source: Source, vault: Vault
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)
    migrations: list[threading.Thread] = []

    def migrate() -> None:
        thread = threading.Thread(
            target=lambda: one_source.execute(endpoint, "ALTER TABLE account ADD extra int")
        )
        thread.start()
        migrations.append(thread)
        time.sleep(0.3)  # until it stands in the queue behind our lock

    begun = time.monotonic()
    with hold_snapshot(endpoint, lock_timeout_s=60) as snapshot:
        migrate()
        with (
            pytest.raises(LockTimeout, match="could not be locked"),
            ExpectationReader(snapshot, form="identity", sessions=2) as reader,
        ):
            reader.wait(lambda: None)
    for thread in migrations:
        thread.join()
    assert time.monotonic() - begun < 30
    assert verify_backup(vault, take_backup(endpoint, vault, name="after")).verdict == "PASS"


def test_a_dying_server_fails_the_backup(vault: Vault) -> None:
    programs = next(p for p in find_all() if p.has_server and p.major == majors()[0])
    with run_server(programs) as source:
        endpoint = source.create()
        source.execute(endpoint, ROWS)
        child = source.server._child
        assert child is not None
        killer = _when_dumping(source, lambda: os.kill(child.pid, signal.SIGQUIT))
        with pytest.raises(ResilError) as error:
            take_backup(endpoint, vault, name="killed")
        killer.join()
    assert error.value.exit_code == 4
    assert not listed(vault)


_WORKER = """
import os, sys
from dagster_resil.backup.expectations import ExpectationReader
from dagster_resil.backup.snapshot import hold_snapshot
from dagster_resil.backup.take import take_backup
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.inventory import SequenceValue, read_sequences
from dagster_resil.vault import open_vault
from dagster_resil.verify.prove import verify_backup
vault = open_vault(sys.argv[1])
print("ready", flush=True)
manifest = take_backup(Endpoint.parse(os.environ["SOURCE_URL"]), vault, name="killed")
print("taken", flush=True)
verify_backup(vault, manifest)
print("verified", flush=True)
"""


def _leftover_processes(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


_SPREAD = [0.0, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0]
_DENSE = [pytest.param(n * 0.05, marks=pytest.mark.long) for n in range(1, 80)]


@pytest.mark.parametrize("after_s", [*_SPREAD, *_DENSE])
def test_sigkill_of_the_worker_leaves_no_listed_half(
    one_source: Source, tmp_path: Path, after_s: float
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, ROWS)
    vault_url = (tmp_path / "vault").as_uri()
    work_dir = Path("/tmp") / f"resil-test-{os.getpid()}-{int(after_s * 1000)}"
    work_dir.mkdir(mode=0o711, exist_ok=True)
    parameters = endpoint.parameters
    url = (
        f"postgresql://{parameters['user']}:{endpoint.password}@/{parameters['dbname']}"
        f"?host={parameters['host']}&port={parameters['port']}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER, vault_url],
        env={**os.environ, "SOURCE_URL": url, "RESIL_WORK_DIR": str(work_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        time.sleep(after_s)
        worker.kill()
        said = worker.stdout.read()
    assert_nothing_is_left(one_source)

    from dagster_resil.vault import open_vault

    vault = open_vault(vault_url)
    if (tmp_path / "vault").exists():
        listed = Backups(vault).entries()
        assert not listed.problems
        assert len(listed.backups) <= 1
        if "taken" in said:
            assert len(listed.backups) == 1

    settings = in_parts(work_dir=work_dir)
    manifest = take_backup(endpoint, vault, name="killed", settings=settings)
    assert manifest.rows == 60000
    sweep(work_dir)
    left = list((work_dir / f"resil-{os.geteuid()}").glob("job-*"))
    assert not left
    deadline = time.monotonic() + 10
    while _leftover_processes(work_dir):
        assert time.monotonic() < deadline, _leftover_processes(work_dir)
        time.sleep(0.1)
    shutil.rmtree(work_dir)
