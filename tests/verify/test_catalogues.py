"""What pg_dump does not write is carried and compared, or is no PASS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dagster_resil.backup.adjustments import read_adjustments
from dagster_resil.demo.damage import LocalBackup
from dagster_resil.postgres.catalogues import Catalogues, compare_catalogues, read_catalogues
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.inventory import compare_inventories
from dagster_resil.postgres.session import prepare_session
from dagster_resil.records.inventory import Inventory, Item
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from tests.conftest import Source, run_server
from tests.taking import take_backup, verify_backup


def taken(endpoint: Endpoint, folder: Path) -> LocalBackup:
    vault = folder / "vault"
    return LocalBackup(vault, take_backup(endpoint, open_vault(vault.as_uri()), name="app"))


def verified(backup: LocalBackup) -> Receipt:
    return verify_backup(open_vault(backup.vault.as_uri()), backup.reload())


def assert_passes(receipt: Receipt) -> None:
    assert receipt.verdict is Verdict.PASS, [
        check for check in receipt.checks if check.verdict is not Verdict.PASS
    ]


def restored_by_script(source: Source, backup: LocalBackup, jobs: int = 2) -> Endpoint:
    """Restore with nothing but the backup's own script."""
    target = source.create()
    done = subprocess.run(
        ["sh", backup.file("restore.sh"), target.child_arguments()[0].removeprefix("--dbname=")],
        env=target.child_environment()
        | {"PATH": f"{source.programs.path('pg_restore').parent}:/usr/bin:/bin", "JOBS": str(jobs)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def read(endpoint: Endpoint, query: str) -> object:
    with endpoint.connect(autocommit=True) as connection:
        prepare_session(connection)
        row = connection.execute(query).fetchone()
        return row[0] if row else None


UNACCENT = "CREATE EXTENSION unaccent"
FOREIGN_KEY = (
    "CREATE TABLE author (id int PRIMARY KEY)",
    "CREATE TABLE book (id int PRIMARY KEY, author_id int REFERENCES author)",
    "INSERT INTO author VALUES (1)",
    "INSERT INTO book VALUES (1, 1)",
)
PARTITIONED_KEY = (
    "CREATE TABLE a (id int PRIMARY KEY)",
    "CREATE TABLE b (id int, a_id int REFERENCES a) PARTITION BY RANGE (id)",
    "CREATE TABLE b1 PARTITION OF b FOR VALUES FROM (0) TO (10)",
    "INSERT INTO a VALUES (1)",
)
_STATES = (
    "SELECT string_agg(tgrelid::regclass || ' ' || tgfoid::regproc || ' ' || tgenabled::text, "
    "', ' "
    "ORDER BY 1) FROM (SELECT tgrelid, tgfoid, tgenabled FROM pg_trigger WHERE tgisinternal "
    "ORDER BY tgrelid::regclass::text, tgfoid::regproc::text) t"
)

# What is done to a database, and the query that has to give the same of a copy.
CARRIED: dict[str, tuple[tuple[str, ...], str]] = {
    "a foreign key's triggers off on one side": (
        (*FOREIGN_KEY, "ALTER TABLE book DISABLE TRIGGER ALL"),
        _STATES,
    ),
    "a foreign key's triggers off on the other side": (
        (*FOREIGN_KEY, "ALTER TABLE author DISABLE TRIGGER ALL"),
        _STATES,
    ),
    "a foreign key's triggers for replicas, too": (
        (
            *FOREIGN_KEY,
            "DO $$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgisinternal "
            "AND tgrelid = 'book'::regclass LOOP EXECUTE "
            "format('ALTER TABLE book ENABLE ALWAYS TRIGGER %I', t); END LOOP; END $$",
        ),
        _STATES,
    ),
    "a partition's triggers off": (
        (*PARTITIONED_KEY, "ALTER TABLE b1 DISABLE TRIGGER ALL"),
        _STATES,
    ),
    "a deferrable key's trigger off": (
        (
            "CREATE TABLE d (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
            "ALTER TABLE d DISABLE TRIGGER ALL",
        ),
        _STATES,
    ),
    "an extension's function made immutable": (
        (
            UNACCENT,
            "ALTER FUNCTION unaccent(text) IMMUTABLE",
            "CREATE TABLE n (n text)",
            "CREATE INDEX ON n (unaccent(n))",
        ),
        "SELECT provolatile FROM pg_proc WHERE oid = 'public.unaccent(text)'::regprocedure",
    ),
    "in the transaction that made the extension": (
        (
            "DO $$ BEGIN CREATE EXTENSION hstore; ALTER FUNCTION hstore(text, text) VOLATILE; END $$",
        ),
        "SELECT provolatile FROM pg_proc WHERE oid = 'public.hstore(text, text)'::regprocedure",
    ),
    "an extension's function with a setting": (
        (UNACCENT, "ALTER FUNCTION unaccent(text) SET search_path = public, pg_temp"),
        (
            "SELECT array_to_string(proconfig, ' ') FROM pg_proc "
            "WHERE oid = 'public.unaccent(text)'::regprocedure"
        ),
    ),
    "an extension's dictionary with other rules": (
        (UNACCENT, "ALTER TEXT SEARCH DICTIONARY unaccent (rules = 'unaccent')"),
        "SELECT dictinitoption FROM pg_ts_dict WHERE dictname = 'unaccent'",
    ),
    "a built-in text search configuration with another dictionary": (
        (
            UNACCENT,
            "ALTER TEXT SEARCH CONFIGURATION english ALTER MAPPING FOR hword, hword_part, word "
            "WITH unaccent, english_stem",
        ),
        (
            "SELECT pg_catalog.to_tsvector('pg_catalog.english', 'hôtel') @@ "
            "pg_catalog.to_tsquery('pg_catalog.english', 'hotel')"
        ),
    ),
    "a built-in text search configuration without a mapping": (
        ("ALTER TEXT SEARCH CONFIGURATION french DROP MAPPING FOR email, url",),
        "SELECT count(*) FROM pg_ts_config_map WHERE mapcfg = 'pg_catalog.french'::regconfig",
    ),
    "a built-in dictionary with other stop words": (
        ("ALTER TEXT SEARCH DICTIONARY german_stem (StopWords = english)",),
        "SELECT dictinitoption FROM pg_ts_dict WHERE dictname = 'german_stem'",
    ),
    "a function in pg_catalog": (
        (
            "CREATE FUNCTION pg_catalog.fiscal_year(date) RETURNS int LANGUAGE sql IMMUTABLE "
            "AS 'SELECT extract(year FROM $1 + interval ''3 months'')::int'",
            "CREATE TABLE invoice (d date, CHECK (fiscal_year(d) > 2000))",
            "INSERT INTO invoice VALUES ('2026-11-25')",
            "CREATE VIEW years AS SELECT fiscal_year(d) FROM invoice",
        ),
        "SELECT fiscal_year('2026-11-25')",
    ),
    "a function in pg_catalog that takes a type of the database's": (
        (
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE FUNCTION pg_catalog.is_ok(public.mood) RETURNS bool LANGUAGE plpgsql "
            "AS $$ BEGIN RETURN $1 = 'ok'; END $$",
        ),
        "SELECT pg_catalog.is_ok('ok')",
    ),
    "a built-in function changed": (
        ("ALTER FUNCTION pg_catalog.justify_hours(interval) COST 7",),
        "SELECT procost FROM pg_proc WHERE proname = 'justify_hours'",
    ),
    "no schema public": (
        ("CREATE SCHEMA app", "CREATE TABLE app.t (id int)", "DROP SCHEMA public"),
        "SELECT count(*) FROM pg_namespace WHERE nspname = 'public'",
    ),
    "schema public made again": (
        ("DROP SCHEMA public", "CREATE SCHEMA public", "CREATE TABLE public.t (id int)"),
        (
            "SELECT COALESCE(nspacl::text, '{postgres=UC/postgres}') FROM pg_namespace "
            "WHERE nspname = 'public'"
        ),
    ),
    "schema public made again, with a comment and a grant": (
        (
            "DROP SCHEMA public",
            "CREATE SCHEMA public",
            "COMMENT ON SCHEMA public IS 'ours'",
            "GRANT USAGE ON SCHEMA public TO PUBLIC",
        ),
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'public'",
    ),
    "schema public under another name": (
        (
            "ALTER SCHEMA public RENAME TO app",
            "CREATE TABLE app.t (a int)",
            "GRANT CREATE ON SCHEMA app TO PUBLIC",
        ),
        (
            "SELECT nspacl::text || obj_description(oid, 'pg_namespace') FROM pg_namespace "
            "WHERE nspname = 'app'"
        ),
    ),
    "schema public under another name, and a new one": (
        (
            "ALTER SCHEMA public RENAME TO old",
            "CREATE SCHEMA public",
            "CREATE TABLE old.t (a int)",
        ),
        "SELECT string_agg(nspname || nspacl::text, ' ') FROM pg_namespace WHERE nspname = 'old'",
    ),
    "an extension's operator with other estimators": (
        ("CREATE EXTENSION hstore", "ALTER OPERATOR @> (hstore, hstore) SET (RESTRICT = NONE)"),
        "SELECT oprrest::text FROM pg_operator WHERE oid = "
        "'public.@>(public.hstore, public.hstore)'::regoperator",
    ),
    "owners of an extension's members": (
        (
            """DO $$ BEGIN CREATE ROLE "own {6}"; EXCEPTION WHEN duplicate_object THEN END $$""",
            "CREATE EXTENSION hstore",
            'ALTER FUNCTION hstore(text, text) OWNER TO "own {6}"',
            'ALTER OPERATOR -> (hstore, text) OWNER TO "own {6}"',
            'ALTER OPERATOR CLASS btree_hstore_ops USING btree OWNER TO "own {6}"',
            'ALTER TYPE hstore OWNER TO "own {6}"',
        ),
        (
            "SELECT concat_ws(' ', f.proowner::regrole, t.typowner::regrole, o.oprowner::regrole, "
            "c.opcowner::regrole) FROM pg_proc f, pg_type t, pg_operator o, pg_opclass c "
            "WHERE f.oid = 'public.hstore(text, text)'::regprocedure "
            "AND t.oid = 'public.hstore'::regtype AND c.opcname = 'btree_hstore_ops' "
            "AND o.oid = 'public.->(public.hstore, text)'::regoperator"
        ),
    ),
    "a built-in function's owner": (
        (
            """DO $$ BEGIN CREATE ROLE "own {6}"; EXCEPTION WHEN duplicate_object THEN END $$""",
            'ALTER FUNCTION pg_catalog.lower(text) OWNER TO "own {6}"',
        ),
        "SELECT proowner::regrole::text FROM pg_proc WHERE oid = 'lower(text)'::regprocedure",
    ),
    "a language that not everybody may use": (
        ("REVOKE USAGE ON LANGUAGE sql FROM PUBLIC",),
        "SELECT lanacl::text FROM pg_language WHERE lanname = 'sql'",
    ),
    "plpgsql's owner and comments": (
        (
            """DO $$ BEGIN CREATE ROLE "own {6}"; EXCEPTION WHEN duplicate_object THEN END $$""",
            'ALTER LANGUAGE plpgsql OWNER TO "own {6}"',
            "COMMENT ON LANGUAGE plpgsql IS 'ours'",
            "COMMENT ON EXTENSION plpgsql IS 'ours, too'",
        ),
        "SELECT lanowner::regrole || obj_description(l.oid, 'pg_language') || "
        "obj_description(e.oid, 'pg_extension') FROM pg_language l, pg_extension e "
        "WHERE lanname = 'plpgsql' AND extname = 'plpgsql'",
    ),
    "comments on built-in objects and on members": (
        (
            "CREATE EXTENSION hstore",
            "COMMENT ON FUNCTION hstore(text, text) IS 'c0'",
            'COMMENT ON AGGREGATE pg_catalog.count("any") IS $$c1$$',
            "COMMENT ON AGGREGATE pg_catalog.percentile_cont(float8 ORDER BY float8) IS 'c2'",
            "COMMENT ON COLUMN pg_catalog.pg_class.relname IS 'c3'",
            "COMMENT ON TYPE int4 IS 'c4'",
            "COMMENT ON CAST (int4 AS bool) IS 'c5'",
            "COMMENT ON OPERATOR pg_catalog.+ (int4, int4) IS 'c6'",
            "COMMENT ON OPERATOR CLASS int4_ops USING btree IS 'c7'",
            "COMMENT ON SCHEMA pg_catalog IS 'c8'",
            'COMMENT ON COLLATION pg_catalog."C" IS $$c9$$',
            "COMMENT ON TEXT SEARCH CONFIGURATION english IS 'c10'",
            "COMMENT ON VIEW pg_tables IS 'c11'",
        ),
        "SELECT string_agg(description, ' ' ORDER BY description) FROM pg_description "
        "WHERE description ~ '^c[0-9]+$'",
    ),
    "a check that is valid of a child alone": (
        (
            "CREATE TABLE parent (a int)",
            "INSERT INTO parent VALUES (-1)",
            "ALTER TABLE parent ADD CONSTRAINT positive CHECK (a > 0) NOT VALID",
            "CREATE TABLE child () INHERITS (parent)",
            "CREATE TABLE p (a int) PARTITION BY LIST (a)",
            "ALTER TABLE p ADD CONSTRAINT positive CHECK (a > 0) NOT VALID",
            "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        ),
        "SELECT string_agg(conrelid::regclass || ' ' || convalidated::text, ', ' ORDER BY 1) FROM "
        "(SELECT conrelid, convalidated FROM pg_constraint WHERE contype = 'c' "
        "ORDER BY conrelid::regclass::text) c",
    ),
    "no plpgsql": (
        ("CREATE TABLE t (id int)", "DROP EXTENSION plpgsql"),
        "SELECT count(*) FROM pg_extension",
    ),
    "plpgsql made again": (
        ("DROP EXTENSION plpgsql", "CREATE EXTENSION plpgsql"),
        "SELECT count(*) FROM pg_extension",
    ),
    "plpgsql made again, with another comment": (
        (
            "DROP EXTENSION plpgsql",
            "CREATE EXTENSION plpgsql",
            "COMMENT ON EXTENSION plpgsql IS 'ours'",
        ),
        "SELECT count(*) FROM pg_extension",
    ),
}


@pytest.mark.parametrize("kind", CARRIED)
def test_it_is_carried(one_source: Source, kind: str, tmp_path: Path) -> None:
    statements, query = CARRIED[kind]
    endpoint = one_source.create()
    one_source.execute(endpoint, *statements)
    wanted = read(endpoint, query)
    backup = taken(endpoint, tmp_path)
    assert_passes(verified(backup))
    copy = restored_by_script(one_source, backup)
    assert read(copy, query) == wanted
    with endpoint.connect(autocommit=True) as there, copy.connect(autocommit=True) as here:
        assert not compare_catalogues(read_catalogues(there), here)


REORDERED = (
    "CREATE TABLE parent (a int)",
    "CREATE TABLE child (own int) INHERITS (parent)",
    "ALTER TABLE parent ADD COLUMN late int",
)
# What no statement puts back: it is no PASS, and it is named.
LOST: dict[str, tuple[tuple[str, ...], str]] = {
    "a row type whose columns change places": (
        (
            *REORDERED,
            "CREATE TABLE keeper (id int, x child)",
            "INSERT INTO keeper VALUES (1, ROW(1, 2, 3)::child)",
        ),
        "ROW TYPE public.child",
    ),
    "the same in an array of a domain": (
        (
            *REORDERED,
            "CREATE DOMAIN children AS child[]",
            "CREATE TYPE pair AS (n int, c children)",
            "CREATE TABLE keeper (id int, x pair[])",
        ),
        "ROW TYPE public.child",
    ),
    "an operator in pg_catalog": (
        (
            "CREATE FUNCTION same(point, point) RETURNS bool LANGUAGE sql AS 'SELECT $1 ~= $2'",
            "CREATE OPERATOR pg_catalog.~~~ (LEFTARG = point, RIGHTARG = point, FUNCTION = same)",
        ),
        "OPERATOR pg_catalog.~~~",
    ),
    "an aggregate in pg_catalog": (
        ("CREATE AGGREGATE pg_catalog.my_sum (int) (SFUNC = int4pl, STYPE = int)",),
        "my_sum(integer)",
    ),
    "a function that was made an extension's": (
        (
            "CREATE EXTENSION hstore",
            "CREATE FUNCTION extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "ALTER EXTENSION hstore ADD FUNCTION extra()",
        ),
        "extra()",
    ),
    "a built-in configuration under another name": (
        ("ALTER TEXT SEARCH CONFIGURATION pg_catalog.german RENAME TO deutsch",),
        "pg_catalog.deutsch: missing",
    ),
    "a built-in configuration that is gone": (
        ("DROP TEXT SEARCH CONFIGURATION pg_catalog.german",),
        "pg_catalog.german: unexpected",
    ),
    "a row type in a view": (
        (
            *REORDERED,
            "CREATE VIEW v AS SELECT (ROW(1, 2, 3)::child).own",
        ),
        "ROW TYPE public.child",
    ),
    "an operator in a built-in operator family": (
        (
            "CREATE FUNCTION lt(int, numeric) RETURNS bool LANGUAGE sql IMMUTABLE "
            "AS 'SELECT $1::numeric < $2'",
            "CREATE OPERATOR < (LEFTARG = int, RIGHTARG = numeric, FUNCTION = lt)",
            "ALTER OPERATOR FAMILY integer_ops USING btree ADD OPERATOR 1 < (int, numeric)",
        ),
        "operator 1 (integer, numeric) of pg_catalog.integer_ops",
    ),
    "a built-in cast that is implicit now": (
        (
            "UPDATE pg_cast SET castcontext = 'i' WHERE castsource = 'int4'::regtype "
            "AND casttarget = 'bool'::regtype",
        ),
        "CAST (integer AS boolean)",
    ),
    "an index on a catalogue": (
        (
            "SET allow_system_table_mods = on",
            "CREATE INDEX mine ON pg_catalog.pg_proc (procost)",
        ),
        "INDEX pg_catalog.mine: missing",
    ),
    "a type in information_schema": (
        ("CREATE TYPE information_schema.mood AS ENUM ('sad')",),
        "mood",
    ),
    "a view in information_schema": (
        ("CREATE VIEW information_schema.mine AS SELECT 1 AS a",),
        "information_schema.mine",
    ),
    "a table that was made an extension's": (
        (
            "CREATE SCHEMA x",
            "CREATE EXTENSION hstore SCHEMA x",
            "CREATE TABLE x.t (a int)",
            "ALTER EXTENSION hstore ADD TABLE x.t",
        ),
        "x.t",
    ),
}


@pytest.mark.parametrize("kind", LOST)
def test_it_is_no_pass(one_source: Source, kind: str, tmp_path: Path) -> None:
    statements, named = LOST[kind]
    endpoint = one_source.create()
    one_source.execute(endpoint, *statements)
    receipt = verified(taken(endpoint, tmp_path))
    assert receipt.verdict is Verdict.FAIL
    found = receipt.check("schema_matches")
    assert named in "\n".join((found.summary, *found.details)), found


@pytest.mark.parametrize(
    "function",
    [
        "mk() RETURNS child LANGUAGE sql AS 'SELECT ROW(1, 2, 3)::public.child'",
        "mk() RETURNS SETOF child LANGUAGE sql AS 'SELECT 1, 2, 3'",
        "mk(c child DEFAULT ROW(1, 2, 3)) RETURNS int LANGUAGE sql AS 'SELECT (c).own'",
        "mk(OUT a int, OUT c child) LANGUAGE sql AS 'SELECT 1, ROW(1, 2, 3)::public.child'",
    ],
)
def test_a_function_that_makes_rows_of_columns_in_another_order_is_inconclusive(
    one_source: Source, tmp_path: Path, function: str
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, *REORDERED, f"CREATE FUNCTION {function}")
    receipt = verified(taken(endpoint, tmp_path))
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert "row type public.child" in receipt.check("schema_matches").summary


def test_columns_in_another_order_that_are_found_by_name_change_nothing(
    one_source: Source, tmp_path: Path
) -> None:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        *REORDERED,
        "INSERT INTO child VALUES (1, 2, 3)",
        "CREATE VIEW v AS SELECT c.own, c IS NULL AS e FROM child c",
        "CREATE FUNCTION own_of(child) RETURNS text LANGUAGE sql AS 'SELECT $1.own::text'",
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER t BEFORE UPDATE ON child FOR EACH ROW "
        "WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION tf()",
    )
    assert_passes(verified(taken(endpoint, tmp_path)))


def test_an_extension_without_one_of_its_functions_is_inconclusive(
    one_source: Source, tmp_path: Path
) -> None:
    """It may as well be the server here that has another build of it."""
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE EXTENSION hstore",
        "ALTER EXTENSION hstore DROP FUNCTION hstore(text, text)",
        "DROP FUNCTION hstore(text, text)",
    )
    receipt = verified(taken(endpoint, tmp_path))
    assert receipt.verdict is Verdict.INCONCLUSIVE
    assert "hstore" in receipt.check("schema_matches").summary


CREATED = {
    "an ordinary database": [],
    "with extensions, used and granted": [
        "CREATE EXTENSION hstore",
        "CREATE EXTENSION pg_trgm",
        "GRANT EXECUTE ON FUNCTION hstore(text, text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC",
        "ANALYZE",
    ],
    "an extension that was updated": [
        "CREATE EXTENSION pg_trgm VERSION '1.3'",
        "ALTER EXTENSION pg_trgm UPDATE",
    ],
}


@pytest.mark.parametrize("kind", CREATED)
def test_nothing_is_found_that_is_not_there(source: Source, kind: str, tmp_path: Path) -> None:
    endpoint = source.create()
    source.execute(endpoint, *CREATED[kind])
    assert_passes(verified(taken(endpoint, tmp_path)))


def chosen(endpoint: Endpoint) -> set[str]:
    """Return what is listed as changed, besides what is listed of every database."""
    with endpoint.connect(autocommit=True) as connection:
        prepare_session(connection)
        adjusted = {adjustment.tag for adjustment in read_adjustments(connection)}
        found = read_catalogues(connection)
    listed = {"text search configurations", "members of extensions", "languages"}
    others = {item.identity for name in found.keys() - listed for item in found[name]}
    return adjusted | others


LATER: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "an extension": ("CREATE EXTENSION hstore",),
    "no comment on template0": ("COMMENT ON DATABASE template0 IS NULL",),
    "another comment on template0": ("COMMENT ON DATABASE template0 IS 'ours'",),
    "plpgsql is dropped": ("DROP EXTENSION plpgsql",),
    "plpgsql is made again": ("DROP EXTENSION plpgsql", "CREATE EXTENSION plpgsql"),
    "privileges in information_schema": (
        "REVOKE SELECT ON ALL TABLES IN SCHEMA information_schema FROM PUBLIC",
    ),
    "the rows are frozen": ("VACUUM FREEZE pg_proc", "VACUUM FREEZE pg_rewrite"),
}


