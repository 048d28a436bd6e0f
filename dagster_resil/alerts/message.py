"""Messages: what a failed check or run is called when somebody is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_BODY_MAX_CHARS = 1500
"""Chat services cut messages off at 2,000 characters or so; the rest is in the UI."""

Severity = Literal["ERROR", "WARN"]


@dataclass(frozen=True)
class Alert:
    """Something that somebody has to know.

    :param key: the same for the same trouble, so that a receiver can tell a repetition.
    :param severity: "WARN" when a proof was not possible, "ERROR" otherwise.
    """

    key: str
    title: str
    body: str
    severity: Severity = "ERROR"


@dataclass(frozen=True)
class FailedCheck:
    """A check that did not pass.

    :param verdict: "FAIL" or "INCONCLUSIVE" for ours; empty for anybody else's.
    """

    name: str
    severity: Severity
    verdict: str
    summary: str


def failed_checks_alert(
    asset: str,
    partition: str | None,
    checks: Sequence[FailedCheck],
    *,
    backup_id: str | None,
    run_id: str,
) -> Alert:
    """Return the alert for the checks of one proof that did not pass, the worst first.

    A damaged archive makes all five checks fail at once: that is one thing to be told.
    """
    ordered = sorted(checks, key=lambda check: check.severity != "ERROR")
    worst = ordered[0]
    title = f"{worst.verdict or 'failed'}: {_place(asset, partition)}, {worst.name}"
    if len(ordered) > 1:
        title += f" and {len(ordered) - 1} more"
    lines = [
        f"{check.name} {check.verdict or 'failed'}: {check.summary or 'no details'}"
        for check in ordered
    ]
    tail = [f"backup: {backup_id}"] if backup_id else []
    # What is reported from outside has no run.
    tail += [f"run: {run_id}"] if run_id else []
    # The same backup proved again is the same trouble; its next backup is another.
    key = ":".join(("checks", asset, partition or "", backup_id or run_id, worst.severity))
    return Alert(key, title, _body(lines, tail), worst.severity)


def failed_run_alert(job: str, partition: str | None, run_id: str, reason: str) -> Alert:
    """Return the alert for a failed run."""
    lines = [reason.strip() or "no reason was recorded"]
    return Alert(
        f"run:{run_id}", f"run failed: {_place(job, partition)}", _body(lines, [f"run: {run_id}"])
    )


def _place(what: str, partition: str | None) -> str:
    return f"{what} of {partition}" if partition else what


def _body(lines: Sequence[str], tail: Sequence[str]) -> str:
    text = "\n".join(lines)
    if len(text) > _BODY_MAX_CHARS:
        text = text[:_BODY_MAX_CHARS] + "…"
    return "\n".join([text, *tail])
