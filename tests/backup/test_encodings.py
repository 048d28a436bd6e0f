"""Names and values in any encoding: of the database, of another one, or of none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import sql

from dagster_resil.backup.settings import Comparison
from dagster_resil.demo.damage import LocalBackup, change_one_value
from dagster_resil.demo.laptop import url_of
from dagster_resil.errors import BackupFailed
from dagster_resil.postgres import table_of_contents
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.base import Vault
from dagster_resil.vault.layout import manifest_name
from tests.command import resil
from tests.conftest import Source, majors, owner_session, run_server, stock
from tests.taking import in_parts, restore_backup, take_backup, verify_backup
from tests.verify.test_oddities import assert_passes

ASCII = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"


@pytest.fixture(params=[majors()[0], 17], ids=lambda major: f"pg{major}")
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """A server of its own: its roles have names that get in other tests' way."""
    with run_server(stock(request.param)) as found:
        yield found


@pytest.fixture
def one() -> Iterator[Source]:
    with run_server(stock(majors()[0])) as found:
        yield found


def execute(endpoint: Endpoint, *statements: bytes) -> None:
    """Run statements whose bytes nobody converts."""
    with owner_session(endpoint) as session:
        session.execute("SET client_encoding = 'SQL_ASCII'")
        for statement in statements:
            session.execute(statement)


def everywhere(name: bytes) -> Sequence[bytes]:
    """Return statements that put some bytes into every kind of name, and into values."""
    words = (
        'CREATE ROLE "o$"',
        'CREATE ROLE "m$"',
        'GRANT "o$" TO "m$"',
        'CREATE SCHEMA "s$" AUTHORIZATION "o$"',
        "CREATE TYPE \"s$\".\"e$\" AS ENUM ('l$', 'other')",
        'CREATE DOMAIN "s$"."d$" AS text CONSTRAINT "k$" CHECK (VALUE <> \'v$\')',
        'CREATE TABLE "s$"."t$" (id serial PRIMARY KEY, "c$" text DEFAULT \'d$\', k "s$"."e$" '
        'DEFAULT \'l$\', l "s$"."d$", a text[] DEFAULT \'{"a$",NULL}\')',
        'INSERT INTO "s$"."t$" (a) SELECT NULL FROM generate_series(1, 300)',
        'INSERT INTO "s$"."t$" ("c$") SELECT repeat(\'x$\', n) FROM generate_series(1, 50) n',
        'ALTER TABLE "s$"."t$" OWNER TO "o$"',
        'GRANT SELECT ("c$") ON "s$"."t$" TO "m$"',
        'COMMENT ON TABLE "s$"."t$" IS \'about $\'',
        'COMMENT ON COLUMN "s$"."t$"."c$" IS \'about c$\'',
        "COMMENT ON ROLE \"o$\" IS 'about o$'",
        'CREATE VIEW "s$"."v$" AS SELECT "c$", \'w$\'::text AS x FROM "s$"."t$"',
        'CREATE SEQUENCE "s$"."q$" START 5',
        'SELECT nextval(\'"s$"."q$"\')',
        'CREATE INDEX "i$" ON "s$"."t$" ("c$") WHERE "c$" <> \'p$\'',
        'CREATE FUNCTION "s$"."f$"("a$" text DEFAULT \'b$\') RETURNS text LANGUAGE sql AS '
        "$f$ SELECT 'y$' || \"a$\" $f$",
        'ALTER TABLE "s$"."t$" ENABLE ROW LEVEL SECURITY',
        'CREATE POLICY "p$" ON "s$"."t$" TO "o$" USING ("c$" <> \'z$\')',
        'CREATE TABLE "s$"."parts$" ("c$" text) PARTITION BY LIST ("c$")',
        'CREATE TABLE "s$"."part$" PARTITION OF "s$"."parts$" FOR VALUES IN (\'in$\')',
        'INSERT INTO "s$"."parts$" VALUES (\'in$\')',
        'CREATE PUBLICATION "pub$" FOR TABLE "s$"."t$"',
        'CREATE FOREIGN DATA WRAPPER "w$"',
        'CREATE SERVER "srv$" FOREIGN DATA WRAPPER "w$" OPTIONS ("opt$" \'val$\')',
        "ALTER ROLE \"o$\" SET my.setting = 'to $'",
    )
    return [
        word.encode().replace(b"$f$", b"\0").replace(b"$", name).replace(b"\0", b"$f$")
        for word in words
    ]


