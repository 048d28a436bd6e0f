"""The UI in a real browser: webserver and daemon started as in production, with ``-w``."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagster_resil.demo.damage import LocalBackup, change_one_value
from dagster_resil.demo.dev import run_dagster
from dagster_resil.demo.laptop import Laptop, run_laptop
from dagster_resil.vault import open_vault
from dagster_resil.vault.backups import Backups

CHROMIUM = os.environ.get("RESIL_CHROMIUM", "/usr/bin/chromium")
SCREENSHOTS = os.environ.get("RESIL_SCREENSHOTS")
"""A folder to write screenshots to, for docs/."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(),
        reason=f"NO BROWSER: {CHROMIUM} is not there, so the UI is not tested "
        "(apt install chromium, or name one in RESIL_CHROMIUM)",
    ),
]


@dataclass
class Ui:
    laptop: Laptop
    url: str
    alerts: list[dict[str, Any]]

    def graphql(self, query: str, **variables: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        found = self.graphql(
            "{ runsOrError { ... on Runs { results { runId status pipelineName } } } }"
        )["runsOrError"]["results"]
        return [run for run in found if job is None or run["pipelineName"] == job]

    def wait_for_run(self, job: str | None, *, count: int = 1) -> dict[str, Any]:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            ended = [r for r in self.runs(job) if r["status"] in ("SUCCESS", "FAILURE")]
            if len(ended) >= count:
                return ended[0]
            time.sleep(0.5)
        raise AssertionError(f"no run of {job} ended: {self.runs()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    received: list[dict[str, Any]] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    # A folder that the servers' own user can walk into, when the tests run as root.
    folder = Path("/var/tmp") / f"resil-browser-{os.getpid()}"
    port = _free_port()
    try:
        with run_laptop(folder, databases=("shop",)) as laptop:
            alerts = {"RESIL_ALERT_URLS": f"json://127.0.0.1:{hook.server_port}"}
            with run_dagster(laptop, port, alerts) as check:
                found = Ui(laptop, f"http://127.0.0.1:{port}", received)
                deadline = time.monotonic() + 120
                while not found.graphql("{ assetNodes { id } }")["assetNodes"]:
                    check()
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
                yield found
    finally:
        hook.shutdown()
        thread.join()
        hook.server_close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def page(ui: Ui, tmp_path: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
            ],
        )
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        opened = context.new_page()
        opened.set_default_timeout(30_000)
        yield opened
        opened.screenshot(path=str(tmp_path / "last.png"))
        browser.close()


def _shoot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"))


def test_the_ui_from_a_backup_to_a_red_check(ui: Ui, page: Any) -> None:
    """Materialize, look at the checks, restore, damage, see red: one story, in order."""
    # Materialize the open partition.
    page.goto(f"{ui.url}/assets/shop/backup", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Latest").first.click()
    _shoot(page, "materialize")
    page.get_by_role("button", name="Launch 1 run").click()
    run = ui.wait_for_run(None)
    assert run["status"] == "SUCCESS", run

    # Five green checks, with what they found.
    page.goto(f"{ui.url}/assets/shop/backup?view=checks", wait_until="domcontentloaded")
    for check in (
        "archive_intact",
        "restores_cleanly",
        "row_counts_match",
        "contents_match",
        "schema_matches",
    ):
        page.get_by_text(check).first.wait_for()
    page.get_by_text("Passed").first.wait_for()
    page.goto(
        f"{ui.url}/assets/shop/backup?view=checks&checkDetail=row_counts_match",
        wait_until="domcontentloaded",
    )
    page.get_by_text("as in the source").first.wait_for()
    _shoot(page, "checks")
    manifest = Backups(open_vault(ui.laptop.vault)).latest("shop")
    assert manifest.partition is not None
    key = manifest.partition.key
    page.goto(
        f"{ui.url}/assets/shop/backup?view=partitions&partition={key}",
        wait_until="domcontentloaded",
    )
    page.get_by_text(manifest.backup_id).first.wait_for()
    _shoot(page, "partition")

    # Restore it from the Launchpad.
    page.goto(
        f"{ui.url}/locations/dagster_resil/jobs/shop_restore/playground",
        wait_until="domcontentloaded",
    )
    _choose_partition(page, key)
    _shoot(page, "launchpad")
    page.get_by_role("button", name="Launch Run").first.click()
    run = ui.wait_for_run("shop_restore")
    assert run["status"] == "SUCCESS", run
    page.goto(f"{ui.url}/runs/{run['runId']}", wait_until="domcontentloaded")
    page.get_by_text("is restored").first.wait_for()
    _shoot(page, "restored")

    # A damaged backup gives a red check and one message.
    change_one_value(
        LocalBackup(ui.laptop.vault_folder, manifest),
        "public",
        "customers",
        *_first_row(ui, manifest),
    )
    ui.graphql(
        """mutation Verify($key: String!) { launchRun(executionParams: { selector: {
            repositoryLocationName: "dagster_resil", repositoryName: "__repository__",
            jobName: "shop_verify" }, runConfigData: "{}", executionMetadata: { tags: [
            { key: "dagster/partition", value: $key }] } }) { __typename } }""",
        key=key,
    )
    assert ui.wait_for_run("shop_verify")["status"] == "SUCCESS"
    page.goto(
        f"{ui.url}/assets/shop/backup?view=checks&checkDetail=contents_match",
        wait_until="domcontentloaded",
    )
    page.get_by_text("public.customers: contents differ").first.wait_for()
    page.get_by_text("Failed").first.wait_for()
    _shoot(page, "damaged")
    deadline = time.monotonic() + 90
    while not ui.alerts and time.monotonic() < deadline:
        time.sleep(1)
    time.sleep(20)  # a second message would come with the sensor's next tick
    [alert] = ui.alerts
    assert alert["title"] == f"FAIL: shop/backup of {key}, contents_match"
    assert "public.customers: contents differ" in alert["message"]


def _choose_partition(page: Any, key: str) -> None:
    """Choose a partition in the Launchpad; its list is empty until the page has loaded it."""
    for attempt in range(6):
        page.get_by_placeholder("Partition").fill(key)
        suggestion = page.get_by_text(key, exact=True).first
        try:
            suggestion.wait_for(timeout=8_000)
        except Exception:
            if attempt == 5:
                raise
            page.reload(wait_until="domcontentloaded")
            continue
        suggestion.click()
        return


def _first_row(ui: Ui, manifest: Any) -> tuple[bytes, bytes]:
    import gzip

    backup = LocalBackup(ui.laptop.vault_folder, manifest)
    data = gzip.decompress(backup.file(backup.table("public", "customers").parts[0]).read_bytes())
    row = data.split(b"\n", 1)[0]
    fields = row.split(b"\t")
    fields[3] += b" Jr"
    return row, b"\t".join(fields)
