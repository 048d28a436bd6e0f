"""What every op of ours shares: progress in the run's log, errors that can be read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

import dagster_resil
from dagster_resil import logs
from dagster_resil.errors import ResilError, name_settings
from dagster_resil.progress import Progress, lines

SETTINGS = {
    "accept_new_source=True": "accept_new_source: true in the Launchpad",
    "attempts": "attempts",
    "compress_level": "compress_level",
    "jobs": "jobs",
    "lock_timeout_s": "lock_timeout_seconds",
    "name": "name",
    "owners=False": "owners: false",
    "part_bytes": "part_mb",
    "replace": "replace",
    "roles=False": "roles: false",
    "timeout_s": "time_limit_seconds",
}
"""What the component, and the configuration of its runs, call the settings that hints name."""


def progress_into(log: dg.DagsterLogManager) -> Progress:
    """Return what writes a line into a run's log for each stage, and every few seconds."""
    return lines(log.info)


@contextmanager
def explained() -> Iterator[None]:
    """Turn our errors into Dagster's, with the hint; let no secret into the event log.

    A failure is not retried: what failed left nothing behind, and the next tick begins anew. Our
    warnings, of what is tried again for example, are in the run's log too.
    """
    handler = _IntoRun(logging.WARNING)
    ours = logging.getLogger(dagster_resil.__name__)
    ours.addHandler(handler)
    try:
        yield
    except dg.Failure:
        raise
    except ResilError as error:
        error.hint = name_settings(error.hint, SETTINGS)
        raise dg.Failure(
            logs.redact(_with_notes(str(error), error)),
            metadata={"code": error.code, "hint": logs.redact(error.hint)},
            allow_retries=False,
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not leak
        # The chain is cut: an unexpected error's own text may quote an address with a password.
        raise dg.Failure(
            logs.redact(
                _with_notes(f"an unexpected error: {type(error).__name__}: {error}", error)
            ),
            allow_retries=False,
        ) from None
    finally:
        ours.removeHandler(handler)


class _IntoRun(logging.Handler):
    """Repeats in a run's log, where whoever looks at the run sees it."""

    def emit(self, record: logging.LogRecord) -> None:
        dg.get_dagster_logger().log(record.levelno, logs.redact(record.getMessage()))


def _with_notes(text: str, error: Exception) -> str:
    """Return what an error says, and what it says besides: that something is left, for example."""
    return "\n".join([text, *(f"also: {note}" for note in getattr(error, "__notes__", ()))])
