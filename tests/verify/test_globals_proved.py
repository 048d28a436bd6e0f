"""``globals.sql`` is a part of the backup: what it makes is compared with what the source had."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.backup.globals import read_globals
from dagster_resil.demo.damage import LocalBackup
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.globals_file import NotAsWritten, read_globals_file
from dagster_resil.postgres.inventory import take_inventory
from dagster_resil.postgres.load import apply_globals
from dagster_resil.postgres.server_inventory import take_server_inventory
from dagster_resil.postgres.session import prepare_session
from dagster_resil.records.expected import INVENTORY_OBJECT
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from tests.conftest import Source, long_majors, run_server, server_of, stock, visible
from tests.graft import copy_of
from tests.restore.test_hostile_names import around
from tests.restore.test_restore import sh
from tests.taking import restore_backup, take_backup, verify_backup
from tests.verify.test_oddities import assert_passes

OLD = Path(__file__).with_name("old_globals")

SOURCE = (
    "CREATE ROLE reporter LOGIN BYPASSRLS CREATEDB CONNECTION LIMIT 7 VALID UNTIL '2031-01-01'",
    "COMMENT ON ROLE reporter IS 'reads'",
    "CREATE ROLE idle",
    "CREATE ROLE lone",
    "CREATE ROLE team",
    "GRANT team TO reporter WITH ADMIN OPTION",
    "GRANT pg_monitor TO team",
    "GRANT team TO pg_signal_backend",
    "COMMENT ON ROLE pg_monitor IS 'watches'",
    "ALTER ROLE reporter SET work_mem = '9MB'",
    "ALTER ROLE ALL SET my.value = '1'",
    "GRANT SET, ALTER SYSTEM ON PARAMETER log_min_messages TO reporter WITH GRANT OPTION",
    "GRANT SET ON PARAMETER my.value TO PUBLIC",
    "SET allow_in_place_tablespaces = on",
    "CREATE TABLESPACE fast OWNER team LOCATION ''",
    "ALTER TABLESPACE fast SET (random_page_cost = 1.5, seq_page_cost = 2)",
    "COMMENT ON TABLESPACE fast IS 'of flash'",
    "GRANT CREATE ON TABLESPACE fast TO reporter",
    "ALTER TABLESPACE pg_default SET (random_page_cost = 3)",
    "GRANT CREATE ON TABLESPACE pg_global TO idle",
    "GRANT CREATE ON DATABASE {db} TO reporter WITH GRANT OPTION",
    "ALTER DATABASE {db} CONNECTION LIMIT 20",
    "ALTER DATABASE {db} IS_TEMPLATE true",
)


@pytest.fixture(scope="module", params=[15, 17, *long_majors()], ids="pg{}".format)
def backup(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Source, Endpoint, LocalBackup]]:
    """A server of its own with all kinds of what lies around a database, and a backup of it."""
    with visible(request.param), run_server(server_of(request.param)) as source:
        endpoint = source.create("shop")
        statements = [each.format(db="shop") for each in SOURCE]
        if source.major < 15:
            statements = [each for each in statements if " ON PARAMETER " not in each]
        source.execute(source.server.endpoint(), *statements)
        if source.major >= 16:
            source.execute(endpoint, "GRANT idle TO reporter WITH INHERIT FALSE, SET TRUE")
        source.execute(endpoint, "CREATE TABLE t (a int)", "GRANT SELECT ON t TO reporter")
        vault = tmp_path_factory.mktemp("vault")
        manifest = take_backup(endpoint, open_vault(vault.as_uri()), name="app")
        yield source, endpoint, LocalBackup(vault, manifest)


def verified(made: LocalBackup) -> Receipt:
    return verify_backup(open_vault(made.vault.as_uri()), made.reload())


def test_all_of_it_passes_and_is_restored(
    backup: tuple[Source, Endpoint, LocalBackup], tmp_path: Path
) -> None:
    source, endpoint, taken = backup
    made = copy_of(taken, tmp_path / "vault")
    receipt = verified(made)
    assert_passes(receipt)
    assert not any("bootstrap" in line or "role postgres" in line for line in receipt.not_checked)
    here = around(endpoint, tablespaces=False)
    for by_script in (False, True):
        with run_server(source.programs) as other:
            target = other.create()
            if by_script:
                done = sh(made.file(""), other, target)
                assert done.returncode == 0, done.stderr
            else:
                report = restore_backup(open_vault(made.vault.as_uri()), made.reload(), target)
                assert report.verdict is Verdict.PASS, report.checks
            assert around(target, tablespaces=False) == here


CHANGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a login": (" LOGIN ", " NOLOGIN ", ("ROLE reporter", "NOLOGIN")),
    "a right": (" BYPASSRLS", " NOBYPASSRLS", ("ROLE reporter", "NOBYPASSRLS")),
    "a superuser": (
        '"idle" WITH NOSUPERUSER',
        '"idle" WITH SUPERUSER',
        ("ROLE idle", "is SUPERUSER"),
    ),
    "inheritance": (
        '"team" WITH NOSUPERUSER INHERIT',
        '"team" WITH NOSUPERUSER NOINHERIT',
        ("ROLE team", "NOINHERIT"),
    ),
    "a limit": (
        "CONNECTION LIMIT 7",
        "CONNECTION LIMIT 0",
        ("ROLE reporter", "LIMIT 0", "LIMIT 7"),
    ),
    "no limit": (" CONNECTION LIMIT 7", "", ("ROLE reporter", "LIMIT -1")),
    "an end": ("'2031-01-01", "'2032-01-01", ("ROLE reporter", "VALID UNTIL 2032", "2031")),
    "no end": (r" VALID UNTIL '2031[^']*'", "", ("ROLE reporter", "VALID UNTIL 2031")),
    "a role less": (r'DO [^\n]*CREATE ROLE "lone"[^\n]*\n', "", ("ROLE lone: missing",)),
    "a role more": (
        r'(DO [^\n]*CREATE ROLE )"idle"([^\n]*\n)',
        r"""\g<0>DO $do$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'guest') THEN EXECUTE $run$CREATE ROLE "guest" WITH LOGIN$run$; END IF; END$do$;"""
        "\n",
        ("ROLE guest: unexpected",),
    ),
    "a role's comment": ("'reads'", "'writes'", ("ROLE reporter", "comment")),
    "a predefined role's comment": ("'watches'", "'sleeps'", ("ROLE pg_monitor", "comment")),
    "a membership less": (r'GRANT "pg_monitor" TO "team"[^\n]*\n', "", ("team",)),
    "a membership of a predefined role less": (
        r'GRANT "team" TO "pg_signal_backend"[^\n]*\n',
        "",
        ("pg_signal_backend",),
    ),
    "a membership more": (
        r'GRANT "team" TO "reporter";\n',
        r'\g<0>GRANT "team" TO "idle";\n',
        ("ROLE MEMBERSHIP idle",),
    ),
    "a role's setting": ("'9MB'", "'8MB'", ("reporter", "work_mem")),
    "a setting of all": (r'(ALTER ROLE ALL SET "my.value" TO) \'1\'', r"\1 '2'", ("ALL", "my.val")),
    "a grant on a parameter less": (
        r"DO [^\n]*GRANT ALTER SYSTEM ON PARAMETER[^\n]*\n",
        "",
        ("PARAMETER log_min_messages", "ALTER SYSTEM to role reporter"),
    ),
    "a grant on a parameter without its option": (
        r'(GRANT SET ON PARAMETER "log_min_messages" TO "reporter") WITH GRANT OPTION',
        r"\1",
        ("PARAMETER log_min_messages", "SET to role reporter"),
    ),
    "a grant on a parameter to everybody less": (
        r"DO [^\n]*GRANT SET ON PARAMETER \"my.value\"[^\n]*\n",
        "",
        ("PARAMETER my.value: missing",),
    ),
    "a tablespace less": (
        r'[^\n]*TABLESPACE "fast"[^\n]*\n',
        "",
        ("TABLESPACE fast: missing",),
    ),
    "a tablespace's owner": (
        r'(CREATE TABLESPACE "fast" OWNER) "team"',
        r'\1 "idle"',
        ("TABLESPACE fast", "owner idle"),
    ),
    "a tablespace's place": (
        r"LOCATION ''",
        "LOCATION '/tmp'",
        ("TABLESPACE fast", "location /tmp"),
    ),
    "a tablespace's option": (
        "\"random_page_cost\" = '1.5'",
        "\"random_page_cost\" = '1.25'",
        ("TABLESPACE fast", "random_page_cost=1.25"),
    ),
    "an option of the default tablespace": (
        r'ALTER TABLESPACE "pg_default"[^\n]*\n',
        "",
        ("TABLESPACE pg_default", "random_page_cost=3"),
    ),
    "a tablespace's comment": ("'of flash'", "'of rust'", ("TABLESPACE fast", "comment")),
    "a tablespace's grant": (
        r'GRANT CREATE ON TABLESPACE "fast" TO "reporter";\n',
        "",
        ("TABLESPACE fast", "CREATE to role reporter"),
    ),
    "a grant of the database": (
        r'GRANT CREATE ON DATABASE :"db" TO "reporter"[^\n]*\n',
        "",
        ("DATABASE", "reporter=CREATE"),
    ),
    "the database's limit": (
        "CONNECTION LIMIT 20",
        "CONNECTION LIMIT 21",
        ("DATABASE", "limit 21"),
    ),
    "the database as a template": (
        r"[^\n]*IS_TEMPLATE true;\n",
        "",
        ("DATABASE", "IS_TEMPLATE false"),
    ),
}
"""What is changed in globals.sql, and what the verdict names."""


def change(made: LocalBackup, pattern: str, new: str) -> None:
    """Change what is found in globals.sql, and make every checksum fit."""

    def replace(data: bytes) -> bytes:
        text, count = re.subn(pattern, new, data.decode())
        assert count, pattern
        return text.encode()

    made.rewrite("globals.sql", replace)
    made.make_checksums_fit()


def changed(taken: LocalBackup, vault: Path, pattern: str, new: str) -> LocalBackup:
    made = copy_of(taken, vault)
    change(made, pattern, new)
    return made


# What can't be changed in the same file as the others.
APART = ("no limit", "no end", "a role less", "a tablespace less", "a grant of the database")
TOGETHER = [kind for kind in CHANGES if kind not in APART]


@pytest.mark.parametrize("backup", [15], indirect=True)
@pytest.mark.parametrize("kinds", [*(TOGETHER[n::3] for n in range(3)), *zip(APART, strict=True)])
def test_a_changed_file_fails(
    backup: tuple[Source, Endpoint, LocalBackup], kinds: tuple[str, ...], tmp_path: Path
) -> None:
    made = copy_of(backup[2], tmp_path / "vault")
    for kind in kinds:
        pattern, new, _ = CHANGES[kind]
        change(made, pattern, new)
    receipt = verified(made)
    assert receipt.verdict is Verdict.FAIL
    check = receipt.check("schema_matches")
    assert check.verdict is Verdict.FAIL, receipt.checks
    for kind in kinds:
        named = CHANGES[kind][2]
        said = [
            line
            for line in (check.summary, *check.details)
            if all(words in line for words in named)
        ]
        assert said, (kind, check)


@pytest.mark.parametrize("backup", [17], indirect=True)
@pytest.mark.parametrize("option", ["INHERIT TRUE", "SET FALSE"])
def test_a_changed_option_of_a_membership_fails(
    backup: tuple[Source, Endpoint, LocalBackup], option: str, tmp_path: Path
) -> None:
    word = option.split()[0]
    made = changed(
        backup[2],
        tmp_path / "vault",
        rf'(GRANT "idle" TO "reporter"[^\n]*){word} \w+',
        rf"\1{option}",
    )
    receipt = verified(made)
    assert "reporter of idle" in receipt.check("schema_matches").summary, receipt.checks
    assert receipt.verdict is Verdict.FAIL


STRANGE = {
    "a command of psql": "\\! touch RAN",
    "another command of psql": "\\i /etc/passwd",
    "a command behind a statement": "SET search_path = ''; \\! touch RAN",
    "a query": "SELECT pg_catalog.pg_sleep(60);",
    "a program": "COPY (SELECT 1) TO PROGRAM 'touch RAN';",
    "a block of code": "DO $do$BEGIN PERFORM pg_catalog.pg_sleep(60); END$do$;",
    "code behind a condition": "DO $do$BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE "
    "rolname = 'x') THEN EXECUTE $run$DROP TABLE t$run$; END IF; END$do$;",
    "code in a condition": "DO $do$BEGIN IF NOT EXISTS (SELECT pg_catalog.pg_sleep(60)) THEN "
    'EXECUTE $run$CREATE ROLE "x" WITH LOGIN$run$; END IF; END$do$;',
    "a result that is run": "SELECT 'DROP TABLE t' WHERE NOT EXISTS (SELECT FROM "
    "pg_catalog.pg_roles WHERE rolname = 'x') \\gexec",
    "a password": "ALTER ROLE \"reporter\" PASSWORD 'x';",
    "another database": 'ALTER DATABASE "postgres" OWNER TO "reporter";',
    "a quote without an end": 'COMMENT ON ROLE "reporter" IS \'x;',
    "two statements": 'ALTER DATABASE :"db" CONNECTION LIMIT 20; DROP TABLE t;',
}


@pytest.mark.parametrize("part", ["roles", "tablespaces", "settings"])
@pytest.mark.parametrize("kind", STRANGE)
def test_what_a_backup_does_not_write_is_not_read(
    backup: tuple[Source, Endpoint, LocalBackup], kind: str, part: str
) -> None:
    head, found, rest = backup[2].file("globals.sql").read_text().partition(f"-- begin {part}\n")
    assert found
    line = head.count("\n") + 2
    with pytest.raises(NotAsWritten, match=rf"^globals.sql, line {line}: "):
        read_globals_file(f"{head}{found}{STRANGE[kind]}\n{rest}".encode())


@pytest.mark.parametrize("backup", [15], indirect=True)
@pytest.mark.parametrize("kind", ["a command of psql", "a program"])
def test_what_a_backup_does_not_write_is_not_run(
    backup: tuple[Source, Endpoint, LocalBackup],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    line = STRANGE[kind].replace("\\", "\\\\")
    made = changed(backup[2], tmp_path / "vault", "-- begin settings\n", rf"\g<0>{line}\n")
    receipt = verified(made)
    assert receipt.verdict is Verdict.FAIL
    assert "globals.sql, line " in receipt.check("restores_cleanly").summary
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("backup", [15], indirect=True)
def test_a_file_that_ends_early_is_not_run(
    backup: tuple[Source, Endpoint, LocalBackup], tmp_path: Path
) -> None:
    made = copy_of(backup[2], tmp_path / "vault")
    made.rewrite("globals.sql", lambda data: data[: data.index(b"-- end settings")])
    made.make_checksums_fit()
    assert "ends within a part" in verified(made).check("restores_cleanly").summary
    with run_server(backup[0].programs) as other:
        done = sh(made.file(""), other, other.create())
        assert done.returncode == 4
        assert "globals.sql is not whole" in done.stderr


def test_other_attributes_of_the_bootstrap_role_are_named(tmp_path: Path) -> None:
    with run_server(stock(15)) as source:
        endpoint = source.create()
        source.execute(
            endpoint,
            "ALTER ROLE postgres CONNECTION LIMIT 50 VALID UNTIL 'infinity'",
            "COMMENT ON ROLE postgres IS 'root'",
        )
        manifest = take_backup(endpoint, open_vault(tmp_path.as_uri()), name="app")
        made = LocalBackup(tmp_path, manifest)
        receipt = verified(made)
        assert_passes(receipt)
        named = "attributes of role postgres (a server has it before a restore)"
        assert named in receipt.not_checked
        lie = changed(made, tmp_path / "lie", "'root'", "'boot'")
        assert "ROLE postgres" in verified(lie).check("schema_matches").summary


# What the fixtures beside this file were made of, by earlier releases; both hold commands for psql
# in names of roles, and in the comment that names the tablespaces.
BEFORE = (
    "CREATE ROLE reporter LOGIN BYPASSRLS CREATEDB CONNECTION LIMIT 7 VALID UNTIL '2031-01-01'",
    "COMMENT ON ROLE reporter IS E'reads\nall it''s \\\\ given'",
    'CREATE ROLE "Odd ""role"" \n\\! touch /tmp/x :db $$ \'" ',
    "CREATE ROLE team NOLOGIN",
    "GRANT team TO reporter WITH ADMIN OPTION",
    "GRANT pg_monitor TO team",
    'ALTER ROLE reporter SET search_path = nowhere, "A b"',
    "ALTER ROLE reporter IN DATABASE shop SET application_name = E'a\\\\b\nc'",
    "ALTER DATABASE shop SET \"DateStyle\" = 'German'",
    "ALTER DATABASE shop CONNECTION LIMIT 20",
    "COMMENT ON DATABASE shop IS 'the shop'",
    "GRANT CREATE ON DATABASE shop TO reporter WITH GRANT OPTION",
)


@pytest.mark.parametrize("form", ["first", "old"])
@pytest.mark.parametrize("major", [15, 17])
def test_a_backup_of_an_earlier_release_is_verified_and_restored(
    form: str, major: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with run_server(stock(major)) as source:
        endpoint = source.create("shop")
        source.execute(source.server.endpoint(), *BEFORE)
        if form == "old":
            source.execute(endpoint, "ALTER ROLE ALL SET work_mem = '5MB'")
        manifest = take_backup(endpoint, open_vault((tmp_path / "vault").as_uri()), name="app")
        here = around(endpoint, tablespaces=False)
    made = LocalBackup(tmp_path / "vault", manifest)
    written = (OLD / f"{form}_{major}.sql").read_bytes()
    assert b"\r\\! touch INJECTED" in written
    made.rewrite("globals.sql", lambda _: written)

    def without_globals(data: bytes) -> bytes:
        document = json.loads(data)
        del document["globals"]
        return json.dumps(document).encode()

    made.rewrite(INVENTORY_OBJECT, without_globals)
    made.make_checksums_fit()

    receipt = verified(made)
    assert_passes(receipt)
    assert any("an earlier release" in line for line in receipt.not_checked)
    with run_server(stock(major)) as other:
        target = other.create()
        report = restore_backup(open_vault(made.vault.as_uri()), made.reload(), target)
        assert report.verdict is Verdict.PASS, report.checks
        assert around(target, tablespaces=False) == here
    assert list(folder.iterdir()) == []
    assert not Path("/tmp/x").exists()
    # A change is found as it was then: of memberships, settings, and what belongs to the database.
    lie = changed(made, tmp_path / "lie", "'German'", "'ISO'")
    assert verified(lie).check("schema_matches").verdict is Verdict.FAIL


def test_names_of_another_encoding_are_left_out(tmp_path: Path) -> None:
    """A role that was made from a LATIN1 database can't be made from a UTF8 one."""
    with run_server(stock(15)) as source:
        latin = source.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        endpoint = source.create("here")
        source.execute(
            latin,
            "CREATE ROLE grün",
            "CREATE ROLE plain",
            "CREATE ROLE duo",
            "GRANT grün TO duo",
            "GRANT plain TO duo",
            "GRANT plain TO grün",
            "GRANT grün TO pg_monitor",
            "ALTER ROLE grün SET work_mem = '5MB'",
            "ALTER ROLE plain SET my.value = 'blau ä'",
            "COMMENT ON ROLE plain IS 'blau ü'",
            "GRANT CREATE ON DATABASE here TO grün, plain",
            "GRANT SET ON PARAMETER my.value TO grün",
            "SET allow_in_place_tablespaces = on",
            "CREATE TABLESPACE geschützt LOCATION ''",
            "CREATE TABLESPACE other OWNER grün LOCATION ''",
            "CREATE TABLESPACE third OWNER plain LOCATION ''",
            "GRANT CREATE ON TABLESPACE third TO grün, duo",
        )
        with endpoint.connect(autocommit=True) as connection:
            prepare_session(connection)
            found = read_globals(connection)
            inventory, around_it = take_inventory(connection), take_server_inventory(connection)
        in_utf8 = "is not valid in the database's encoding UTF8"
        assert set(found.left_out) == {
            rf"role gr\xfcn, whose name {in_utf8}",
            f"the comment on role plain, which {in_utf8}",
            f"a setting of role plain, whose value {in_utf8}",
            rf"tablespace gesch\xfctzt, whose name, owner or place {in_utf8}",
            f"tablespace other, whose name, owner or place {in_utf8}",
        }
        assert found.to_bytes().decode()
        # What is left is what a server has that was made of it.
        file = tmp_path / "globals.sql"
        file.write_bytes(found.to_bytes())
        with run_server(stock(15)) as other:
            target = other.create("here")
            for part in ("roles", "tablespaces", "settings"):
                assert apply_globals(target, file, part=part, in_place=True).clean
            with target.connect(autocommit=True) as connection:
                prepare_session(connection)
                assert take_server_inventory(connection) == around_it
                again = take_inventory(connection)
        kinds = {"ROLE MEMBERSHIP", "ROLE SETTING", "DATABASE"}
        assert again.membership_options == inventory.membership_options
        assert [item for item in again.items if item.kind in kinds] == [
            item for item in inventory.items if item.kind in kinds
        ]


