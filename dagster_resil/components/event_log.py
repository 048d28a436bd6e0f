"""Reading Dagster's event log across all runs, in the order of its ids.

What is used here is no public interface of Dagster's, so it is used here only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, EventLogEntry
from dagster._core.events import JobFailureData
from dagster._core.execution.plan.objects import StepFailureData

from dagster_resil import logs
from dagster_resil.alerts import (
    Alert,
    Batch,
    FailedCheck,
    Pending,
    failed_checks_alert,
    failed_run_alert,
)

_LIMIT = 500
"""Events of a kind read at a time. It has to be above the window that is looked at again."""
_SETTLED_S = 3.0
"""The checks of one proof are written within milliseconds of each other; after this time they
are all there, and are told of together."""

_KINDS = (DagsterEventType.ASSET_CHECK_EVALUATION, DagsterEventType.RUN_FAILURE)


def newest_id(instance: DagsterInstance) -> int:
    """Return the highest id in the event log; 0 when it is empty."""
    return instance.event_log_storage.get_maximum_record_id() or 0


def read_failures(instance: DagsterInstance, after: int) -> Batch:
    """Return the alerts for every failed check and every failed run after an id."""
    events: dict[int, EventLogEntry] = {}
    horizons = []
    for kind in _KINDS:
        found: Mapping[int, EventLogEntry] = (
            instance.event_log_storage.get_logs_for_all_runs_by_log_id(
                after_cursor=after, dagster_event_type=kind, limit=_LIMIT
            )
        )
        events.update(found)
        if len(found) == _LIMIT:
            horizons.append(max(found))
    horizon = min(horizons) if horizons else max(events, default=after)
    now = time.time()
    groups: dict[tuple[str, str, str | None], dict[int, dg.AssetCheckEvaluation]] = {}
    pending = []
    held = []
    for number, entry in sorted(events.items()):
        event = entry.dagster_event
        if number > horizon or event is None:
            continue
        if event.event_type is DagsterEventType.RUN_FAILURE:
            pending.append(Pending((number,), _run_alert(instance, entry)))
            continue
        evaluation = event.asset_check_evaluation_data
        if evaluation.passed:
            continue
        if 0 <= now - entry.timestamp < _SETTLED_S:
            held.append(number)
            continue
        group = (entry.run_id, evaluation.asset_key.to_user_string(), evaluation.partition)
        groups.setdefault(group, {})[number] = evaluation
    for (run_id, asset, partition), evaluations in groups.items():
        alert = failed_checks_alert(
            asset,
            partition,
            [_failed_check(evaluation) for evaluation in evaluations.values()],
            backup_id=_first_text(evaluations.values(), "backup_id"),
            run_id=run_id,
        )
        pending.append(Pending(tuple(evaluations), alert))
    return Batch(tuple(sorted(pending, key=lambda item: item.ids)), horizon, tuple(held))


def _failed_check(evaluation: dg.AssetCheckEvaluation) -> FailedCheck:
    warn = evaluation.severity is dg.AssetCheckSeverity.WARN
    severity: Literal["ERROR", "WARN"] = "WARN" if warn else "ERROR"
    summary = _text(evaluation.metadata, "summary") or evaluation.description or ""
    verdict = _text(evaluation.metadata, "verdict") or ""
    return FailedCheck(evaluation.check_name, severity, verdict, logs.redact(summary))


def _first_text(evaluations: Iterable[dg.AssetCheckEvaluation], name: str) -> str | None:
    found = (_text(evaluation.metadata, name) for evaluation in evaluations)
    return next((text for text in found if text), None)


def _text(metadata: Mapping[str, dg.MetadataValue], name: str) -> str | None:
    value = metadata.get(name)
    return value.value if isinstance(value, dg.TextMetadataValue) else None


def _run_alert(instance: DagsterInstance, entry: EventLogEntry) -> Alert:
    run = instance.get_run_by_id(entry.run_id)
    partition = run.tags.get("dagster/partition") if run else None
    job = entry.job_name or (run.job_name if run else "a run")
    return failed_run_alert(job, partition, entry.run_id, logs.redact(_reason(entry)))


def _reason(entry: EventLogEntry) -> str:
    """Return why a run failed: in the words of its first failed step when it has one."""
    event = entry.dagster_event
    data = event.event_specific_data if event is not None else None
    if isinstance(data, JobFailureData):
        step = data.first_step_failure_event
        failure = step.event_specific_data if step is not None else None
        if isinstance(failure, StepFailureData):
            said = failure.user_failure_data
            if said is not None and said.description:
                return f"step {step.step_key}: {said.description}" if step else said.description
            if failure.error is not None:
                error = failure.error.cause or failure.error
                return f"step {step.step_key if step else ''}: {error.message.strip()}"
        if data.error is not None:
            return data.error.message
    return (event.message if event is not None else None) or entry.user_message
