"""Every failed check and every failed run is told, once."""

from __future__ import annotations

import logging
from pathlib import Path

import dagster as dg
import pytest

from dagster_resil.components import FailureAlerts, event_log
from dagster_resil.components.event_log import newest_id, read_failures
from dagster_resil.components.failure_alerts import build_alert_sensor, build_janitor
from dagster_resil.demo.damage import flip_one_byte
from dagster_resil.workspace import work_root
from tests.components.conftest import Project, Webhook


class Ticks:
    """The daemon's part: it keeps the cursor of every tick that did not fail."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.sensor = build_alert_sensor(15)
        self.cursor: str | None = None

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data.skip_message or ""


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks be told of as soon as they are there."""
    monkeypatch.setattr(event_log, "_SETTLED_S", 0.0)


@pytest.fixture
def ticks(project: Project, instant: None) -> Ticks:
    ticks = Ticks(project.instance)
    assert ticks.tick() == "nothing failed"
    return ticks


def test_a_damaged_backup_is_one_message(project: Project, webhook: Webhook, ticks: Ticks) -> None:
    assert project.materialize().success
    assert ticks.tick() == "nothing failed"
    flip_one_byte(project.newest(), "public", "item")
    assert project.run("app_verify", partition_key=project.open).success

    ticks.tick()

    [message] = webhook.received
    assert message["title"] == f"FAIL: app/backup of {project.open}, archive_intact and 4 more"
    assert project.newest().manifest.backup_id in message["message"]
    assert "contents_match INCONCLUSIVE" in message["message"]
    assert message["type"] == "failure"
    # Nothing is told twice.
    assert ticks.tick() == "nothing failed"
    assert len(webhook.received) == 1


def test_a_failed_run_is_told_with_its_reason(
    project: Project, webhook: Webhook, ticks: Ticks
) -> None:
    result = project.run("app_backup", partition_key=project.partitions.get_partition_keys()[0])
    ticks.tick()
    [message] = webhook.received
    assert message["title"].startswith("run failed: app_backup of ")
    assert "nothing was taken" in message["message"]
    assert f"key: run:{result.run_id}" in message["message"]


def test_checks_of_a_proof_are_told_together(
    project: Project, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks(project.instance)
    ticks.tick()
    report(project, "one", passed=False)
    assert ticks.tick() == "nothing failed"
    report(project, "two", passed=False)
    monkeypatch.setattr(event_log, "_SETTLED_S", 0.0)
    ticks.tick()
    # Evaluations that no run has made have no run in common; each asset and partition is a group.
    assert len(webhook.received) == 1
    assert webhook.titles == ["failed: other, one and 1 more"]


def report(project: Project, check: str, *, passed: bool) -> None:
    """Report a check from outside of any run."""
    project.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("other"), check_name=check, passed=passed, metadata={}
        )
    )


def test_a_place_that_is_down_holds_up_nobody_else(
    project: Project, ticks: Ticks, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = Webhook()
    try:
        down.status = 500
        monkeypatch.setenv("RESIL_ALERT_URLS", f"{down.url}, {webhook.url}")
        report(project, "one", passed=False)
        assert "not accepted by number 1" in ticks.tick()
        assert len(webhook.received) == 1

        # Nothing else to tell: the tick is red.
        with pytest.raises(dg.Failure, match="not accepted by number 1"):
            ticks.tick()

        report(project, "two", passed=False)
        ticks.tick()
        assert len(webhook.received) == 2, "the first is not told again"

        down.status = 200
        ticks.tick()
        assert [sum("one" in title for title in down.titles), len(webhook.received)] == [1, 2]
        assert ticks.tick() == "nothing failed"
    finally:
        down.close()


def test_a_corrected_address_gets_what_it_was_owed(
    project: Project, ticks: Ticks, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIL_ALERT_URLS", "nothing-like-it://x")
    report(project, "one", passed=False)
    ticks.tick()
    monkeypatch.setenv("RESIL_ALERT_URLS", webhook.url)
    ticks.tick()
    assert webhook.titles == ["failed: other, one"]


def test_no_secret_of_an_address_is_logged(
    project: Project,
    ticks: Ticks,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(
        "RESIL_ALERT_URLS",
        "json://user:hunter2@127.0.0.1:1/hunter2 hunter://hunter2 slack://hunter2",
    )
    report(project, "one", passed=False)
    said = ticks.tick()
    written = capfd.readouterr()
    for text in (said, caplog.text, written.out, written.err, ticks.cursor or ""):
        assert "hunter2" not in text
    assert "number 2" in said
    assert "number 3" in said


def test_with_no_address_it_is_logged(
    project: Project, ticks: Ticks, caplog: pytest.LogCaptureFixture
) -> None:
    report(project, "one", passed=False)
    ticks.tick()
    assert "alert: failed: other, one" in caplog.text


def test_what_was_before_the_first_tick_is_nobodys_news(
    project: Project, webhook: Webhook, instant: None
) -> None:
    report(project, "one", passed=False)
    ticks = Ticks(project.instance)
    ticks.tick()
    ticks.tick()
    assert webhook.received == []


def test_more_events_than_are_read_at_once(
    project: Project, webhook: Webhook, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_LIMIT", 3)
    monkeypatch.setattr("dagster_resil.alerts.progress.WINDOW", 1)
    for number in range(9):
        report(project, f"passed_{number}", passed=True)
    report(project, "failed", passed=False)
    for _ in range(8):
        ticks.tick()
    assert webhook.titles == ["failed: other, failed"]


def test_nothing_is_read_twice_when_nothing_is_new(project: Project, instant: None) -> None:
    report(project, "one", passed=False)
    newest = newest_id(project.instance)
    assert read_failures(project.instance, newest).pending == ()
    [pending] = read_failures(project.instance, newest - 1).pending
    assert pending.ids == (newest,)


def test_the_janitor_clears_what_a_killed_process_left(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIL_WORK_DIR", str(tmp_path))
    left = work_root() / "job-left"
    left.mkdir()
    (left / "lock").touch()
    with dg.build_sensor_context(instance=project.instance) as context:
        data = build_janitor().evaluate_tick(context)
    assert data.skip_message == "cleared 1 folders"
    assert not left.exists()


def test_both_run_without_being_switched_on() -> None:
    for status, attributes in (("RUNNING", {}), ("STOPPED", {"sensors": "stopped"})):
        defs = dg.build_defs_for_component(FailureAlerts(**attributes))  # type: ignore[arg-type]
        sensors = list(defs.sensors or [])
        assert len(sensors) == 2
        for sensor in sensors:
            assert isinstance(sensor, dg.SensorDefinition)
            assert sensor.default_status.value == status
