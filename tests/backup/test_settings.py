"""Settings of a database or a login: none changes what a backup holds, nor what is compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from psycopg import sql

from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import PermissionMissing
from dagster_resil.postgres.catalogues import money_settings
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.vault.base import Vault
from tests.command import resil
from tests.conftest import Source, majors, owner_session, run_server, stock
from tests.taking import in_parts, restore_backup, take_backup, verify_backup
from tests.verify.test_oddities import assert_passes

# What prints otherwise, or means something else, under one of the settings.
OBJECTS = (
    "CREATE SCHEMA s",
    "CREATE TYPE s.mood AS ENUM ('sad', E'o\\\\k', 'NULL')",
    "CREATE TABLE s.t (a int PRIMARY KEY, b text DEFAULT E'back\\\\slash', c bytea DEFAULT "
    "'\\x00ff5c'::bytea, d text[] DEFAULT ARRAY['NULL', NULL, 'a,b'], e s.mood, f timestamptz "
    "DEFAULT '2024-02-03 04:05:06+07', g interval DEFAULT '-1 year 2 mons -3 days 04:05:06', h xml, "
    "i float8 DEFAULT 0.1, j date DEFAULT '2024-02-03', CHECK (b IS DISTINCT FROM E'\\\\'))",
    "INSERT INTO s.t (a, e) SELECT n, (enum_range(NULL::s.mood))[1 + n % 3] "
    "FROM generate_series(1, 500) n",
    "CREATE VIEW s.v AS SELECT a, b LIKE E'a\\\\_b' AS l, c = '\\xff' AS m, g, d FROM s.t "
    "WHERE d <> '{NULL,\"NULL\"}'",
    "CREATE FUNCTION s.f(x text DEFAULT E'\\\\') RETURNS text LANGUAGE sql AS $$ SELECT x $$",
    "CREATE INDEX ON s.t ((b || E'\\\\'))",
)
SETTINGS = {
    "quote_all_identifiers": "on",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "extra_float_digits": "-10",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "xmlbinary": "hex",
    "xmloption": "document",
    "search_path": "s",
    "row_security": "off",
    "backslash_quote": "off",
    "client_encoding": "LATIN1",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "10ms",
    "enable_seqscan": "off",
    "session_replication_role": "replica",
}


def unset(source: Source) -> Connection:
    """Open a session that no setting of the login keeps from taking them back."""
    endpoint = source.server.endpoint()
    options = "-c role=none -c default_transaction_read_only=off"
    return owner_session(replace(endpoint, parameters={**endpoint.parameters, "options": options}))


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Callable[[int], Source]]:
    """Servers of which a login's settings are of nobody else's concern."""
    running: dict[int, Source] = {}
    with contextlib.ExitStack() as stack:

        def get(major: int) -> Source:
            if major not in running:
                running[major] = stack.enter_context(run_server(stock(major)))
            return running[major]

        yield get


@pytest.fixture(params=majors(), ids=lambda major: f"pg{major}")
def own_source(
    request: pytest.FixtureRequest, own_servers: Callable[[int], Source]
) -> Iterator[Source]:
    found = own_servers(request.param)
    with unset(found) as connection:
        connection.execute("CREATE ROLE app_rw")
    yield found
    with unset(found) as connection:
        connection.execute("ALTER ROLE postgres RESET ALL")
    found.drop_all()
    with found.admin() as connection:
        for name in ("app_rw", "app_login"):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def set_for(source: Source, database: Endpoint, where: str, **settings: str) -> None:
    name = database.parameters["dbname"]
    head = sql.SQL("ALTER DATABASE {}").format(sql.Identifier(name))
    if where == "login":
        head = sql.SQL("ALTER ROLE {}").format(sql.Identifier("postgres"))
    elif where == "login in database":
        head = sql.SQL("ALTER ROLE postgres IN DATABASE {}").format(sql.Identifier(name))
    # Once one of them is set a session may not be able to set the next.
    with source.admin() as connection:
        for key, value in settings.items():
            words = sql.SQL(", ").join(map(sql.Literal, value.split(", ")))
            connection.execute(
                head + sql.SQL(" SET {} = ").format(sql.Identifier(key.lower())) + words
            )


@pytest.mark.parametrize("where", ["database", "login"])
@pytest.mark.parametrize(
    "name",
    ["quote_all_identifiers", "exit_on_error", "default_transaction_read_only", "array_nulls"],
)
def test_a_setting_changes_nothing(
    own_servers: Callable[[int], Source], vault: Vault, name: str, where: str
) -> None:
    source = own_servers(majors()[0])
    database = source.create()
    try:
        source.execute(database, *OBJECTS)
        set_for(source, database, where, **{name: SETTINGS[name]})
        assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))
    finally:
        with unset(source) as connection:
            connection.execute("ALTER ROLE postgres RESET ALL")
        source.drop_all()


@pytest.mark.parametrize("where", ["database", "login", "login in database"])
@pytest.mark.parametrize("compare", ["contents", "text"])
def test_all_of_them_change_nothing(
    own_source: Source, vault: Vault, where: str, compare: str
) -> None:
    database = own_source.create()
    own_source.execute(database, *OBJECTS)
    several = {key: value for key, value in SETTINGS.items() if key != "exit_on_error"}
    del several["default_transaction_read_only"]  # the restore's own login would have it too
    set_for(own_source, database, where, **several)
    manifest = take_backup(
        database,
        vault,
        name="app",
        settings=in_parts(compare=compare),
    )
    assert_passes(verify_backup(vault, manifest))
    target = own_source.create()
    report = restore_backup(vault, manifest, target)
    assert not [check for check in report.checks if str(check.verdict) != "PASS"]


@pytest.mark.parametrize("name", ["statement_timeout", "transaction_timeout"])
def test_a_time_out_does_not_end_the_first_look(
    source: Source, vault: Vault, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to be found out before anything is set takes its time in a large database."""
    if name == "transaction_timeout" and source.major < 17:
        return
    database = source.create()
    source.execute(database, "CREATE TABLE t AS SELECT 1 AS a")
    set_for(source, database, "database", **{name: "500ms"})

    def slowly(connection: Connection) -> dict[str, str]:
        connection.execute("SELECT pg_catalog.pg_sleep(0.7)")
        return money_settings(connection)

    monkeypatch.setattr("dagster_resil.backup.permissions.money_settings", slowly)
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))


