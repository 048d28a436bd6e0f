"""What time it is for an instance: told time and real time.

Tests and demonstrations need "the state of last Tuesday" without waiting for days. So a clock can
be told a time; from then on it runs from there, as fast as the real one. It has thus a list of
segments, (told, real), each the beginning of one:

    real  ──────────●────────●───────▶
    told  20th 00:00…, 21st 00:00…, 22nd 00:00…

A real time (a commit's, for example) is inside one segment, so its told time is known. A told time
that was jumped over means the moment of the jump: "the 20th at noon" is the state in which the
20th was left. A clock only goes forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class Segment:
    """Where a clock was told what time it is."""

    told: datetime
    real: datetime


@dataclass(frozen=True)
class Clock:
    """A clock; without segments it tells real time."""

    segments: Sequence[Segment] = field(default=())

    def now(self) -> datetime:
        """Return the time that it tells."""
        return self.told(datetime.now(UTC))

    def told(self, real: datetime) -> datetime:
        """Return what it told at a real time."""
        for segment in reversed(self.segments):
            if segment.real <= real:
                return segment.told + (real - segment.real)
        # Before it was told anything: real time, but never later than what it was told then.
        return min(real, self.segments[0].told) if self.segments else real

    def real(self, told: datetime) -> datetime:
        """Return the last real time at which it had not told more than that."""
        following: datetime | None = None
        for segment in reversed(self.segments):
            if segment.told <= told:
                real = segment.real + (told - segment.told)
                return real if following is None else min(real, following)
            following = segment.real
        return told if following is None else min(told, following)

    def set(self, told: datetime, *, real: datetime | None = None) -> Clock:
        """Return the clock from now on.

        :raises ValueError: it would go back.
        """
        real = real or datetime.now(UTC)
        if self.segments and told < self.told(real):
            raise ValueError(f"the clock says {self.told(real).isoformat()}; it can't go back")
        return Clock((*self.segments, Segment(told, real)))

    def to_json(self) -> list[list[str]]:
        """Return it for a file."""
        return [[each.told.isoformat(), each.real.isoformat()] for each in self.segments]

    @classmethod
    def of_json(cls, document: Sequence[Sequence[str]]) -> Clock:
        """Read it from a file."""
        return cls(
            tuple(
                Segment(datetime.fromisoformat(told), datetime.fromisoformat(real))
                for told, real in document
            )
        )
