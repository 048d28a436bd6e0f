"""Values of type money are written by a locale; a backup has them whatever the locale is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagster_resil.demo.damage import LocalBackup
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault import open_vault
from dagster_resil.workspace import Workspace
from tests.conftest import Source, run_server, stock
from tests.taking import in_parts, restore_backup, take_backup, verify_backup
from tests.verify.test_catalogues import assert_passes, restored_by_script, verified

# German writes decimals behind a comma, Japanese writes none.
LOCALES = ("de_DE", "ja_JP")


@pytest.fixture
def locales() -> Iterator[Path]:
    """A folder of locales that this machine need not have."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef on this machine: UNTESTED with other locales")
    with Workspace() as space:
        folder = space.path / "locales"
        folder.mkdir()
        for name in LOCALES:
            done = subprocess.run(
                ["localedef", "-i", name, "-f", "UTF-8", f"./{name}.UTF-8"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode > 1:  # 1 is a warning
                pytest.skip(f"localedef has no {name}: UNTESTED with other locales ({done.stderr})")
        for path in (space.path, folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield folder


@pytest.fixture(params=LOCALES)
def german(
    request: pytest.FixtureRequest, locales: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Source]:
    monkeypatch.setenv("LOCPATH", str(locales))
    with run_server(stock(15), lc_monetary=f"{request.param}.UTF-8") as source:
        yield source


def total(endpoint: Endpoint) -> str:
    with endpoint.connect(autocommit=True) as connection:
        connection.execute("SET lc_monetary = 'C'")
        row = connection.execute(
            "SELECT (SELECT sum(amount) FROM public.sale)::text || (SELECT a::text FROM public.box)"
        ).fetchone()
        return str(row[0]) if row else ""


def filled(source: Source) -> Endpoint:
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE sale (id int, amount money DEFAULT 3.5::numeric::money, note text)",
        "INSERT INTO sale SELECT i, (i * 1.37)::numeric::money, repeat(md5(i::text), 4) "
        "FROM generate_series(1, 3000) i",
        "CREATE TYPE priced AS (what text, price money)",
        "CREATE TABLE box (a priced[])",
        "INSERT INTO box VALUES (ARRAY[ROW('x', 1234.5::numeric::money)::priced])",
        "CREATE VIEW dear AS SELECT id FROM sale WHERE amount > 1000.5::numeric::money",
    )
    return endpoint


def test_it_is_equal_everywhere(
    german: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = filled(german)
    vault = open_vault((tmp_path / "vault").as_uri())
    manifest = take_backup(endpoint, vault, name="app", settings=in_parts(part_bytes=1 << 18))
    backup = LocalBackup(tmp_path / "vault", manifest)
    assert_passes(verified(backup))
    wanted = total(endpoint)
    assert total(restored_by_script(german, backup)) == wanted
    target = german.create()
    report = restore_backup(vault, manifest, target)
    assert report.verdict is Verdict.PASS, report.checks
    assert total(target) == wanted
    # A server that has not got the locale, and one where each value would be read as another.
    with run_server(stock(15)) as other:
        assert total(restored_by_script(other, backup)) == wanted
    # Where the locale is missing it can't be seen as an application sees it.
    monkeypatch.delenv("LOCPATH")
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE
    found = receipt.check("contents_match")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert str(manifest.source.monetary_locale) in found.summary


def test_a_locale_matters_only_with_money(german: Source, tmp_path: Path) -> None:
    endpoint = german.create()
    german.execute(endpoint, "CREATE TABLE t AS SELECT 1 AS a")
    vault = open_vault((tmp_path / "vault").as_uri())
    assert take_backup(endpoint, vault, name="app").source.monetary_locale is None


def test_a_setting_of_a_locale_that_is_missing_is_inconclusive(
    locales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = open_vault((tmp_path / "vault").as_uri())
    with monkeypatch.context() as patch:
        patch.setenv("LOCPATH", str(locales))
        with run_server(stock(15)) as source:
            endpoint = source.create()
            source.execute(
                endpoint,
                f"ALTER DATABASE {endpoint.parameters['dbname']} SET lc_time = 'de_DE.UTF-8'",
            )
            manifest = take_backup(endpoint, vault, name="app")
            assert_passes(verify_backup(vault, manifest))
    receipt = verify_backup(vault, manifest)
    assert receipt.verdict is Verdict.INCONCLUSIVE, receipt.checks
    assert "lc_time" in receipt.check("schema_matches").summary
