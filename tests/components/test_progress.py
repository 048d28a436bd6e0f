"""Progress in Dagster's log."""

from __future__ import annotations

import pytest

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
