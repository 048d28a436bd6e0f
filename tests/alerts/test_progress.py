"""The note of what has been told to whom."""

from __future__ import annotations

import pytest

from dagster_resil.alerts import LOG, Alert, Batch, Pending, Place, Position, Positions, deliver
from dagster_resil.alerts.progress import WINDOW

PLACE = Place("place", "a place")  # without a URL, so that it is told by the log


def pending(*ids: int) -> Pending:
    return Pending(ids, Alert(f"key-{ids}", "title", "body"))


def told_ids(told: Positions) -> set[int]:
    return set(told.positions[LOG.id].told)


def test_an_event_that_shows_up_late_is_told_and_the_others_are_not_again() -> None:
    told = Positions.beginning_at(1000)
    first = deliver(told, [LOG], lambda after: Batch((pending(1002),), 1005), within_s=9)
    assert first.sent == 1
    second = deliver(
        first.told, [LOG], lambda after: Batch((pending(1001), pending(1002)), 1005), within_s=9
    )
    assert second.sent == 1
    assert told_ids(second.told) == {1001, 1002}


def test_what_was_there_at_the_beginning_is_not_told() -> None:
    told = Positions.beginning_at(1000)
    assert deliver(told, [LOG], lambda after: Batch((pending(1000),), 1000), within_s=9).sent == 0


def test_the_note_does_not_grow() -> None:
    told = Positions.beginning_at(0)
    for number in range(1, 5 * WINDOW):

        def read(after: int, number: int = number) -> Batch:
            return Batch((pending(number),), number)

        told = deliver(told, [LOG], read, within_s=9).told
    assert len(told_ids(told)) <= WINDOW


def test_held_events_are_looked_at_again_however_far_the_log_has_gone_on() -> None:
    told = Positions.beginning_at(0)
    held = deliver(told, [LOG], lambda after: Batch((), 10 * WINDOW, held=(5, 6)), within_s=9).told
    assert held.positions[LOG.id].owes((5,))
    assert held.positions[LOG.id].after == 4


def test_what_there_was_no_time_for_is_owed() -> None:
    found = deliver(
        Positions.beginning_at(0), [LOG], lambda after: Batch((pending(1),), 999), within_s=-1
    )
    assert found.sent == 0
    assert found.failures == ()
    assert found.told.positions[LOG.id].owes((1,))


@pytest.mark.parametrize("cursor", [None, "", "7", "{", "{}", '{"version":1,"places":{}}', "[]"])
def test_without_a_cursor_that_can_be_read_it_begins_now(cursor: str | None) -> None:
    assert Positions.from_cursor(cursor, 42) == Positions.beginning_at(42)


def test_a_cursor_survives() -> None:
    told = Positions({LOG.id: Position(7, frozenset({9, 8})), "x": Position(3)})
    assert Positions.from_cursor(told.to_cursor(), 100) == told


def test_an_event_log_that_was_emptied_is_followed_from_its_end() -> None:
    told = Positions.from_cursor(Positions.beginning_at(5000).to_cursor(), 3)
    assert told.positions[LOG.id].after == 3


def test_a_new_place_begins_where_the_log_is() -> None:
    told = Positions({LOG.id: Position(50)}).for_places([LOG.id, PLACE.id])
    assert told.positions[PLACE.id] == Position(50)


def test_a_place_that_replaces_another_begins_where_that_was() -> None:
    told = Positions({LOG.id: Position(50), "gone": Position(10)}).for_places([LOG.id, PLACE.id])
    assert told.positions[PLACE.id] == Position(10)
