"""The command line as a user meets it: exit codes, messages, JSON, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_resil.demo.damage import LocalBackup, change_one_value
from dagster_resil.demo.laptop import url_of
from dagster_resil.postgres.connection import Endpoint, _connection_hint
from dagster_resil.postgres.programs import find_all
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups
from tests.conftest import Source, majors, owner_session

SECRET = "correct horse battery".replace(" ", "-")


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs ``resil`` as a child, with a work folder and a vault of its own."""

    def __init__(self, folder: Path, work_dir: Path) -> None:
        self.folder = folder
        self.work_dir = work_dir
        self.vault = folder / "vault"
        self.env = {
            **os.environ,
            "RESIL_WORK_DIR": str(work_dir),
            "RESIL_VAULT": self.vault.as_uri(),
            "HOME": str(folder),
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dagster_resil.cli", *words],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def __call__(self, *words: str, **env: str) -> Said:
        with self.start(*words, **env) as child:
            out, err = child.communicate(timeout=120)
            return Said(child.returncode, out, err)

    def leftovers(self) -> list[str]:
        """Return what a command should not have left: files and processes."""
        root = self.work_dir / f"resil-{os.geteuid()}"
        found = [str(path) for path in root.glob("*") if not path.name.startswith("programs-")]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.work_dir) in command:
                found.append(command)
        return found

    def listed(self) -> list[str]:
        if not self.vault.exists():
            return []
        listing = Backups(open_vault(self.vault.as_uri())).entries()
        return [entry.manifest.backup_id for entry in listing.backups]


@pytest.fixture
def resil(tmp_path: Path) -> Iterator[Cli]:
    # Not below tmp_path, which the servers' user can't walk into when the tests run as root.
    work_dir = Path("/var/tmp") / f"resil-cli-{os.getpid()}-{time.monotonic_ns()}"
    work_dir.mkdir(mode=0o711)
    cli = Cli(tmp_path, work_dir)
    yield cli
    deadline = time.monotonic() + 10
    while cli.leftovers() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = cli.leftovers()
    shutil.rmtree(work_dir)
    assert not left


@pytest.fixture
def database(one_source: Source) -> Endpoint:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 300) n",
        "CREATE TABLE other (id serial, t text)",
    )
    return endpoint


def login(source: Source, database: Endpoint, name: str, *grants: str) -> Endpoint:
    """Make an ordinary login, and return its way to the database."""
    with source.admin() as connection:
        connection.execute(f"DROP ROLE IF EXISTS {name}")
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    source.execute(database, *grants)
    return Endpoint({**database.parameters, "user": name}, SECRET)


def assert_clean_failure(said: Said, code: int, *words: str) -> None:
    assert said.code == code, said
    text = said.err
    for word in words:
        assert word in text, text
    assert "hint:" in text
    assert "Traceback" not in text


# --- what works -------------------------------------------------------------------------------


def test_prove_says_pass(resil: Cli, database: Endpoint) -> None:
    said = resil("prove", "--url-env", "DB", "--json", DB=url_of(database))
    assert said.code == 0, said.err
    found = said.json
    assert found["verdict"] == "PASS"
    assert found["rows"] == 300
    assert {"backup_id", "database", "verdict", "checks", "seconds", "rows", "bytes"} <= set(found)
    assert {"restore", "compare", "total"} <= set(found["seconds"])
    assert all({"name", "verdict", "summary"} <= set(check) for check in found["checks"])
    assert not resil.vault.exists(), "it has a vault of its own"