@pytest.mark.parametrize("where", ["database", "login", "login in database"])
def test_the_login_itself_reads_whatever_role_it_is_set_to_be(
    own_source: Source, vault: Vault, where: str
) -> None:
    database = own_source.create()
    own_source.execute(
        database,
        "CREATE TABLE mine (a int)",
        "INSERT INTO mine VALUES (1)",
        "ALTER TABLE mine OWNER TO app_rw",
        "CREATE TABLE other (a int)",
        "INSERT INTO other VALUES (2)",
        "CREATE SEQUENCE q",
        "SELECT lo_from_bytea(0, 'abc')",
    )
    set_for(own_source, database, where, role="app_rw")
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))


def as_login(source: Source, database: Endpoint, *statements: str) -> Endpoint:
    """Make a login that is no superuser, and return its way to a database."""
    with source.admin() as connection:
        connection.execute("CREATE ROLE app_login LOGIN NOINHERIT PASSWORD 'login' IN ROLE app_rw")
        for statement in statements:
            connection.execute(statement)
    return Endpoint({**database.parameters, "user": "app_login"}, "login", private=True)


def test_a_login_that_may_read_by_a_role_alone_reads_by_it(
    own_source: Source, vault: Vault
) -> None:
    database = own_source.create()
    own_source.execute(
        database,
        "CREATE TABLE t (a int)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t OWNER TO app_rw",
    )
    login = as_login(own_source, database, "ALTER ROLE app_login SET role = 'app_rw'")
    assert_passes(verify_backup(vault, take_backup(login, vault, name="app")))


def test_a_login_that_may_read_all_reads_as_itself(own_source: Source, vault: Vault) -> None:
    database = own_source.create()
    own_source.execute(database, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    login = as_login(
        own_source,
        database,
        "CREATE ROLE nobody_at_all",
        "GRANT nobody_at_all TO app_login",
        "ALTER ROLE app_login INHERIT",
        "ALTER ROLE app_login SET role = 'nobody_at_all'",
        "GRANT pg_read_all_data TO app_login",
    )
    if own_source.major >= 16:
        with own_source.admin() as connection:
            connection.execute("GRANT pg_read_all_data TO app_login WITH INHERIT TRUE")
    try:
        assert_passes(verify_backup(vault, take_backup(login, vault, name="app")))
    finally:
        with own_source.admin() as connection:
            connection.execute("ALTER ROLE app_login RESET role")
            connection.execute("DROP ROLE nobody_at_all")


def test_a_role_that_may_not_read_is_named_with_the_setting(
    own_source: Source, vault: Vault
) -> None:
    database = own_source.create()
    own_source.execute(database, "CREATE TABLE secret (a int)")
    login = as_login(own_source, database, "ALTER ROLE app_login SET role = 'app_rw'")
    with pytest.raises(
        PermissionMissing, match=r"'app_login', who acts as 'app_rw'.*public.secret"
    ):
        take_backup(login, vault, name="app")
    said = resil("check", "--url-env", "DB", DB=url_of(login))
    assert said.returncode == 4
    assert "who acts as 'app_rw'" in said.stdout