NAMES = {"no UTF-8": b"\xe9\xe9\x80\xff", "UTF-8": "ü\u20ac".encode(), "cut off": b"\xc3"}


@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("compare", ["contents", "text", "counts"])
def test_a_database_without_an_encoding(
    one: Source, vault: Vault, which: str, compare: Comparison
) -> None:
    database = one.create(options=ASCII)
    execute(database, *everywhere(NAMES[which]))
    manifest = take_backup(database, vault, name="app", settings=in_parts(compare=compare))
    assert manifest.source.client_encoding == "LATIN1"
    assert manifest.rows == 351
    receipt = verify_backup(vault, manifest)
    if compare == "counts":
        assert receipt.check("contents_match").verdict is Verdict.INCONCLUSIVE
        receipt = receipt.model_copy(
            update={
                "checks": tuple(c for c in receipt.checks if c.name != "contents_match"),
                "verdict": Verdict.PASS,
            }
        )
    assert_passes(receipt)


def test_a_change_in_a_database_without_an_encoding_is_found(
    one: Source, vault: Vault, tmp_path: Path
) -> None:
    database = one.create(options=ASCII)
    execute(database, *everywhere(b"\xe9"))
    manifest = take_backup(database, vault, name="app")
    backup = LocalBackup(tmp_path / "vault", manifest)
    change_one_value(backup, "s\xe9", "t\xe9", b"x\xe9", b"x\xe8")
    receipt = verify_backup(vault, backup.reload())
    assert receipt.check("contents_match").verdict is Verdict.FAIL
    assert receipt.check("schema_matches").verdict is Verdict.PASS


