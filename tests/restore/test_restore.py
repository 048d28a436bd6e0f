"""Restores without this program, and what scratch servers keep to themselves."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dagster_resil.backup.globals import read_globals
from dagster_resil.demo.databases import load
from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import ConfigurationError, NoServer, NoSpace, TargetRefused
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.fingerprints import default_form, read_contents
from dagster_resil.postgres.programs import find_all
from dagster_resil.postgres.scratch import scratch_server, sweep
from dagster_resil.postgres.session import prepare_session
from dagster_resil.postgres.tables import list_tables
from dagster_resil.process import run
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import RestoreSettings
from dagster_resil.vault.base import Vault
from dagster_resil.vault.local import LocalVault
from tests.conftest import Source, majors, run_server
from tests.localcloud.cloud import Cloud
from tests.taking import restore_backup, take_backup


def fingerprints(endpoint: Endpoint) -> dict[str, tuple[int, str | None]]:
    with endpoint.connect(autocommit=True) as connection:
        prepare_session(connection)
        form = default_form(connection.info.server_version)
        found = {}
        for table in list_tables(connection):
            content = read_contents(connection, [table], form)[table.oid]
            found[f"{table.schema}.{table.name}"] = (content.rows, content.fingerprint)
        return found


def sh(
    folder: Path, source: Source, target: Endpoint, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a backup's restore.sh with PostgreSQL's programs and nothing else of ours."""
    bare = Endpoint(target.parameters)
    return subprocess.run(
        ["sh", str(folder / "restore.sh"), url_of(bare).replace(":@", "@")],
        env={
            "PATH": f"{source.programs.path('pg_restore').parent}:/usr/bin:/bin",
            "PGPASSWORD": target.password or "",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.every_version
@pytest.mark.parametrize("which", ["shop", "hostile"])
def test_restore_sh_gives_equal_fingerprints_on_another_server(
    source: Source, vault: Vault, which: str
) -> None:
    endpoint = source.create()
    load(endpoint, source.programs, which, scale=0.01)  # type: ignore[arg-type]
    manifest = take_backup(endpoint, vault, name="app")
    assert isinstance(vault, LocalVault)
    folder = vault.path / "app" / "backups" / manifest.backup_id
    assert manifest.backup_id in (folder / "RESTORE.md").read_text()
    assert "{{" not in (folder / "RESTORE.md").read_text()

    with run_server(source.programs) as other:
        target = other.create()
        done = sh(folder, source, target)
        assert done.returncode == 0, done.stderr
        assert fingerprints(target) == fingerprints(endpoint)
        with target.connect(autocommit=True) as there, endpoint.connect(autocommit=True) as here:
            prepare_session(there)
            prepare_session(here)
            # Roles, memberships, settings and grants came along.
            assert read_globals(there) == read_globals(here)
        again = sh(folder, source, target)
        assert again.returncode == 2
        assert "is not empty" in again.stderr
        assert "hint:" in again.stderr
        # The globals alone may run again and again.
        for _ in range(2):
            ran = run(
                [
                    *(source.programs.path("psql"), "-X", "-q", "-f", folder / "globals.sql"),
                    *target.child_arguments(),
                ],
                env=target.child_environment(),
            )
            assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "held",
    [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA s",
        "CREATE TYPE t AS ENUM ('a')",
        "SELECT lo_from_bytea(0, 'x')",
        "CREATE TABLE t ()",
    ],
)
def test_restore_sh_refuses_what_is_not_empty(one_source: Source, vault: Vault, held: str) -> None:
    endpoint = one_source.create()
    manifest = take_backup(endpoint, vault, name="app")
    assert isinstance(vault, LocalVault)
    target = one_source.create()
    one_source.execute(target, held)
    done = sh(vault.path / "app" / "backups" / manifest.backup_id, one_source, target)
    assert done.returncode == 2, done.stderr
    assert "not empty" in done.stderr


def test_restore_sh_calls_nothing_of_the_target(one_source: Source, vault: Vault) -> None:
    """Its operators come before PostgreSQL's own in the search_path of who logs in."""
    manifest = take_backup(one_source.create(), vault, name="app")
    assert isinstance(vault, LocalVault)
    target = one_source.create()
    planted = ["CREATE TABLE public.caught (a text)"]
    for number, (operator, left, right) in enumerate(
        (o, left, right)
        for o in ("=", "<>", ">=", "~", "||")
        for left, right in (("name", "name"), ("oid", "oid"), ("name", "text"), ("oid", "int4"))
    ):
        planted += [
            f"CREATE FUNCTION public.f{number}({left}, {right}) RETURNS bool LANGUAGE plpgsql AS "
            f"$$BEGIN INSERT INTO public.caught VALUES ('{operator}'); RETURN false; END$$",
            f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, "
            f"FUNCTION = public.f{number})",
        ]
    planted += [
        "CREATE FUNCTION public.count(bigint) RETURNS bigint LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.caught VALUES ('count'); RETURN 0; END$$",
        f'ALTER DATABASE "{target.parameters["dbname"]}" SET search_path = public, pg_catalog',
    ]
    one_source.execute(target, *planted)
    done = sh(vault.path / "app" / "backups" / manifest.backup_id, one_source, target)
    assert done.returncode == 2, done.stderr
    assert "not empty" in done.stderr
    with target.connect() as connection:
        assert connection.execute("SELECT a FROM public.caught").fetchall() == []


def test_restore_sh_runs_no_login_trigger_of_the_source(
    servers: Callable[[int], Source], vault: Vault
) -> None:
    """Between the data and the settings there are logins of its own."""
    source = servers(17)
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE login_history (who text)",
        "CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS "
        "$$BEGIN INSERT INTO public.login_history VALUES (session_user); END$$",
        "CREATE TABLE ddl_history (what text)",
        "CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.ddl_history VALUES (tg_tag); END$$",
        "CREATE TABLE t AS SELECT 1 AS a",
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
        "CREATE EVENT TRIGGER a_on_ddl ON ddl_command_end EXECUTE FUNCTION note_ddl()",
        "ALTER EVENT TRIGGER a_on_ddl ENABLE ALWAYS",
        "CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION note_login()",
        "ALTER EVENT TRIGGER on_login ENABLE ALWAYS",
    )
    without = "-c event_triggers=off"
    quiet = Endpoint({**endpoint.parameters, "options": without}, endpoint.password, private=True)
    # Its own logins are none that anybody wrote down.
    manifest = take_backup(quiet, vault, name="app")
    assert isinstance(vault, LocalVault)
    with run_server(source.programs) as other:
        target = other.create()
        done = sh(
            vault.path / "app" / "backups" / manifest.backup_id,
            other,
            target,
            PGOPTIONS="-c jit=off",
        )
        assert done.returncode == 0, done.stderr
        there = Endpoint({**target.parameters, "options": without}, target.password, private=True)
        assert fingerprints(there) == fingerprints(quiet)
    source.drop_all()


