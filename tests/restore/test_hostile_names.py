"""Names and values that try to be commands of psql: every way of restoring takes them for names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.inventory import take_inventory
from dagster_resil.postgres.quoting import escaped, quoted_value
from dagster_resil.postgres.server import hand_over
from dagster_resil.postgres.server_inventory import take_server_inventory
from dagster_resil.postgres.session import prepare_session
from dagster_resil.process import run
from dagster_resil.records.inventory import Item
from dagster_resil.records.manifest import Manifest
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.local import LocalVault
from tests.conftest import Source, run_server, stock
from tests.restore.test_restore import sh
from tests.taking import restore_backup, take_backup, verify_backup

CONTROL = [*map(chr, range(1, 32)), "\x7f"]
PIECES = [
    *CONTROL,
    *("\\", '"', "'", "$", "$$", "$do$", "$run", ":db", ':"db"', ":'db'", "--", "/*", "*/", ";"),
    *("\r\n", "\n\n", "\\\n", "'\\", "E'", 'U&"', "\\000D", "\\n", "%s", "{}", "\u0085", "\u2028"),
    *("-- end roles\n", "\n\\endif\n", "\n\\unrestrict x\n", "`touch RAN`", "ü", " "),
]
"""What names begin and end with, round a command that makes the file RAN."""
EVERYTHING = "".join(CONTROL) + "\\\"'$do$:db--/*\\!;"


def odd(piece: str) -> str:
    return f"{piece}\\! touch RAN #{piece}x"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that has to be empty in the end."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


def fill(source: Source, folder: Path) -> Endpoint:
    """Make a database with odd names, and odd values, of every kind that globals.sql has."""

    def quoted(connection: Connection, template: str, *parts: str) -> None:
        made = [
            sql.Identifier(part) if place == "{}" else sql.Literal(part)
            for place, part in zip(
                [p for p in template.replace("{!}", " {!} ").split() if p in ("{}", "{!}")],
                parts,
                strict=True,
            )
        ]
        connection.execute(sql.SQL(template.replace("{!}", "{}")).format(*made))

    endpoint = source.create(EVERYTHING)
    with source.admin() as connection:
        roles = [odd(piece) for piece in PIECES]
        for number, role in enumerate(roles):
            quoted(connection, "CREATE ROLE {} LOGIN CONNECTION LIMIT 3", role)
            quoted(connection, "COMMENT ON ROLE {} IS {!}", role, odd(PIECES[number]) * 2)
            quoted(connection, "ALTER ROLE {} SET my.value = {!}", role, odd(PIECES[number]) * 2)
            quoted(connection, "ALTER ROLE {} SET my.a$b = {!}", role, PIECES[number])
            quoted(
                connection,
                "ALTER ROLE {} IN DATABASE {} SET my.value = {!}",
                *(role, EVERYTHING, PIECES[number]),
            )
            quoted(connection, "ALTER ROLE {} SET search_path = {!} , {!}", role, role, "a, b")
            quoted(connection, "GRANT SET ON PARAMETER my.value TO {}", role)
            quoted(connection, "GRANT CREATE ON DATABASE {} TO {}", EVERYTHING, role)
        for role, member in itertools.pairwise(roles):
            quoted(connection, "GRANT {} TO {} WITH ADMIN OPTION", role, member)
        quoted(connection, "COMMENT ON DATABASE {} IS {!}", EVERYTHING, "".join(map(odd, PIECES)))
        for piece in PIECES:
            setting = f"my.v{PIECES.index(piece)}"
            quoted(connection, f"ALTER DATABASE {{}} SET {setting} = {{!}}", EVERYTHING, odd(piece))
        quoted(connection, "ALTER ROLE ALL SET my.value = {!}", EVERYTHING)
        connection.execute("SET allow_in_place_tablespaces = on")
        for role in roles:
            quoted(connection, "CREATE TABLESPACE {} OWNER {} LOCATION {!}", role, role, "")
            quoted(connection, "COMMENT ON TABLESPACE {} IS {!}", role, role)
            quoted(connection, "GRANT CREATE ON TABLESPACE {} TO {}", role, roles[0])
        place = folder / (EVERYTHING.replace("'", "").replace("/", "") + "\\! touch RAN")
        place.mkdir()
        hand_over(place)
        quoted(connection, "CREATE TABLESPACE {} LOCATION {!}", EVERYTHING, str(place))
        connection.execute("ALTER TABLESPACE pg_default SET (random_page_cost = 2)")
    with endpoint.connect(autocommit=True) as connection:
        quoted(connection, "CREATE TABLE public.t AS SELECT 1 AS a")
        quoted(connection, "ALTER TABLE public.t OWNER TO {}", roles[9])
        quoted(connection, "GRANT SELECT ON public.t TO {}", roles[12])
    return endpoint


def around(endpoint: Endpoint, *, tablespaces: bool) -> tuple[list[Item], list[Item]]:
    with endpoint.connect(autocommit=True) as connection:
        prepare_session(connection)
        kinds = {"ROLE MEMBERSHIP", "ROLE SETTING", "DATABASE SETTING", "DATABASE"}
        inventory = take_inventory(connection)
        items = [item for item in inventory.items if item.kind in kinds]
        return [*items, *inventory.membership_options], [
            item
            for item in take_server_inventory(connection)
            if tablespaces or item.kind != "TABLESPACE"
        ]


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[Source, Endpoint]]:
    with run_server(stock(15)) as found:
        # Not pytest's own folder, which the user that root's servers run as can't enter.
        yield found, fill(found, found.server.socket_dir)


@pytest.fixture
def taken(hostile: tuple[Source, Endpoint], vault: LocalVault, elsewhere: Path) -> Manifest:
    del elsewhere
    return take_backup(hostile[1], vault, name="app")


def test_no_name_is_a_command_for_us(
    hostile: tuple[Source, Endpoint], taken: Manifest, vault: LocalVault
) -> None:
    receipt = verify_backup(vault, taken)
    assert receipt.verdict is Verdict.PASS, receipt.checks
    with run_server(stock(15)) as other:
        target = other.create()
        report = restore_backup(vault, taken, target)
        assert report.verdict is Verdict.PASS, report.checks
        assert around(target, tablespaces=False) == around(hostile[1], tablespaces=False)


@pytest.mark.parametrize("major", [15, 16, 17, 18])
def test_no_name_is_a_command_for_psql(
    hostile: tuple[Source, Endpoint], taken: Manifest, vault: LocalVault, major: int
) -> None:
    """That of 16.2 does not know ``\\restrict``."""
    folder = vault.path / "app" / "backups" / taken.backup_id
    programs = stock(major)
    with run_server(stock(15)) as other:
        target = other.create()
        done = sh(folder, Source(other.server, programs), target)
        assert done.returncode == 0, done.stderr
        assert around(target, tablespaces=False) == around(hostile[1], tablespaces=False)


@pytest.mark.parametrize("major", [15, 16, 18])
def test_the_whole_file_runs_by_hand(
    hostile: tuple[Source, Endpoint], taken: Manifest, vault: LocalVault, major: int
) -> None:
    _, endpoint = hostile
    file = vault.path / "app" / "backups" / taken.backup_id / "globals.sql"
    text = file.read_text()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    with endpoint.connect() as connection:
        place = connection.execute(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = %s",
            [EVERYTHING],
        ).fetchone()
    assert place
    # The folder is taken, by the source's own server.
    other_place = f"{place[0]}-{major}"
    Path(other_place).mkdir()
    hand_over(Path(other_place))
    file = file.with_name("elsewhere.sql")
    file.write_text(text.replace(quoted_value(place[0]), quoted_value(other_place)))
    with run_server(stock(15)) as other:
        target = other.create()
        options = {"options": "-c allow_in_place_tablespaces=on"}
        by_hand = Endpoint({**target.parameters, **options}, target.password, private=True)
        done = run(
            [
                *(stock(major).path("psql"), "-X", "-q", "-v", "tablespaces=on", "-f", file),
                *by_hand.child_arguments(),
            ],
            env=by_hand.child_environment(),
        )
        assert (done.returncode, done.stderr) == (0, "")
        here, there = around(endpoint, tablespaces=True), around(target, tablespaces=True)
        assert there[0] == here[0]
        moved = [
            item.model_copy(
                update={
                    "properties": item.properties.replace(escaped(other_place), escaped(place[0]))
                }
            )
            for item in there[1]
        ]
        assert moved == here[1]