def test_the_whole_road(resil: Cli, database: Endpoint, one_source: Source) -> None:
    url = url_of(database)
    taken = resil("backup", "--url-env", "DB", "--name", "app", "--json", DB=url)
    assert taken.code == 0, taken.err
    backup_id = taken.json["backup_id"]
    assert taken.json["rows"] == 300

    listed = resil("list", "--json")
    [entry] = listed.json["backups"]
    assert entry["backup_id"] == backup_id
    assert entry["verdict"] is None
    assert {"database", "taken_at", "bytes", "rows"} <= set(entry)

    verified = resil("verify", "--json")
    assert (verified.code, verified.json["verdict"]) == (0, "PASS")
    assert resil("list", "--json").json["backups"][0]["verdict"] == "PASS"
    assert "PASS" in resil("list").out
    shown = resil("show", backup_id, "--json").json
    assert [receipt["verdict"] for receipt in shown["receipts"]] == ["PASS"]
    assert "public.item" in resil("show", backup_id).out

    target = one_source.create()
    restored = resil("restore", "--to-env", "TO", "--json", TO=url_of(target))
    assert restored.code == 0, restored.err
    assert restored.json["verdict"] == "PASS"
    with owner_session(target, autocommit=False) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (300,)

    again = resil("restore", "--to-env", "TO", TO=url_of(target))
    assert_clean_failure(again, 2, "is not empty", "public.item")
    name = target.parameters["dbname"]
    wrong = resil("restore", "--to-env", "TO", "--replace", "other", TO=url_of(target))
    assert_clean_failure(wrong, 2, "was named 'other'")
    right = resil("restore", "--to-env", "TO", "--replace", name, TO=url_of(target))
    assert right.code == 0, right.err
    itself = resil("restore", "--to-env", "TO", "--replace", name, TO=url)
    assert_clean_failure(itself, 2, "the target is the source itself")


def test_a_fail_is_exit_code_1(resil: Cli, database: Endpoint) -> None:
    taken = resil("backup", "--url-env", "DB", "--name", "app", DB=url_of(database))
    manifest = Backups(open_vault(resil.vault.as_uri())).load(taken.out.strip())
    change_one_value(LocalBackup(resil.vault, manifest), "public", "item", b"item 7\n", b"item 8\n")
    said = resil("verify")
    assert said.code == 1
    assert "public.item: contents differ" in said.out
    assert resil("verify", "--json").json["verdict"] == "FAIL"
    refused = resil("restore", "--to-env", "TO", TO=url_of(database))
    assert_clean_failure(refused, 2, "proved")
    named = resil("restore", manifest.backup_id, "--to-env", "TO", TO=url_of(database))
    assert_clean_failure(named, 2, "said FAIL")


def test_check_says_what_is_there(resil: Cli, database: Endpoint) -> None:
    said = resil("check", "--url-env", "DB", "--vault", resil.vault.as_uri(), DB=url_of(database))
    assert said.code == 0, said.out + said.err
    for words in ("pg_dump", "may read all 2 tables", "scratch server", "can be written"):
        assert words in said.out
    assert resil("check", "--json").json["ready"] is True


def test_every_command_is_documented() -> None:
    from dagster_resil.cli import cli

    readme = Path(__file__).parent.parent.joinpath("README.md").read_text()
    for name in cli.commands:
        assert f"resil {name}" in readme, name


def test_every_command_has_a_help_text_and_json(resil: Cli) -> None:
    from dagster_resil.cli import cli

    for command in cli.commands.values():
        assert command.help
        assert "--json" in [option for p in command.params for option in p.opts]


# --- bad input --------------------------------------------------------------------------------


BAD_ADDRESSES: dict[str, tuple[str, int, str]] = {
    "no such host": ("postgresql://nobody@no-such-host.invalid/x", 4, "no-such-host.invalid"),
    "nobody listens": ("postgresql://nobody@127.0.0.1:1/x", 4, "127.0.0.1:1"),
    "unknown scheme": ("mysql://root@localhost/x", 2, "mysql"),
    "no address": ("just words", 2, "neither a URL"),
    "bad port": ("postgresql://u:topsecret@host:notaport/x", 2, "port is no number"),
    "slash in the password": ("postgresql://u:topsecret/y@host/x", 2, "percent-encoded"),
    "at sign in the password": ("postgresql://u:y@topsecret@host/x", 2, "percent-encoded"),
    "space in the password": ("host=h password=s3c topsecret dbname=x", 2, "can't be read"),
    "unknown option": ("postgresql://u:topsecret@host/x?colour=red", 2, "can't be read"),
}


@pytest.mark.parametrize("kind", BAD_ADDRESSES)
@pytest.mark.parametrize("command", ["prove", "backup"])
def test_bad_addresses(resil: Cli, kind: str, command: str) -> None:
    url, code, word = BAD_ADDRESSES[kind]
    said = resil(command, url)
    assert_clean_failure(said, code, word)
    assert "topsecret" not in said.err + said.out
    assert resil.listed() == []