def test_restore_sh_without_a_password_says_so(one_source: Source, vault: Vault) -> None:
    endpoint = one_source.create()
    manifest = take_backup(endpoint, vault, name="app")
    assert isinstance(vault, LocalVault)
    folder = vault.path / "app" / "backups" / manifest.backup_id
    done = sh(folder, one_source, one_source.create(), PGPASSWORD="wrong")
    assert done.returncode == 4
    assert "hint:" in done.stderr


def test_restore_sh_says_what_a_login_without_rights_leaves_out(
    one_source: Source, vault: Vault
) -> None:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE t AS SELECT 1 AS a",
        "COMMENT ON FUNCTION pg_catalog.now() IS 'a superuser alone may say so'",
    )
    manifest = take_backup(endpoint, vault, name="app")
    assert isinstance(vault, LocalVault)
    folder = vault.path / "app" / "backups" / manifest.backup_id
    with run_server(one_source.programs) as other:
        target = other.create()
        database = target.parameters["dbname"]
        with other.admin() as connection:
            connection.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
            connection.execute(f'ALTER DATABASE "{database}" OWNER TO app')
        login = Endpoint({**target.parameters, "user": "app"}, "app", private=True)
        done = sh(folder, other, login, RESTORE_OPTIONS="--no-owner --no-acl", ROLES="off")
        assert done.returncode == 1
        assert "all is restored but the owner, grants and settings of the database" in done.stderr
        assert "psql -X -v roles=off -f globals.sql" in done.stderr
        with login.connect() as session:
            assert session.execute("SELECT a FROM public.t").fetchone() == (1,)


