"""What lies around a database, which a dump does not hold: memberships of roles, settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from dagster_resil.demo.damage import LocalBackup
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.inventory import compare_inventories, take_inventory
from dagster_resil.records.inventory import Inventory, Item
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from tests.conftest import Source, run_server, stock
from tests.graft import graft
from tests.taking import restore_backup, take_backup, verify_backup
from tests.verify.test_oddities import assert_passes, proved


@contextmanager
def roles(source: Source, *statements: str) -> Iterator[None]:
    """Have the roles ``adm`` and ``app``, and run some statements, on a server of several tests."""
    try:
        with source.admin() as connection:
            for statement in statements:
                connection.execute(statement)
        yield
    finally:
        source.drop_all()  # what they own
        with source.admin() as connection:
            for role in ("app", "adm"):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.fixture
def seventeen(servers: Callable[[int], Source]) -> Iterator[Source]:
    """A server that keeps who granted a membership, with options of each grant."""
    found = servers(17)
    yield found
    found.drop_all()


@pytest.fixture
def seventeen_alone() -> Iterator[Source]:
    """One without other tests' roles, which no login but a superuser could restore."""
    with run_server(stock(17)) as found:
        yield found


def read_roles(source: Source) -> tuple[Item, ...]:
    with source.admin() as connection:
        return take_inventory(connection).membership_options


# A creator is made a member with ADMIN alone, and gives itself the rest.
CREATED_BY_ITS_MEMBER = (
    "CREATE ROLE adm CREATEROLE LOGIN PASSWORD 'adm'",
    "SET ROLE adm",
    "CREATE ROLE app",
    "GRANT app TO adm",
    "RESET ROLE",
)


def test_a_membership_by_two_grantors_is_one(seventeen: Source, tmp_path: Path) -> None:
    endpoint = seventeen.create()
    with roles(seventeen, *CREATED_BY_ITS_MEMBER):
        assert_passes(proved(endpoint, tmp_path))


def test_a_lost_option_of_a_membership_fails(seventeen: Source, tmp_path: Path) -> None:
    endpoint = seventeen.create()
    backups = []
    with roles(seventeen, *CREATED_BY_ITS_MEMBER):
        for name in ("good", "other"):
            vault = tmp_path / name
            manifest = take_backup(endpoint, open_vault(vault.as_uri()), name="app")
            backups.append(LocalBackup(vault, manifest))
            with seventeen.admin() as connection:
                connection.execute("REVOKE ADMIN OPTION FOR app FROM adm CASCADE")
    lie = graft(backups[0], backups[1], tmp_path / "lie")

    receipt = verify_backup(open_vault(lie.vault.as_uri()), lie.reload())

    found = receipt.check("schema_matches")
    assert found.verdict is Verdict.FAIL
    assert "adm of app" in found.summary, found
    assert "admin" in found.summary


def test_an_inventory_without_options_stays_comparable(one_source: Source) -> None:
    """Earlier releases named a role once for each grantor, and kept no options."""
    with one_source.admin() as connection:
        now = take_inventory(connection)
    member = Item(kind="ROLE MEMBERSHIP", identity="adm", properties="of app")
    option = Item(kind="ROLE MEMBERSHIP", identity="adm of app", properties="admin")
    restored = Inventory(items=(*now.items, member), membership_options=(option,))
    told_twice = member.model_copy(update={"properties": "of app app"})
    before = Inventory.model_validate_json(
        Inventory(items=(*now.items, told_twice)).model_dump_json(exclude={"membership_options"})
    )
    assert not compare_inventories(before, restored)
    other = member.model_copy(update={"properties": "of app apt"})
    assert compare_inventories(Inventory(items=(*now.items, other)), restored)


def test_who_creates_the_roles_may_be_their_member(seventeen_alone: Source, tmp_path: Path) -> None:
    """It has ADMIN by that, which it may not grant itself."""
    seventeen = seventeen_alone
    vault = open_vault((tmp_path / "vault").as_uri())
    with roles(seventeen, *CREATED_BY_ITS_MEMBER):
        manifest = take_backup(seventeen.create(options="OWNER adm"), vault, name="app")
        before = read_roles(seventeen)
        with seventeen.admin() as connection:
            connection.execute("DROP ROLE app")
        target = seventeen.create(options="OWNER adm")
        login = Endpoint({**target.parameters, "user": "adm"}, "adm", private=True)
        report = restore_backup(vault, manifest, login)
        assert report.verdict is Verdict.PASS, report.checks
        assert read_roles(seventeen) == before


def test_a_setting_of_every_role_passes(one_source: Source, tmp_path: Path) -> None:
    vault = open_vault((tmp_path / "other").as_uri())
    endpoint = one_source.create()
    without = take_backup(endpoint, vault, name="app")
    try:
        with one_source.admin() as connection:
            connection.execute("ALTER ROLE ALL SET work_mem = '5MB'")
        assert_passes(proved(endpoint, tmp_path))
        # It is the server's: a database restored there does not have to have brought it.
        report = restore_backup(vault, without, one_source.create())
        assert report.verdict is Verdict.PASS, report.checks
    finally:
        with one_source.admin() as connection:
            connection.execute("ALTER ROLE ALL RESET work_mem")


@pytest.mark.parametrize("limit", [0, 7])
def test_a_limit_of_connections_passes(one_source: Source, limit: int, tmp_path: Path) -> None:
    """0 lets nobody but superusers in."""
    endpoint = one_source.create(options=f"CONNECTION LIMIT {limit}")
    assert_passes(proved(endpoint, tmp_path))
