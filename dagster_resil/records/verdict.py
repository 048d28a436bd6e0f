"""Verdicts: what a check says of a backup."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """PASS, FAIL (not a faithful copy) or INCONCLUSIVE (proof was not possible)."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


_BADNESS = {Verdict.PASS: 0, Verdict.INCONCLUSIVE: 1, Verdict.FAIL: 2}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the parts; nothing looked at is INCONCLUSIVE, never PASS."""
    return max(verdicts, key=_BADNESS.__getitem__, default=Verdict.INCONCLUSIVE)