def test_errors_as_json(resil: Cli) -> None:
    said = resil("backup", "mysql://x/y", "--json")
    assert said.code == 2
    assert set(said.json["error"]) == {"code", "message", "hint"}
    said = resil("backup", "--no-such-option", "--json")
    assert (said.code, said.json["error"]["code"]) == (2, "usage")


def test_wrong_password(resil: Cli, database: Endpoint) -> None:
    url = url_of(Endpoint(database.parameters, "not-" + SECRET))
    said = resil("backup", "--url-env", "DB", DB=url)
    assert_clean_failure(said, 4, "password authentication failed")
    assert SECRET not in said.err


def test_no_such_database(resil: Cli, database: Endpoint) -> None:
    said = resil("backup", "--url-env", "DB", DB=url_of(database.with_database("nothing_here")))
    assert_clean_failure(said, 4, "nothing_here")


def test_no_rights_on_one_table(resil: Cli, database: Endpoint, one_source: Source) -> None:
    reader = login(one_source, database, "reader_one", "GRANT SELECT ON item TO reader_one")
    said = resil("backup", "--url-env", "DB", DB=url_of(reader))
    assert_clean_failure(
        said, 4, "table public.other", 'GRANT SELECT ON "public"."other" TO "reader_one"'
    )
    assert "public.item" not in said.err
    assert resil.listed() == []