@pytest.mark.every_version
def test_a_restore_compares_again(source: Source, vault: Vault) -> None:
    endpoint = source.create()
    load(endpoint, source.programs, "hostile")
    manifest = take_backup(endpoint, vault, name="app")
    with run_server(source.programs) as other:
        with other.admin() as connection:
            # A server that is in use for something else has roles of its own.
            connection.execute("CREATE ROLE local_team")
            connection.execute("CREATE ROLE local_user IN ROLE local_team")
            connection.execute("ALTER ROLE local_user SET work_mem = '8MB'")
        report = restore_backup(vault, manifest, other.create())
    assert report.verdict is Verdict.PASS, report.checks
    assert len(report.checks) == 5


@pytest.mark.skipif(len(majors()) < 2, reason="one PostgreSQL version only")
def test_an_archive_is_restored_by_what_reads_it(
    one_source: Source, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, "CREATE TABLE item (id int)", "INSERT INTO item VALUES (1)")
    newest = next(p for p in find_all() if p.major == majors()[-1])
    with monkeypatch.context() as patch:
        patch.setenv("RESIL_PG_BIN", str(newest.bin_dir))
        manifest = take_backup(endpoint, vault, name="app")
    assert manifest.tools["pg_dump"] == newest.version
    # As with an export: its archive is of Google's pg_dump, and all else is of one of ours.
    tools = {"pg_dump": one_source.programs.version, "archive": newest.version}
    manifest = manifest.model_copy(update={"tools": tools})
    report = restore_backup(vault, manifest, one_source.create())
    assert report.verdict is Verdict.PASS, report.checks


def test_a_target_of_another_encoding_is_refused(one_source: Source, vault: Vault) -> None:
    manifest = take_backup(one_source.create(), vault, name="app")
    target = one_source.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(ConfigurationError, match="LATIN1"):
        restore_backup(vault, manifest, target)


@pytest.mark.parametrize(
    "held",
    [
        "CREATE VIEW v AS SELECT 1 AS a",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE e AS ENUM ('a')",
        "CREATE SCHEMA s",
        "SELECT lo_create(4712)",
    ],
)
def test_whatever_a_target_holds_is_seen(one_source: Source, vault: Vault, held: str) -> None:
    manifest = take_backup(one_source.create(), vault, name="app")
    target = one_source.create()
    one_source.execute(target, held)
    with pytest.raises(TargetRefused, match="not empty"):
        restore_backup(vault, manifest, target, settings=RestoreSettings())


# --- scratch servers ---------------------------------------------------------------------------


def test_a_scratch_server_asks_for_a_password(source: Source) -> None:
    with scratch_server(source.programs) as scratch:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(
                host=str(scratch.server.socket_dir), user="postgres", dbname="postgres", port=5432
            )
        folder = scratch.workspace.path
    assert not folder.exists()


def test_no_room_is_said_before_anything_starts(one_source: Source) -> None:
    with (
        pytest.raises(NoSpace, match="MB needed") as error,
        scratch_server(one_source.programs, need_bytes=10**15),
    ):
        pass
    assert "RESIL_WORK_DIR" in error.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as somebody else")
