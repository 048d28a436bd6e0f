"""The note of what has been told to whom; it lives in a sensor's cursor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dagster_resil.alerts.send import LOG

WINDOW = 200
"""On PostgreSQL an event may become visible after one with a higher id: its transaction ended
later. Ids this close to the newest are looked at again."""

_VERSION = 1


@dataclass(frozen=True)
class Position:
    """How far one place has been told of the event log.

    :param after: every event up to this id is done with.
    :param told: the ids above it that are done with too.
    """

    after: int
    told: frozenset[int] = frozenset()

    def owes(self, ids: Iterable[int]) -> bool:
        """Return whether one of the events has not been told yet."""
        return any(number > self.after and number not in self.told for number in ids)

    def moved(self, *, horizon: int, told: Iterable[int], owed: Iterable[int]) -> Position:
        """Return the position after a round.

        :param horizon: the highest id that was looked at.
        :param told: the ids that are done with now.
        :param owed: the ids that have to be looked at again.
        """
        after = max(self.after, min([horizon - WINDOW, *(number - 1 for number in owed)]))
        return Position(after, frozenset(n for n in {*self.told, *told} if n > after))


@dataclass(frozen=True)
class Positions:
    """The positions of all places."""

    positions: Mapping[str, Position] = field(default_factory=dict)

    @classmethod
    def beginning_at(cls, newest: int) -> Positions:
        """Return a note that begins now: what was before is nobody's news."""
        return cls({LOG.id: Position(newest)})

    @classmethod
    def from_cursor(cls, cursor: str | None, newest: int) -> Positions:
        """Read a cursor; begin now when there is none, or none that can be read.

        :param newest: the highest id in the event log. A log that was emptied counts anew.
        """
        try:
            document = json.loads(cursor or "")
            if document["version"] != _VERSION:
                return cls.beginning_at(newest)
            positions = {
                str(place): Position(
                    min(int(item["after"]), newest), frozenset(int(n) for n in item["told"])
                )
                for place, item in document["places"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls.beginning_at(newest)
        return cls(positions) if LOG.id in positions else cls.beginning_at(newest)

    def to_cursor(self) -> str:
        """Return what :meth:`from_cursor` reads."""
        return json.dumps(
            {
                "version": _VERSION,
                "places": {
                    place: {"after": position.after, "told": sorted(position.told)}
                    for place, position in sorted(self.positions.items())
                },
            }
        )

    def for_places(self, ids: Iterable[str]) -> Positions:
        """Return the note for the places of now.

        A place that is new begins where the log is, or, when another one has gone (its URL was
        corrected, say), where that one was, so that what it was owed still arrives.
        """
        wanted = list(ids)
        gone = [position for place, position in self.positions.items() if place not in wanted]
        fresh = min([*gone, self.positions[LOG.id]], key=lambda position: position.after)
        return Positions({place: self.positions.get(place, fresh) for place in wanted})
