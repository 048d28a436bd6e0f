"""A healthy database passes, whatever it is made of. RESIL_TEST_SEEDS=7-9,12 tries those seeds."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.records.verdict import Verdict
from tests.conftest import Source, majors, owner_session
from tests.schemas import Maker
from tests.verify.test_catalogues import restored_by_script, taken, verified

USUAL = range(1, 5)
MANY = 300


def _seeds() -> list[int]:
    found: list[int] = []
    for word in filter(None, os.environ.get("RESIL_TEST_SEEDS", "").split(",")):
        first, _, last = word.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.fixture
def roles(source: Source) -> Iterator[list[str]]:
    """Roles of this test's own, on a server that other tests use too."""
    names = [f'"r {secrets.token_hex(4)}"' for _ in range(2)]
    with source.admin() as connection:
        for name in names:
            connection.execute(f"CREATE ROLE {name}")
    yield names
    source.drop_all()
    with source.admin() as connection:
        for name in names:
            connection.execute(f"DROP ROLE {name}")


def tried(source: Source, roles: list[str], seed: int, folder: Path) -> Maker:
    endpoint = source.create()
    with owner_session(endpoint) as session:
        maker = Maker(session, seed, roles)
        maker.make()
    backup = taken(endpoint, folder)
    receipt = verified(backup)
    assert receipt.verdict is Verdict.PASS, (
        f"RESIL_TEST_SEEDS={seed}, PostgreSQL {source.major}: "
        f"{[check for check in receipt.checks if check.verdict is not Verdict.PASS]}"
    )
    if seed % 3 == 0:
        restored_by_script(source, backup)
    source.drop_all()
    return maker


@pytest.mark.parametrize("seed", _seeds() or USUAL)
def test_a_healthy_database_passes(
    source: Source, roles: list[str], seed: int, tmp_path: Path
) -> None:
    tried(source, roles, seed, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1, MANY + 1, 25))
def test_hundreds_of_healthy_databases_pass(
    source: Source, roles: list[str], first: int, tmp_path: Path
) -> None:
    """Each seed with one version; three versions are all seeds."""
    for seed in range(first, first + 25):
        if seed % len(majors()) == majors().index(source.major):
            tried(source, roles, seed, tmp_path / str(seed))


def test_there_is_something_of_everything(one_source: Source) -> None:
    """A generator that PostgreSQL refuses everything of would find nothing."""
    made: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    roles = ["pg_monitor", "pg_read_all_data"]
    for seed in range(1, 13):
        with owner_session(one_source.create()) as session:
            maker = Maker(session, seed, roles)
            maker.make()
        made += maker.made
        refused += maker.refused
    assert refused.total() < made.total() / 5, refused.most_common(20)
    assert len(made) >= 60, sorted(made)
