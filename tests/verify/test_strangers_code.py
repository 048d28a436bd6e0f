"""No function, operator, cast or view of a database's users is run by what reads it.

What can't be avoided, and so is not planted here: a login trigger, on the first connection (and on
all of them before version 17, where there is none, and for a login that may not switch it off); and
functions in an index's or in extended statistics' expressions and predicates, which PostgreSQL's
planner evaluates for whoever queries the table.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagster_resil.backup.settings import Comparison
from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import TargetRefused
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.scratch import sweep
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import RestoreSettings, restore_to_scratch
from dagster_resil.vault.base import Vault
from tests.command import resil
from tests.conftest import Source, long_majors, majors, owner_session, run_server, stock, visible
from tests.taking import in_parts, restore_backup, take_backup, verify_backup
from tests.verify.test_oddities import assert_passes

# Functions and operators of every name and every arguments that pg_catalog has, which come first
# by the database's search_path. Each of them stops whoever calls it.
EVERYTHING = """
DO $do$
DECLARE f record; n int := 0;
BEGIN
  SET LOCAL search_path = pg_catalog;
  SET LOCAL client_min_messages = error;
  FOR f IN SELECT DISTINCT p.proname, oidvectortypes(p.proargtypes) AS args
             FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
              AND p.provariadic = 0 AND NOT EXISTS (
                SELECT FROM unnest(p.proargtypes) a JOIN pg_type t ON t.oid = a
                 WHERE t.typtype = 'p' OR t.typname = 'oidvector')
              AND p.proname !~ '(in|out|send|recv)$' LOOP
    EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS text LANGUAGE plpgsql AS '
      '$$BEGIN RAISE EXCEPTION USING MESSAGE = ''caught: function %s''; END$$', f.proname, f.args, f.proname);
  END LOOP;
  FOR f IN SELECT o.oprname, format_type(o.oprleft, NULL) AS a, format_type(o.oprright, NULL) AS b
             FROM pg_operator o JOIN pg_type l ON l.oid = o.oprleft
             JOIN pg_type r ON r.oid = o.oprright
            WHERE o.oprnamespace = 'pg_catalog'::regnamespace
              AND l.typtype <> 'p' AND r.typtype <> 'p' LOOP
    n := n + 1;
    EXECUTE format('CREATE FUNCTION evil.op_%s(%s, %s) RETURNS bool LANGUAGE plpgsql AS '
      '$$BEGIN RAISE EXCEPTION USING MESSAGE = ''caught: operator %s''; END$$', n, f.a, f.b, f.oprname);
    EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %s, function = evil.op_%s)',
      f.oprname, f.a, f.b, n);
  END LOOP;
END $do$
"""
MIXED = """
DO $do$
DECLARE o text; a text; b text; n int := 0;
  types text[] := '{name,text,oid,int4,int8,bool,"\\"char\\"",regclass,xid}';
BEGIN
  SET LOCAL search_path = pg_catalog;
  FOREACH o IN ARRAY '{||,=,<>,<,>,>=,<=,~,!~,~~,+,-}'::text[] LOOP
    FOREACH a IN ARRAY types LOOP FOREACH b IN ARRAY types LOOP
      n := n + 1;
      EXECUTE format('CREATE FUNCTION evil.mixed_%s(%s, %s) RETURNS text LANGUAGE plpgsql AS '
        '$$BEGIN RAISE EXCEPTION USING MESSAGE = ''caught: operator %s''; END$$', n, a, b, o);
      BEGIN
        EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %s, function = '
          'evil.mixed_%s)', o, a, b, n);
      EXCEPTION WHEN duplicate_function THEN NULL;
      END;
    END LOOP; END LOOP;
  END LOOP;
