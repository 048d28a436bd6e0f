"""Whatever dies, and whenever: what is listed is whole, and nothing is left behind.

RESIL_TRIALS sets the number of trials of the long test, RESIL_SEED the first seed; a failure names
the seed that repeats it: RESIL_TRIALS=1 RESIL_SEED=4711 make test-long PYTEST_ARGS="-k killed".
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from dagster_resil.demo.laptop import url_of
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.scratch import sweep
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.local import LocalVault
from dagster_resil.verify.prove import VerifySettings
from tests.backup.test_exactness import assert_nothing_is_left
from tests.conftest import Source, majors, run_server, stock
from tests.taking import in_parts, take_backup, verify_backup

TRIALS = int(os.environ.get("RESIL_TRIALS", "200"))
FIRST_SEED = int(os.environ.get("RESIL_SEED", "1000"))
ROWS = 20_000
PART_BYTES = 1 << 19
SMALL_TABLES = 40
"""These are left to pg_dump, and written several together."""
ALL_ROWS = 2 * ROWS + SMALL_TABLES * (SMALL_TABLES + 1) // 2

SCHEMA = f"""
CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL, note text);
INSERT INTO account SELECT n, 100, repeat(md5(n::text), 8) FROM generate_series(1, {ROWS}) n;
CREATE TABLE entry (id bigserial PRIMARY KEY, account int REFERENCES account, what jsonb);
INSERT INTO entry (account, what) SELECT n, jsonb_build_object('n', md5(n::text))
  FROM generate_series(1, {ROWS}) n;
CREATE TABLE empty (a int);
SELECT lo_from_bytea(0, decode(repeat('ab', 300000), 'hex'));
DO $$ BEGIN FOR n IN 1..{SMALL_TABLES} LOOP
    EXECUTE format('CREATE TABLE small_%s AS SELECT n, md5(n::text) FROM generate_series(1, %s) n', n, n);
END LOOP; END $$;
"""

WORKER = f"""
import os, sys
from dagster_resil.backup import settings, take
from dagster_resil.errors import ResilError, VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.vault.local import LocalVault
from dagster_resil.verify import prove
from pathlib import Path

class Vault(LocalVault):
    calls = 0
    def fail(self):
        Vault.calls += 1
        first, kind = os.environ.get("FAILS", "0 never").split()
        if kind == "once" and Vault.calls == int(first):
            raise VaultError("the vault failed, as told", transient=True)
        if kind == "for-good" and Vault.calls >= int(first):
            raise VaultError("the vault is broken, as told")
        if kind == "away" and Vault.calls >= int(first):
            raise VaultError("the vault is away, as told", transient=True)
    def broken(self, chunks):
        for number, chunk in enumerate(chunks):
            if number == 1:
                self.fail()
            yield chunk
        self.fail()
    def put(self, name, chunks):
        return super().put(name, self.broken(chunks))
    def put_many(self, items):
        return super().put_many((name, self.broken(chunks)) for name, chunks in items)
    def open(self, name):
        self.fail()
        return super().open(name)

vault = Vault(Path(sys.argv[1]))
print("ready", flush=True)
try:
    manifest = take.take_backup(Endpoint.parse(os.environ["SOURCE_URL"]), vault, name="killed",
        settings=settings.BackupSettings(part_bytes={PART_BYTES}, small_table_bytes=100_000))
except ResilError as error:
    print("not taken", error.exit_code, error.message.replace("\\n", " "), flush=True)
    sys.exit(0)
print("taken", manifest.backup_id, flush=True)
try:
    receipt = prove.verify_backup(vault, manifest, settings=prove.VerifySettings(streamed_bytes=0))
except VaultError as error:
    print("no receipt", error.message, flush=True)
    sys.exit(0)
