"""Progress of a long piece of work, as plain events.

The work reports; the terminal, the log or the Dagster UI shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One report.

    :param stage: what is being done, in a few words ("dumping", "comparing").
    :param done: how much of it is done, in ``unit``; None when that is not known.
    :param total: how much there is, in ``unit``; None when that is not known.
    :param unit: "bytes", "tables", "rows"…
    :param rows: how many rows are done, where they are counted beside.
    :param total_rows: how many rows there are, where that is known.
    """

    stage: str
    done: int | None = None
    total: int | None = None
    unit: str = ""
    rows: int | None = None
    total_rows: int | None = None


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing."""


_EVERY_S = 5.0
_SURE_AFTER_S = 2.0
"""A rate over less time than this jumps."""


class Meter:
    """Puts steps into words, with the rate and the time left of the stage that is under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._begun = 0.0

    def figures(self, step: Step) -> str:
        """Return what is done, of how much, how fast, and how long it will take."""
        now = self._clock()
        if step.stage != self._stage:
            self._stage, self._begun = step.stage, now
        if step.done is None:
            return ""
        scale, unit = (1e6, "MB") if step.unit == "bytes" else (1.0, step.unit)
        words = [f"{step.done / scale:,.0f}"]
        if step.total:
            words[0] += f" of {step.total / scale:,.0f}"
        words[0] += f" {unit}"
        if step.rows is not None:
            of = f" of {step.total_rows:,}" if step.total_rows else ""
            words.append(f"{step.rows:,}{of} rows")
        seconds = now - self._begun
        if step.total and step.unit == "bytes" and step.done and seconds >= _SURE_AFTER_S:
            rate = step.done / seconds
            words.append(f"{rate / 1e6:,.1f} MB/s")
            words.append(f"{_time(max(0.0, step.total - step.done) / rate)} left")
        return " · ".join(words)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{whole % 60:02d} min"


def lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """Return what says a line when a stage begins, and one every few seconds of it."""
    meter = Meter(clock)
    said: dict[str, float] = {}

    def report(step: Step) -> None:
        now = clock()
        figures = meter.figures(step)
        first = step.stage not in said
        if first or (figures and now - said[step.stage] >= _EVERY_S):
            said[step.stage] = now
            say(step.stage if first or not figures else f"{step.stage} · {figures}")

    return report
