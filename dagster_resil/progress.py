"""Progress of a long piece of work, as plain events.

The work reports; the terminal, the log or the Dagster UI shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One report.

    :param stage: what is being done, in a few words ("dumping", "comparing").
    :param done: how much of it is done, in ``unit``; None when that is not known.
    :param total: how much there is, in ``unit``; None when that is not known.
    :param unit: "bytes", "tables", "rows"…
    """

    stage: str
    done: int | None = None
    total: int | None = None
    unit: str = ""


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Show nothing."""