said = [check.summary for check in receipt.checks if check.verdict != "PASS"]
print("verified", receipt.verdict, said, flush=True)
"""


@dataclass
class Own:
    """A server that may be killed, and how long a backup of it takes here, and a proof."""

    source: Source
    endpoint: Endpoint
    takes_s: float = 0
    proves_s: float = 0

    @property
    def database(self) -> str:
        return self.endpoint.parameters["dbname"]

    def start(self, vault: Path, work_dir: Path, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(vault)],
            env={
                **os.environ,
                "SOURCE_URL": url_of(self.endpoint),
                "RESIL_WORK_DIR": str(work_dir),
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@dataclass
class Trial:
    """One worker that takes and proves a backup, and what happens to it."""

    own: Own
    folder: Path
    work_dir: Path
    chance: random.Random
    worker: subprocess.Popen[str]

    @property
    def vault(self) -> Path:
        return self.folder / "vault"

    def pause(self, at_most_s: float) -> None:
        time.sleep(self.chance.uniform(0, at_most_s))

    def line(self) -> str:
        assert self.worker.stdout is not None
        return self.worker.stdout.readline().strip()

    def processes(self, program: str, mark: str) -> list[int]:
        """Return the processes of a program whose arguments hold a mark."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if words.split(b"\0", 1)[0].endswith(program.encode()) and mark.encode() in words:
                    found.append(int(entry.name))
        return sorted(found)

    def kill_one(self, program: str, mark: str) -> None:
        """SIGKILL one of a program's processes as soon as there are any, or a while later."""
        deadline = time.monotonic() + 10
        while not self.processes(program, mark):
            if self.worker.poll() is not None or time.monotonic() > deadline:
                return
            time.sleep(0.002)
        self.pause(self.chance.choice((0, self.own.takes_s * 0.7)))
        if there := self.processes(program, mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(there), signal.SIGKILL)

    def end_session(self, application: str) -> None:
        with self.own.source.admin() as connection:
            deadline = time.monotonic() + 10
            later_s = self.chance.choice((0, self.chance.uniform(0, self.own.takes_s * 0.7)))
            while self.worker.poll() is None and time.monotonic() < deadline:
                pids = [
                    row[0]
                    for row in connection.execute(
                        "SELECT pid FROM pg_stat_activity WHERE application_name = %s "
                        "AND datname = %s",
                        [application, self.own.database],
                    )
                ]
                if pids and later_s <= 0:
                    connection.execute(
                        "SELECT pg_terminate_backend(%s)", [self.chance.choice(pids)]
                    )
                    return
                time.sleep(0.005)
                if pids:
                    later_s -= 0.005

    def restart_the_source(self) -> None:
        self.own.source.server.stop()  # immediately: it recovers when it starts
        self.own.source.server.start()

    def hide_the_vault(self) -> None:
        with contextlib.suppress(OSError):
            self.vault.rename(self.folder / "away")

    def find_the_vault(self) -> None:
        if (self.folder / "away").exists():
            # Whatever was written to the place meanwhile belongs to no vault of anybody's.
            shutil.rmtree(self.vault, ignore_errors=True)
            (self.folder / "away").rename(self.vault)


def _worker(trial: Trial) -> None:
    trial.pause(trial.own.takes_s + trial.own.proves_s)
    trial.worker.kill()


def _worker_taking(trial: Trial) -> None:
    trial.pause(trial.own.takes_s)
    trial.worker.kill()


def _child(program: str) -> Callable[[Trial], None]:
    return lambda trial: trial.kill_one(program, trial.own.database)


def _session(application: str) -> Callable[[Trial], None]:
    return lambda trial: trial.end_session(application)


def _source(trial: Trial) -> None:
    trial.pause(trial.own.takes_s)
    trial.restart_the_source()


def _vault_hidden(trial: Trial) -> None:
    trial.pause(trial.own.takes_s + trial.own.proves_s)
    trial.hide_the_vault()


def _nothing(trial: Trial) -> None:
    """Leave it to the vault, which fails by itself."""


def _scratch_server(trial: Trial) -> None:
    trial.line()
    trial.pause(trial.own.proves_s)
    trial.kill_one("postgres", str(trial.work_dir))


def _pg_restore(trial: Trial) -> None:
    trial.kill_one("pg_restore", str(trial.work_dir))