def test_it_is_restored_by_every_way(source: Source, vault: Vault, tmp_path: Path) -> None:
    database = source.create(options=ASCII)
    execute(database, *everywhere(b"\xe9\xfc"))
    manifest = take_backup(database, vault, name="app")
    assert_passes(verify_backup(vault, manifest))
    with run_server(stock(source.major)) as other:
        target = other.create(options=ASCII)
        report = restore_backup(vault, manifest, target)
        assert report.verdict is Verdict.PASS, report.checks
        target = other.create(options=ASCII)
        said = resil(
            "restore", "latest", "--name", "app", "--vault", vault.url, "--to-env", "TO",
            TO=url_of(target),
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
    with run_server(stock(source.major)) as other:
        target = other.create(options=ASCII)
        folder = tmp_path / "vault" / "app" / "backups" / manifest.backup_id
        done = subprocess.run(
            ["sh", "restore.sh", url_of(target)],
            cwd=folder,
            env={**os.environ, "PATH": f"{source.programs.bin_dir}:{os.environ['PATH']}"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        again = take_backup(target, vault, name="restored")
        assert [(t.title, t.rows, t.fingerprint) for t in again.tables] == [
            (t.title, t.rows, t.fingerprint) for t in manifest.tables
        ]


def test_a_backup_of_an_earlier_release_is_verified_as_before(
    one: Source, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read names in UTF-8, which those had to be in; values might be anything."""
    database = one.create(options=ASCII)
    execute(
        database,
        *everywhere("ü€".encode()),
        b"CREATE TABLE bytes AS SELECT '\xe9\xff'::text AS a",
    )
    with monkeypatch.context() as earlier:
        earlier.setitem(table_of_contents._CODECS, "SQL_ASCII", "utf-8")
        manifest = take_backup(replace(database, ascii_encoding="UTF8"), vault, name="app")
    file = tmp_path / "vault" / manifest_name(manifest.backup_id)
    document = json.loads(file.read_text())
    assert document["source"].pop("client_encoding") == "UTF8"
    file.chmod(0o600)
    file.write_text(json.dumps(document))
    manifest = LocalBackup(tmp_path / "vault", manifest).reload()
    assert "sü€.tü€" in {table.title for table in manifest.tables}
    assert_passes(verify_backup(vault, manifest))
    with run_server(stock(one.major)) as other:
        report = restore_backup(vault, manifest, other.create(options=ASCII))
        assert report.verdict is Verdict.PASS, report.checks
    # The same database under the same name, though its names read otherwise now.
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))


def in_latin1(source: Source, *statements: bytes) -> None:
    execute(source.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"), *statements)


def test_a_role_of_another_databases_encoding_is_passed_over(source: Source, vault: Vault) -> None:
    database = source.create()
    name = database.parameters["dbname"].encode()
    in_latin1(
        source,
        # What begins a character of three bytes in UTF-8, and ends the name.
        b'CREATE ROLE "caf\xe9"',
        b'GRANT "caf\xe9" TO pg_monitor',
        b"COMMENT ON DATABASE " + name + b" IS 'caf\xe9'",
        b'CREATE ROLE "gr\xfcn"',
        b"CREATE ROLE member",
        b'GRANT "gr\xfcn" TO member',
        b"CREATE ROLE readable",
        b"CREATE ROLE other_member",
        b'GRANT readable, "gr\xfcn" TO other_member',
        b'GRANT readable TO "gr\xfcn"',
        b"ALTER ROLE \"gr\xfcn\" SET work_mem = '5MB'",
        b"COMMENT ON ROLE \"gr\xfcn\" IS 'gr\xfcn'",
        b'CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO "gr\xfcn"',
    )
    source.execute(database, "CREATE TABLE t AS SELECT 1 AS a")
    manifest = take_backup(database, vault, name="app")
    receipt = verify_backup(vault, manifest)
    assert_passes(receipt)
    assert any(line.startswith("the comment on the database,") for line in receipt.not_checked)


NEEDED = {
    "owner": "ALTER TABLE t OWNER TO {}",
    "grant": "GRANT SELECT ON t TO {}",
    "policy": "CREATE POLICY p ON t TO {}",
    "grant on the database": "GRANT CONNECT ON DATABASE %2$I TO {}",
    "owner of the database": "ALTER DATABASE %2$I OWNER TO {}",
    "default privileges": "ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT SELECT ON TABLES TO PUBLIC",
}


@pytest.mark.parametrize("why", NEEDED)
def test_such_a_role_is_named_where_the_database_needs_it(
    one: Source, vault: Vault, why: str
) -> None:
    in_latin1(one, b'CREATE ROLE "gr\xfcn"')
    database = one.create()
    one.execute(database, "CREATE TABLE t AS SELECT 1 AS a")
    one.execute(
        database,
        "DO $$ BEGIN EXECUTE format('" + NEEDED[why].replace("{}", "%1$I") + "', "
        "(SELECT rolname FROM pg_roles WHERE rolname LIKE 'gr%'), current_database()); END $$",
    )
    with pytest.raises(BackupFailed, match=r"role 'gr\\xfcn' owns something") as stopped:
        take_backup(database, vault, name="app")
    said = resil(
        "backup", "--url-env", "DB", "--name", "app", "--vault", vault.url, "--json",
        DB=url_of(database),
    )  # fmt: skip
    assert said.returncode == 4
    assert r"'gr\xfcn'" in json.loads(said.stdout)["error"]["message"]
    # The hint is good as it stands.
    one.execute(database, stopped.value.hint.partition("server: ")[2])
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))


@pytest.mark.parametrize("encoding", ["WIN1252", "EUC_JP", "LATIN2", "UTF8"])
def test_a_role_that_can_not_be_converted_is_named(
    one: Source, vault: Vault, encoding: str
) -> None:
    with one.admin() as session:
        session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier("Ё-role")))
    database = one.create(options=f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    one.execute(database, "CREATE TABLE t AS SELECT 1 AS a")
    if encoding in ("LATIN2", "UTF8"):
        assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))
        return
    with pytest.raises(BackupFailed) as stopped:
        take_backup(database, vault, name="app")
    assert r"role '\xd0\x81-role'" in stopped.value.message
    assert "rename the role" in stopped.value.hint


def test_a_latin1_database_with_roles_in_utf8(one: Source, vault: Vault) -> None:
    with one.admin() as session:
        session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier("grün")))
    database = one.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    execute(
        database,
        b"CREATE TABLE \"t\xfc\" AS SELECT '\xfc'::text AS a",
        b'ALTER TABLE "t' + b'\xfc" OWNER TO "' + "grün".encode() + b'"',
    )
    assert_passes(verify_backup(vault, take_backup(database, vault, name="app")))


def test_a_difference_of_a_latin1_schema_can_be_told(
    one: Source, vault: Vault, tmp_path: Path
) -> None:
    database = one.create(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    execute(database, b"CREATE TABLE t (a text DEFAULT 'gr\xfcn')")
    backup = LocalBackup(tmp_path / "vault", take_backup(database, vault, name="app"))
    backup.rewrite("expectations/schema.sql", lambda data: data.replace(b"gr\xfcn", b"rot\xfc"))
    backup.make_checksums_fit()
    receipt = verify_backup(vault, backup.reload())
    assert receipt.check("schema_matches").verdict is Verdict.FAIL
    assert "\\xfc" in "\n".join(receipt.check("schema_matches").details)