END $do$
"""
CAUGHT = "CREATE FUNCTION evil.caught(what text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'caught: %', what; END$$"
TYPES = (
    # Casts, which text and every comparison of texts might go by.
    "CREATE TYPE evil.mood AS ENUM ('sad', 'ok')",
    "CREATE TYPE evil.pair AS (a int, b evil.mood)",
    "CREATE TYPE evil.span AS RANGE (subtype = float8)",
    *(
        statement
        for kind in ("mood", "pair", "span")
        for statement in (
            f"CREATE FUNCTION evil.cast_{kind}(x evil.{kind}) RETURNS pg_catalog.text LANGUAGE plpgsql "
            f"AS $$BEGIN RAISE EXCEPTION 'caught: cast of {kind}'; END$$",
            f"CREATE CAST (evil.{kind} AS pg_catalog.text) WITH FUNCTION evil.cast_{kind} AS IMPLICIT",
        )
    ),
    "CREATE TABLE evil.holds (id int PRIMARY KEY, m evil.mood, p evil.pair, s evil.span, "
    "ms evil.mood[], ps evil.pair[], x xml, j json, c money)",
    "INSERT INTO evil.holds SELECT n, 'ok', '(7,sad)', '[1,2)', '{ok,sad}', '{\"(1,ok)\"}', NULL, "
    "'{}', '1.5' FROM pg_catalog.generate_series(1, 50) n",
    # Types under names that statements of ours have.
    *(
        f"CREATE DOMAIN evil.{name} AS pg_catalog.{name} CHECK (evil.caught('domain {name}'))"
        for name in ("text", "name", "int4", "int8", "oid", "regclass", "bool")
    ),
    # Relations under the names of catalogues.
    *(
        f"CREATE VIEW evil.{name} AS SELECT evil.caught('view {name}'), * FROM pg_catalog.{name}"
        for name in ("pg_class", "pg_locks", "pg_roles", "pg_database", "pg_namespace", "pg_type")
    ),
    # Row security, of which reading is never to see a part.
    "CREATE TABLE evil.guarded (a pg_catalog.int4)",
    "INSERT INTO evil.guarded VALUES (1), (2)",
    "ALTER TABLE evil.guarded ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE evil.guarded FORCE ROW LEVEL SECURITY",
    "CREATE POLICY p ON evil.guarded USING (evil.caught('policy'))",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA evil GRANT SELECT ON TABLES TO PUBLIC",
    "CREATE FUNCTION evil.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN "
    "IF pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.~) '^(dagster_resil|pg_dump)' "
    "THEN RAISE EXCEPTION 'caught: event trigger'; END IF; END$$",
    "CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION evil.watch()",
)


def plant(source: Source, database: Endpoint) -> None:
    with owner_session(database) as session:
        session.execute("CREATE SCHEMA evil")
        session.execute(CAUGHT)
        session.execute(EVERYTHING)
        session.execute(MIXED)
        for statement in TYPES:
            session.execute(statement)
        session.execute(
            "DO $$BEGIN EXECUTE pg_catalog.format('ALTER DATABASE %I SET search_path = evil, public, "
            "pg_catalog', pg_catalog.current_database()); END$$"
        )
    with pytest.raises(Exception, match="caught"), owner_session(database) as session:
        session.execute("SELECT 'a'::pg_catalog.name || 'b'::pg_catalog.name")


@pytest.fixture(params=[majors()[0], majors()[-1], *long_majors()], ids=lambda major: f"pg{major}")
def planted(
    request: pytest.FixtureRequest, servers: Callable[[int], Source]
) -> Iterator[tuple[Source, Endpoint]]:
    source = servers(request.param)
    database = source.create()
    plant(source, database)
    with visible(request.param):
        yield source, database
    source.drop_all()


@pytest.mark.parametrize("compare", ["contents", "text"])
def test_a_source_has_none_of_its_code_run(
    planted: tuple[Source, Endpoint], vault: Vault, compare: Comparison
) -> None:
    source, database = planted
    manifest = take_backup(database, vault, name="app", settings=in_parts(compare=compare, jobs=1))
    assert manifest.rows == 52
    assert_passes(verify_backup(vault, manifest))
    if compare == "contents":
        report = restore_backup(vault, manifest, source.create())
        assert report.verdict is Verdict.PASS, report.checks


def test_a_target_has_none_of_its_code_run(
    planted: tuple[Source, Endpoint], vault: Vault, tmp_path: Path
) -> None:
    source, database = planted
    small = source.create()
    source.execute(small, "CREATE TABLE t AS SELECT 1 AS a")
    manifest = take_backup(small, vault, name="app")
    with pytest.raises(TargetRefused, match="is not empty"):
        restore_backup(vault, manifest, database)
    at = ("--name", "app", "--vault", vault.url, "--to-env", "TO")
    said = resil("restore", "latest", *at, TO=url_of(database))
    assert said.returncode == 2
    assert "caught" not in said.stderr
    done = subprocess.run(
        ["sh", "restore.sh", url_of(database)],
        cwd=tmp_path / "vault" / "app" / "backups" / manifest.backup_id,
        env={**os.environ, "PATH": f"{source.programs.bin_dir}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "caught" not in done.stderr


def test_preflight_and_prove_run_none_of_it(planted: tuple[Source, Endpoint]) -> None:
    _, database = planted
    for words in (("check", "--url-env", "DB"), ("prove", "--url-env", "DB")):
        said = resil(*words, DB=url_of(database))
        assert said.returncode == 0, said.stdout + said.stderr


LOGIN_TRIGGER = (
    "CREATE TABLE login_history (who text, at timestamptz DEFAULT now())",
    "CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ "
    "BEGIN INSERT INTO public.login_history (who) VALUES (session_user); END $$",
    "CREATE EVENT TRIGGER on_login ON login EXECUTE FUNCTION note_login()",
    "ALTER EVENT TRIGGER on_login ENABLE ALWAYS",
    "CREATE TABLE t AS SELECT 1 AS a",
)


@pytest.fixture
def seventeen(servers: Callable[[int], Source]) -> Iterator[Source]:
    found = servers(17)
    yield found
    found.drop_all()


def logins(database: Endpoint) -> int:
    options = {**database.parameters, "options": "-c event_triggers=off"}
    with owner_session(Endpoint(options, database.password, private=True)) as session:
        row = session.execute("SELECT count(*) FROM public.login_history").fetchone()
    return int(row[0]) if row else 0


def test_a_login_trigger_is_run_once(seventeen: Source, vault: Vault) -> None:
    database = seventeen.create()
    seventeen.execute(database, *LOGIN_TRIGGER)
    before = logins(database)
    manifest = take_backup(database, vault, name="app")
    assert logins(database) == before + 1, "by the first connection, which could not know of it"
    assert_passes(verify_backup(vault, manifest))
    target = seventeen.create()
    report = restore_backup(vault, manifest, target)
    assert report.verdict is Verdict.PASS, report.checks
    assert logins(target) == before + 1


def test_a_target_with_a_login_trigger_is_replaced(seventeen: Source, vault: Vault) -> None:
    database, target = seventeen.create(), seventeen.create()
    for each in (database, target):
        seventeen.execute(each, *LOGIN_TRIGGER)
    manifest = take_backup(database, vault, name="app")
    settings = RestoreSettings(replace=target.parameters["dbname"])
    report = restore_backup(vault, manifest, target, settings=settings)
    assert report.verdict is Verdict.PASS, report.checks


def test_a_login_trigger_makes_no_difference_to_a_login_that_is_no_superuser(vault: Vault) -> None:
    with run_server(stock(17)) as source:
        database = source.create()
        source.execute(
            database,
            *LOGIN_TRIGGER,
            "CREATE ROLE reader LOGIN PASSWORD 'reader' IN ROLE pg_read_all_data",
        )
        reader = Endpoint({**database.parameters, "user": "reader"}, "reader", private=True)
        assert_passes(verify_backup(vault, take_backup(reader, vault, name="app")))


def test_a_login_trigger_that_is_disabled_stays_so(seventeen: Source, vault: Vault) -> None:
    database = seventeen.create()
    seventeen.execute(database, *LOGIN_TRIGGER, "ALTER EVENT TRIGGER on_login DISABLE")
    before = logins(database)
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))
    assert logins(database) == before


def test_a_scratch_server_that_is_kept_runs_login_triggers(seventeen: Source, vault: Vault) -> None:
    database = seventeen.create()
    seventeen.execute(database, *LOGIN_TRIGGER)
    kept = restore_to_scratch(vault, take_backup(database, vault, name="app"), keep_s=60)
    try:
        assert kept.verdict is Verdict.PASS
        with owner_session(Endpoint.parse(kept.address)) as session:
            assert session.execute("SHOW event_triggers").fetchone() == ("on",)
    finally:
        sweep(kept_too=True)