@pytest.mark.parametrize("later", LATER)
def test_what_was_changed_is_told_from_what_initdb_made(source: Source, later: str) -> None:
    """What is taken for changed is put back, so nothing must be that was not."""
    with run_server(source.programs) as own:  # template0 is everybody's
        endpoint = own.create()
        own.execute(endpoint, *LATER[later])
        made = {"extension plpgsql, which the source has not"} if "dropped" in later else set()
        assert chosen(endpoint) == made
        own.execute(endpoint, "ALTER FUNCTION pg_catalog.justify_hours(interval) COST 7")
        assert chosen(endpoint) - made == {
            "function justify_hours(interval)",
            "justify_hours(interval)",
        }


def test_what_can_not_be_put_back_keeps_nothing_from_being_restored(
    one_source: Source, tmp_path: Path
) -> None:
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE t AS SELECT 1 AS a",
        # No statement gives a function with such a result.
        "UPDATE pg_proc SET procost = 7 WHERE proname = 'range_recv'",
    )
    backup = taken(endpoint, tmp_path)
    receipt = verified(backup)
    assert receipt.check("restores_cleanly").verdict is Verdict.PASS
    assert receipt.check("schema_matches").verdict is Verdict.FAIL
    assert "range_recv" in receipt.check("schema_matches").summary
    assert read(restored_by_script(one_source, backup), "SELECT a FROM public.t") == 1