# Name → what dies, and how the vault fails in the worker.
VICTIMS: dict[str, tuple[Callable[[Trial], None], str]] = {
    "worker": (_worker, ""),
    "worker, taking": (_worker_taking, ""),
    "psql": (_child("psql"), ""),
    "pg_dump": (_child("pg_dump"), ""),
    "session that holds": (_session("dagster_resil snapshot"), ""),
    "session that copies": (_session("dagster_resil copy"), ""),
    "session that compares": (_session("dagster_resil compare"), ""),
    "session that dumps": (_session("pg_dump"), ""),
    "source": (_source, ""),
    "vault hidden": (_vault_hidden, ""),
    "vault, once": (_nothing, "once"),
    "vault, away": (_nothing, "away"),
    "vault, for good": (_nothing, "for-good"),
    "vault full": (_nothing, "full"),
    "scratch server": (_scratch_server, ""),
    "pg_restore": (_pg_restore, ""),
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    with run_server(stock(majors()[0])) as source:
        endpoint = source.create()
        source.execute(endpoint, SCHEMA)
        found = Own(source, endpoint)
        with work_folder() as work_dir:
            worker = found.start(tmp_path_factory.mktemp("first") / "vault", work_dir)
            with worker:
                times = []
                for begins in ("ready", "taken", "verified PASS"):
                    assert worker.stdout is not None
                    assert worker.stdout.readline().startswith(begins)
                    times.append(time.monotonic())
        found.takes_s, found.proves_s = times[1] - times[0], times[2] - times[1]
        yield found


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Make a folder for workers, one that the servers' user can walk into."""
    folder = Path("/tmp") / f"resil-test-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    """Put a small file system at a folder, where we may; say whether it is there."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


def _run(seed: int, own: Own, tmp_path: Path) -> str:
    chance = random.Random(seed)
    victim = sorted(VICTIMS)[seed % len(VICTIMS)]
    act, fails = VICTIMS[victim]
    with contextlib.ExitStack() as stack:
        work_dir = stack.enter_context(work_folder())
        if fails == "full":
            size = chance.randrange(200_000, 3_000_000)
            if not stack.enter_context(_small_disk(tmp_path / "vault", size)):
                fails = "for-good"
        how = f"{chance.randrange(1, 110)} {fails}" if fails in ("once", "away", "for-good") else ""
        failing = {"FAILS": how} if how else {}
        worker = stack.enter_context(own.start(tmp_path / "vault", work_dir, **failing))
        stack.callback(worker.kill)
        trial = Trial(own, tmp_path, work_dir, chance, worker)
        assert trial.line() == "ready"
        act(trial)
        said, complaint = worker.communicate(timeout=120)
        assert worker.returncode in (0, -signal.SIGKILL), complaint
        trial.find_the_vault()
        # What proves may not be able to; a good backup is never called a bad one.
        assert "verified FAIL" not in said, said
        if "not taken" in said:
            assert "not taken 4" in said, said

        assert_nothing_is_left(own.source)
        sweep(work_dir)
        assert not list((work_dir / f"resil-{os.geteuid()}").glob("job-*"))
        deadline = time.monotonic() + 15
        while left := trial.processes("", str(work_dir)):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

        vault = LocalVault(tmp_path / "vault")
        if vault.path.exists():
            listed = Backups(vault).entries()
            assert not listed.problems
            assert len(listed.backups) <= 1
            if "taken killed-" in said and fails != "full":
                assert len(listed.backups) == 1
            for entry in listed.backups:
                proof = verify_backup(
                    vault, entry.manifest, settings=VerifySettings(work_dir=work_dir)
                )
                assert proof.verdict is Verdict.PASS or fails == "full", proof.checks
                assert proof.verdict is not Verdict.FAIL, proof.checks
        if fails != "full":
            again = take_backup(
                own.endpoint, vault, name="killed", settings=in_parts(work_dir=work_dir)
            )
            assert again.rows == ALL_ROWS
            assert Backups(vault).latest("killed").backup_id == again.backup_id
        return f"{victim}: {said.strip()}"


def _trial(seed: int, own: Own, tmp_path: Path) -> None:
    try:
        outcome = _run(seed, own, tmp_path)
    except (AssertionError, psycopg.Error, subprocess.TimeoutExpired) as error:
        victim = sorted(VICTIMS)[seed % len(VICTIMS)]
        raise AssertionError(f"RESIL_SEED={seed} ({victim}): {error}") from error
    sys.stdout.write(f"{seed} {outcome}\n")  # shown with -rA


pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for victims in /proc")


@pytest.mark.parametrize("seed", range(len(VICTIMS)))
def test_what_is_listed_is_whole_whatever_is_killed(seed: int, own: Own, tmp_path: Path) -> None:
    """One trial a victim."""
    _trial(seed, own, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + TRIALS))
def test_what_is_listed_is_whole_whatever_is_killed_at_any_time(
    seed: int, own: Own, tmp_path: Path
) -> None:
    _trial(seed, own, tmp_path)
