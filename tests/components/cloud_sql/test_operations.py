"""Operations that fail, have no end, or whose answer is lost."""

from __future__ import annotations

import pytest

from tests.components.cloud_project import CloudProject
from tests.components.cloud_sql.faults import (
    SOURCE,
    clean,
    cloned,
    listed,
    live,
    operations,
    proved,
    refused,
    sweep,
    until,
)
from tests.components.conftest import failure


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_clone_fails(project: CloudProject, when: str) -> None:
    with project.sql.cloud.failing(
        "operation_failed", method="sql.instances.clone", when=when, message="No room for it."
    ):
        result = project.materialize(**cloned(project))
    refused(project, result, f"clone instance {SOURCE} to resil-tmp-", "No room for it.")


def test_an_answer_is_lost(project: CloudProject) -> None:
    """What was accepted, though the answer was an error, is not begun a second time."""
    cloud = project.sql.cloud
    before = [len(operations(project.sql, kind)) for kind in ("CLONE", "EXPORT")]
    for method in ("clone", "export"):
        cloud.fault("error", method=f"sql.instances.{method}", when="after", times=1)
    result = project.materialize(**cloned(project))
    assert cloud.struck() == [1, 1]
    after = [len(operations(project.sql, kind)) for kind in ("CLONE", "EXPORT")]
    assert after == [number + 1 for number in before]
    proved(project, result)


def test_an_export_that_does_not_end_is_cancelled(project: CloudProject) -> None:
    with project.sql.cloud.failing("operation_stuck", method="sql.instances.export"):
        result = project.materialize(**live(project, timeout_minutes=0.02))
    refused(project, result, f"export database {project.database}", "not ended within 1.2 s")
    assert {each["status"] for each in operations(project.sql, "EXPORT")} == {"DONE"}


def test_a_clone_that_takes_too_long_is_removed_later(
    project: CloudProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.sql.cloud.failing("operation_slow", method="sql.instances.clone", seconds=4):
        result = project.materialize(**cloned(project, timeout_minutes=0.02))
        assert not result.success
        said = failure(result)
        [left] = project.temporary()
        assert f"clone instance {SOURCE} to {left} of project scratch' has not ended" in said
        assert f"also: temporary instance {left} in project scratch is left" in said
        assert listed(project) == []
        until(
            lambda: all(each["status"] == "DONE" for each in operations(project.sql, "CLONE")),
            "the end of the clone",
        )
    # It is whole by now, but has no labels: a worker may be about to give it some.
    assert sweep(project) == f"{left} stays for now: it has no labels yet and was created recently"
    monkeypatch.setattr("dagster_resil.cloudsql.temporary._TURN_S", 0)
    assert sweep(project) == f"removed {left}"
    clean(project)
