"""Progress in Dagster's log."""

from __future__ import annotations

import logging

import dagster as dg
import pytest

from dagster_resil.components.running import explained
from tests.components.conftest import Project, failure


def test_a_runs_log_gets_lines_while_it_works(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_resil.progress._EVERY_S", 0.0)  # every few seconds, in a test

    result = project.materialize()

    assert result.success, failure(result)
    said = [entry.user_message for entry in project.instance.all_logs(result.run_id)]
    assert [text for text in said if text in ("reading", "keeping", "restoring", "comparing")] == [
        *("reading", "keeping"),
        *("restoring", "comparing"),
    ]
    assert any(text.startswith("reading · ") and text.endswith(" · 500 rows") for text in said)


def test_a_warning_is_in_the_runs_log() -> None:
    """What is tried again for minutes would else be silence to whoever looks at the run."""

    @dg.op
    def work() -> None:
        with explained():
            logging.getLogger("dagster_resil.vault.gcs").warning("password=%s, again", "hunter2")
            logging.getLogger("dagster_resil.vault.gcs").info("a detail")
        logging.getLogger("dagster_resil").warning("afterwards")

    @dg.job
    def job() -> None:
        work()

    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance)
        said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "password=… again" in said
    assert "a detail" not in said
    assert "afterwards" not in said