NO_DDL = (
    "CREATE TABLE t AS SELECT 1 AS a",
    "CREATE MATERIALIZED VIEW mv AS SELECT * FROM t",
    "CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'no DDL here: %', tg_tag; END $$",
    "COMMENT ON FUNCTION no_ddl() IS 'it refuses'",
    "CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl()",
    "COMMENT ON EVENT TRIGGER no_ddl IS 'it refuses'",
)
# A function looks at what nothing says that it depends on.
LOOKING = (
    "CREATE TABLE z (id int PRIMARY KEY)",
    "INSERT INTO z SELECT n FROM generate_series(1, 2000) n",
    "CREATE FUNCTION is_there(i int) RETURNS bool LANGUAGE sql AS "
    "'SELECT EXISTS (SELECT FROM public.z WHERE id = i)'",
    "CREATE DOMAIN known AS int CHECK (is_there(VALUE))",
    "CREATE TABLE a (id int CHECK (is_there(id)))",
    "INSERT INTO a SELECT n FROM generate_series(1, 2000) n",
    "CREATE TABLE b (id known[])",
    "INSERT INTO b SELECT ARRAY[n] FROM generate_series(1, 2000) n",
)
VIEWS_ON_VIEWS = (
    "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n",
    "CREATE MATERIALIZED VIEW m1 AS SELECT count(*) AS c FROM t",
    "CREATE FUNCTION of_m1() RETURNS bigint LANGUAGE plpgsql AS "
    "$$ BEGIN RETURN (SELECT c FROM public.m1); END $$",
    "CREATE MATERIALIZED VIEW m2 AS SELECT of_m1() AS c",
    "CREATE UNIQUE INDEX ON m1 (c)",
)