def test_bytes_of_no_encoding_are_kept_in_sql_ascii(tmp_path: Path) -> None:
    with run_server(stock(15)) as source, run_server(stock(15)) as other:
        options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        endpoint, target = source.create(options=options), other.create(options=options)
        file = tmp_path / "globals.sql"
        found = []
        for place in (endpoint, target):
            with place.connect(autocommit=True) as connection:
                prepare_session(connection)
                if place is endpoint:
                    for statement in (
                        b'CREATE ROLE "gr\xfcn"',
                        b"COMMENT ON ROLE \"gr\xfcn\" IS E'\xe9\\n\\\\'",
                        b"ALTER ROLE \"gr\xfcn\" SET my.value = '\xe9'",
                    ):
                        connection.execute(statement)
                    written = read_globals(connection)
                    assert written.left_out == ()
                    file.write_bytes(written.to_bytes())
                else:
                    for part in ("roles", "settings"):
                        done = apply_globals(target, file, part=part)
                        assert done.clean, done
                found.append(take_server_inventory(connection))
        assert found[0] == found[1]
        assert any(item.identity == "grün" for item in found[0])


def test_a_database_of_another_encoding_passes(tmp_path: Path) -> None:
    with run_server(stock(15)) as source:
        endpoint = source.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        source.execute(
            endpoint,
            'CREATE ROLE "gr\r\\! ün"',
            'CREATE ROLE "Ä"',
            'GRANT "Ä" TO "gr\r\\! ün"',
            "COMMENT ON ROLE \"Ä\" IS 'é\n\\! ö'",
            "CREATE TABLE t AS SELECT 1 AS a",
            'ALTER TABLE t OWNER TO "gr\r\\! ün"',
        )
        vault = open_vault(tmp_path.as_uri())
        made = LocalBackup(tmp_path, take_backup(endpoint, vault, name="app"))
        assert_passes(verified(made))
        here = around(endpoint, tablespaces=False)
        with run_server(stock(15)) as other:
            target = other.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
            done = sh(made.file(""), other, target)
            assert done.returncode == 0, done.stderr
            assert around(target, tablespaces=False) == here