def test_a_work_folder_that_the_server_can_not_reach_is_named(
    one_source: Source, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    with (
        pytest.raises(NoServer, match="can't walk into") as error,
        scratch_server(one_source.programs, work_dir=tmp_path),
    ):
        pass
    assert "RESIL_WORK_DIR" in error.value.hint


_OWNER = """
import sys
from dagster_resil.postgres.programs import find_all
from dagster_resil.postgres.scratch import scratch_server
programs = next(p for p in find_all() if str(p.bin_dir) == sys.argv[1])
with scratch_server(programs) as scratch:
    print(scratch.workspace.path, flush=True)
    sys.stdin.read()
"""


def test_the_janitor_clears_what_a_sigkill_left(one_source: Source) -> None:
    work_dir = Path("/var/tmp") / f"resil-janitor-{secrets.token_hex(4)}"
    work_dir.mkdir(mode=0o711)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(one_source.programs.bin_dir)],
            env={**os.environ, "RESIL_WORK_DIR": str(work_dir)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            assert owner.stdout is not None
            folder = Path(owner.stdout.readline().strip())
            assert folder.exists()
            assert sweep(work_dir) == [], "a living owner's folder was swept"
            owner.kill()
        assert sweep(work_dir) == [str(folder)]
        assert not folder.exists()
    finally:
        subprocess.run(["rm", "-rf", work_dir], check=True)


COPY_FROM_THE_LOCAL_CLOUD = '''
"""What `gcloud storage cp -r` does, with the standard library alone."""
import json, sys, urllib.parse, urllib.request
from pathlib import Path
url, token = sys.argv[1:3]
bucket, _, prefix = sys.argv[3].removeprefix("gs://").partition("/")
target = Path(sys.argv[4]) / prefix.rpartition("/")[2]
def get(path, **query):
    request = urllib.request.Request(f"{url}{path}?{urllib.parse.urlencode(query)}")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request) as answer:
        return answer.read()
page = {}
while True:
    listing = json.loads(get(f"/storage/v1/b/{bucket}/o", prefix=f"{prefix}/", maxResults=7, **page))
    for item in listing.get("items", []):
        file = target / item["name"].removeprefix(f"{prefix}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        quoted = urllib.parse.quote(item["name"], safe="")
        file.write_bytes(get(f"/download/storage/v1/b/{bucket}/o/{quoted}", alt="media"))
    if "nextPageToken" not in listing:
        break
    page = {"pageToken": listing["nextPageToken"]}
'''


@pytest.mark.parametrize("by", ["a command of one's own", "gcloud"])
def test_restore_sh_copies_a_backup_out_of_a_bucket(
    one_source: Source, cloud: Cloud, tmp_path: Path, by: str
) -> None:
    gcloud = shutil.which("gcloud")
    if by == "gcloud" and gcloud is None:
        pytest.skip("gcloud is not installed here")
    endpoint = one_source.create()
    load(endpoint, one_source.programs, "shop", scale=0.01)
    kept = cloud.vault(prefix="deep/prefix")
    manifest = take_backup(endpoint, kept, name="app")
    backup = f"{kept.url}/app/backups/{manifest.backup_id}"
    # All that was copied by hand.
    script = tmp_path / "restore.sh"
    script.write_bytes(kept.read(f"app/backups/{manifest.backup_id}/restore.sh"))
    copier = tmp_path / "copy.py"
    copier.write_text(COPY_FROM_THE_LOCAL_CLOUD)
    session = cloud.client("restorer")._http
    session.get(f"{cloud.url}/storage/v1/b/{kept.bucket_name}/o")  # signs in
    token = session.credentials.token
    work = tmp_path / "work"
    work.mkdir()

    def run(target: Endpoint, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(script), backup, url_of(Endpoint(target.parameters)).replace(":@", "@")],
            env={
                "PATH": f"{one_source.programs.bin_dir}:/usr/bin:/bin",
                "PGPASSWORD": target.password or "",
                "TMPDIR": str(work),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    if by == "gcloud":
        token_file = tmp_path / "token"
        token_file.write_text(token)
        copy = {
            "PATH": f"{one_source.programs.bin_dir}:{Path(gcloud or '').parent}:/usr/bin:/bin",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{cloud.url}/",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token_file),
            "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_PROJECT": "local",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        }
    else:
        copy = {"COPY": f"{sys.executable} {copier} {cloud.url} {token}"}
    target = one_source.create()
    done = run(target, **copy)
    assert done.returncode == 0, done.stderr
    assert fingerprints(target) == fingerprints(endpoint)
    assert list(work.iterdir()) == [], "nothing is left behind"

    empty = one_source.create()
    with cloud.failing("denied", permission="storage.objects.get"):
        done = run(empty, **copy)
    assert done.returncode == 4
    assert f"can't copy {backup}" in done.stderr
    assert "hint:" in done.stderr
    assert list(work.iterdir()) == []
    done = run(empty, COPY="a-program-that-is-not-there -r")
    assert (done.returncode, "COPY" in done.stderr) == (4, True)