@pytest.mark.parametrize(
    "statements", [NO_DDL, LOOKING, VIEWS_ON_VIEWS], ids=["trigger", "check", "view"]
)
def test_one_backup_has_one_verdict(
    source: Source, statements: tuple[str, ...], tmp_path: Path
) -> None:
    endpoint = source.create()
    source.execute(endpoint, *statements)
    backup = taken(endpoint, tmp_path)
    for _ in range(10 if statements is NO_DDL else 3):
        assert_passes(verified(backup))
    for jobs in (1, 4):
        restored_by_script(source, backup, jobs)
    if source.programs.client_dir is None:
        stock_restores(source, backup)


def stock_restores(source: Source, backup: LocalBackup) -> None:
    """Restore the archive as anybody would, in one process and in several."""
    vault = backup.vault
    del vault
    for options in ((), ("--jobs=4",)):
        if any(name.name[-5:-4] == "." for name in backup.file("archive").glob("*.gz.*")):
            return  # parts, which have to be joined first
        target = source.create()
        done = subprocess.run(
            [
                source.programs.path("pg_restore"),
                "--exit-on-error",
                *options,
                *target.child_arguments(),
                backup.file("archive"),
            ],
            env=target.child_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kept", [(), ("functions", "row types")])
def test_what_an_earlier_release_did_not_ask_for_is_named(
    one_source: Source, tmp_path: Path, kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = one_source.create()
    one_source.execute(endpoint, "COMMENT ON FUNCTION pg_catalog.now() IS 'ours'")
    asked: list[Catalogues] = []

    def read_fewer(connection: Connection) -> Catalogues:
        asked.append(read_catalogues(connection))
        return {name: asked[0][name] for name in kept}

    monkeypatch.setattr("dagster_resil.backup.expectations.read_catalogues", read_fewer)
    receipt = verified(taken(endpoint, tmp_path))
    assert_passes(receipt)
    (named,) = [line for line in receipt.not_checked if "pg_dump does not write" in line]
    parts = named.rpartition(": ")[2].split(", ")
    assert sorted(parts) == sorted(asked[0].keys() - set(kept))
    monkeypatch.undo()
    receipt = verified(taken(endpoint, tmp_path / "all"))
    assert not [line for line in receipt.not_checked if "pg_dump does not write" in line]


def test_what_earlier_releases_did_not_list_is_not_unexpected() -> None:
    told, named = (
        Item(kind="COMMENT", identity=f"large object {number}", properties="md5")
        for number in (77, 16385)
    )
    found = compare_inventories(Inventory(items=()), Inventory(items=(told, named)))
    assert [difference.identity for difference in found] == ["large object 16385"]
    assert compare_inventories(Inventory(items=(told,)), Inventory(items=()))
    whole = Inventory(items=(), all_comments=True)
    assert len(compare_inventories(whole, Inventory(items=(told, named)))) == 2


def test_a_connection_for_catalogues_needs_no_superuser(one_source: Source) -> None:
    endpoint = one_source.create()
    with one_source.admin() as connection:
        connection.execute("CREATE ROLE looks LOGIN PASSWORD 'x'")
    try:
        login = Endpoint({**endpoint.parameters, "user": "looks"}, "x", private=True)
        with login.connect(autocommit=True) as session:
            prepare_session(session)
            found: Connection = session
            assert set(read_catalogues(found)) >= {"functions", "row types", "objects"}
    finally:
        with one_source.admin() as connection:
            connection.execute("DROP ROLE looks")