def test_row_level_security_is_an_error_not_a_filter(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    reader = login(
        one_source,
        database,
        "reader_two",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_two",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader_two",
        "ALTER TABLE item ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON item USING (id < 10)",
    )
    said = resil("backup", "--url-env", "DB", DB=url_of(reader))
    assert_clean_failure(said, 4, "row-level security would filter", "BYPASSRLS")
    assert resil.listed() == []
    # What is missing is told at once, not one after the other.
    one_source.execute(database, "REVOKE SELECT ON item FROM reader_two")
    said = resil("backup", "--url-env", "DB", DB=url_of(reader))
    assert_clean_failure(said, 4, "table public.item", "GRANT SELECT", "BYPASSRLS")


def test_a_role_that_can_not_log_in(resil: Cli, database: Endpoint, one_source: Source) -> None:
    reader = login(one_source, database, "reader_five", "ALTER ROLE reader_five NOLOGIN")
    said = resil("backup", "--url-env", "DB", DB=url_of(reader))
    assert_clean_failure(said, 4, 'role "reader_five" is not permitted to log in', "\\du")
    # Servers that ask for a password do not tell who is not there; the words of one that trusts:
    assert "\\du" in _connection_hint('FATAL:  role "x" does not exist', "")
    assert "psql -l" in _connection_hint('FATAL:  database "x" does not exist', "")


def test_no_right_on_a_sequence_or_a_large_object(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    reader = login(
        one_source,
        database,
        "reader_three",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_three",
        "SELECT lo_from_bytea(4711, 'x')",
    )
    said = resil("backup", "--url-env", "DB", DB=url_of(reader))
    assert_clean_failure(said, 4, "public.other_id_seq", "large object 4711", "GRANT SELECT")


def test_an_ordinary_login_with_all_rights_passes(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    reader = login(
        one_source,
        database,
        "reader_four",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_four",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader_four",
    )
    said = resil("prove", "--url-env", "DB", DB=url_of(reader))
    assert said.code == 0, said.out + said.err


@pytest.mark.skipif(len(majors()) < 2, reason="one PostgreSQL version only")
def test_a_client_older_than_the_server(resil: Cli, servers: Callable[[int], Source]) -> None:
    newest = servers(majors()[-1])
    endpoint = newest.create()
    oldest = next(p for p in find_all() if p.major == majors()[0])
    said = resil("backup", "--url-env", "DB", DB=url_of(endpoint), RESIL_PG_BIN=str(oldest.bin_dir))
    newest.drop_all()
    assert_clean_failure(said, 4, f"no pg_dump of version {newest.major}", "install")
    assert resil.listed() == []


@pytest.mark.skipif(len(majors()) < 2, reason="one PostgreSQL version only")
def test_no_server_of_that_version_is_inconclusive(resil: Cli, database: Endpoint) -> None:
    newest = next(p for p in find_all() if p.major == majors()[-1])
    only_newest = {"RESIL_PG_BIN": str(newest.bin_dir)}
    said = resil("prove", "--url-env", "DB", "--json", DB=url_of(database), **only_newest)
    assert said.code == 3, said.err
    assert said.json["error"]["code"] == "no_server", "it is known before anything is dumped"

    assert resil("backup", "--url-env", "DB", DB=url_of(database)).code == 0
    said = resil("verify", "--json", **only_newest)
    assert said.code == 3, said.err
    checks = {check["name"]: check for check in said.json["checks"]}
    assert checks["archive_intact"]["verdict"] == "PASS"
    assert checks["restores_cleanly"]["verdict"] == "INCONCLUSIVE"
    assert f"apt install postgresql-{majors()[0]}" in checks["restores_cleanly"]["summary"]


def test_another_database_under_a_known_name(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    assert resil("backup", "--url-env", "DB", "--name", "app", DB=url_of(database)).code == 0
    other = url_of(one_source.create())
    said = resil("backup", "--url-env", "DB", "--name", "app", DB=other)
    assert_clean_failure(said, 2, "--accept-new-source")
    words = ("backup", "--url-env", "DB", "--name", "app", "--accept-new-source")
    assert resil(*words, DB=other).code == 0


BAD_VAULTS = {
    "unknown scheme": ("ftp://host/x", 2, "ftp"),
    "no name of a bucket": ("gs://Bucket/x", 2, "capitals in its bucket's name"),
    "a plain path": ("backups", 2, "file:///"),
    "a relative URL": ("file://backups/x", 2, "three slashes"),
    "a file in the way": ("file:///dev/null/vault", 4, "a part of the path is a file"),
    "no such vault": ("file:///no/such/vault", 4, "there is no vault"),
}


@pytest.mark.parametrize("kind", BAD_VAULTS)
def test_bad_vaults(resil: Cli, database: Endpoint, kind: str) -> None:
    url, code, word = BAD_VAULTS[kind]
    if kind != "no such vault":
        said = resil("backup", "--url-env", "DB", "--vault", url, DB=url_of(database))
        assert_clean_failure(said, code)
        assert word in said.err
    said = resil("list", "--vault", url)
    assert said.code in (code, 4), said
    assert "hint:" in said.err


def test_a_check_makes_no_vault(resil: Cli, tmp_path: Path) -> None:
    place = tmp_path / "none"
    said = resil("check", "--vault", place.as_uri(), "--json")
    assert said.code == 0, said.err
    assert "there is no vault" in said.out
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_the_vault_that_can_not_be_written_is_told_first(
    resil: Cli, database: Endpoint
) -> None:
    assert resil("backup", "--url-env", "DB", "--name", "app", DB=url_of(database)).code == 0
    folder = resil.vault / "app" / "backups"
    folder.chmod(0o500)
    try:
        assert "Permission denied" in resil("check").out
        said = resil("backup", "--url-env", "DB", "--name", "app", DB=url_of(database))
        assert_clean_failure(said, 4, "can't write")
    finally:
        folder.chmod(0o700)


def test_a_lock_that_is_not_to_be_had_names_its_holder(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    with owner_session(database, autocommit=False) as connection:
        connection.execute("LOCK TABLE item")
        pid = connection.info.backend_pid
        said = resil("backup", "--url-env", "DB", "--lock-timeout", "1", DB=url_of(database))
    assert_clean_failure(
        said, 4, "within 1 s", f"process {pid} has locked public.item", "--lock-timeout"
    )


def test_a_folder_without_programs_is_named(resil: Cli, database: Endpoint) -> None:
    for command in ("prove", "backup"):
        said = resil(command, "--url-env", "DB", DB=url_of(database), RESIL_PG_BIN="/nowhere")
        assert_clean_failure(said, 2, "RESIL_PG_BIN names /nowhere")


def test_the_newest_backup_is_not_passed_over(resil: Cli, database: Endpoint) -> None:
    ids = [resil("backup", "--url-env", "DB", DB=url_of(database)).out.strip() for _ in range(2)]
    newest = next(resil.vault.glob(f"*/manifests/{max(ids)}.json"))
    newest.chmod(0o600)
    newest.write_text("{")
    said = resil("verify", "latest")
    assert said.code == 4, said
    assert max(ids) in said.err


def test_bad_backup_ids_and_manifests(resil: Cli, database: Endpoint) -> None:
    taken = resil("backup", "--url-env", "DB", "--name", "app", DB=url_of(database))
    backup_id = taken.out.strip()
    for command in ("verify", "show"):
        assert_clean_failure(resil(command, "nonsense"), 2, "is no backup's id")
        unknown = backup_id[:-6] + "ffffff"
        assert_clean_failure(resil(command, unknown), 2, "there is no backup", backup_id)

    file = resil.vault / "app" / "manifests" / f"{backup_id}.json"
    good = json.loads(file.read_text())
    file.write_text(json.dumps(good | {"format": 2}))
    assert_clean_failure(resil("verify", backup_id), 2, "format 2", "upgrade")
    assert_clean_failure(resil("verify"), 2, "format 2", "upgrade")
    assert_clean_failure(resil("restore", "--to", "postgresql://h/d"), 2, "format 2", "upgrade")
    for damage in (
        "{",
        "[]",
        json.dumps(good | {"tables": None}),
        json.dumps(good | {"backup_id": "x"}),
    ):
        file.write_text(damage)
        assert_clean_failure(resil("verify", backup_id), 4, "is damaged")
        assert_clean_failure(resil("verify"), 4, "is damaged")
        listed = resil("list")
        assert (listed.code, "no backups here yet" in listed.err) == (0, False)
        assert "no backup here can be read: 1 manifest" in listed.err
        listed = resil("list", "--json")
        assert listed.code == 0
        assert listed.json["backups"] == []
        assert len(listed.json["problems"]) == 1


def test_a_full_disk(resil: Cli, database: Endpoint, one_source: Source) -> None:
    """The limit on a file's size stands for a full disk: any user can set it."""
    one_source.execute(
        database,
        "INSERT INTO item SELECT n, md5(n::text) || md5((n + 1)::text) "
        "FROM generate_series(1000, 60000) n",
    )
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)); "
        "from dagster_resil.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "backup", "--url-env", "DB"],
        env={**resil.env, "DB": url_of(database)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_clean_failure(Said(done.returncode, done.stdout, done.stderr), 4)
    assert resil.listed() == []


# --- secrets ----------------------------------------------------------------------------------


def test_a_password_in_a_url_appears_nowhere(
    resil: Cli, database: Endpoint, one_source: Source
) -> None:
    owner = login(one_source, database, "typed_one", "ALTER ROLE typed_one SUPERUSER")
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = entry.read_bytes().decode(errors="replace").split("\0")
                except OSError:
                    continue
                # The user's own command line holds it, which is what the warning is about.
                if any(SECRET in word for word in words) and "dagster_resil.cli" not in words:
                    seen.append(" ".join(words))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said = resil("-v", "backup", url_of(owner), "--name", "app")
    finally:
        stop.set()
        watcher.join()
    assert said.code == 0, said.err
    assert "PGPASSWORD" in said.err, "the warning is missing"
    assert not seen
    assert SECRET not in said.out + said.err
    for file in resil.vault.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


# --- endings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("after_s", [0.0, 0.8])
def test_a_signal_ends_it_cleanly(
    resil: Cli, database: Endpoint, one_source: Source, number: signal.Signals, after_s: float
) -> None:
    one_source.execute(
        database,
        "INSERT INTO item SELECT n, md5(n::text) FROM generate_series(1000, 90000) n",
    )
    with resil.start("prove", "--url-env", "DB", DB=url_of(database)) as child:
        assert child.stderr is not None
        begun = child.stderr.readline()  # it has begun to read
        assert "reading" in begun, begun
        time.sleep(after_s)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 4, err
    assert f"stopped by {number.name}" in err
    assert "Traceback" not in err, err
    with one_source.admin() as connection:
        deadline = time.monotonic() + 10
        while left := connection.execute(
            "SELECT application_name, state, query FROM pg_stat_activity "
            "WHERE application_name LIKE 'dagster_resil %%' AND datname = %s",
            [database.parameters["dbname"]],
        ).fetchall():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
