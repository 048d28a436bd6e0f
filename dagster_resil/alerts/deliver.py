"""Delivering: each place is told of each alert once, whatever the other places do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster_resil.alerts.message import Alert
from dagster_resil.alerts.progress import Position, Positions
from dagster_resil.alerts.send import Place, send
from dagster_resil.errors import ResilError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pending:
    """An alert and the ids of the events that it tells of."""

    ids: tuple[int, ...]
    alert: Alert


@dataclass(frozen=True)
class Batch:
    """What the event log holds after some id.

    :param horizon: the highest id that was looked at.
    :param held: ids that are too young to be told of: more of the same may follow.
    """

    pending: tuple[Pending, ...]
    horizon: int
    held: tuple[int, ...] = ()


@dataclass(frozen=True)
class Delivery:
    """The outcome of one round.

    :param failures: what kept alerts from places, one sentence a place.
    """

    told: Positions
    sent: int
    failures: tuple[str, ...]


def deliver(
    told: Positions, places: Sequence[Place], read: Callable[[int], Batch], *, within_s: float
) -> Delivery:
    """Send what each place has not been told yet.

    A place that does not take an alert is asked again in the next round, and keeps its order; no
    other place waits for it.

    :param read: returns what the event log holds after an id.
    :param within_s: begin no sending after this time; the rest comes in the next round.
    """
    deadline = time.monotonic() + within_s
    told = told.for_places(place.id for place in places)
    batches: dict[int, Batch] = {}
    positions: dict[str, Position] = {}
    failures = []
    sent = 0
    for place in places:
        position = told.positions[place.id]
        if position.after not in batches:
            batches[position.after] = read(position.after)
        batch = batches[position.after]
        done: set[int] = set()
        owed = set(batch.held)
        stopped = False
        for pending in batch.pending:
            if not position.owes(pending.ids):
                continue
            if stopped or time.monotonic() > deadline:
                owed.update(pending.ids)
                continue
            try:
                send(pending.alert, place)
            except ResilError as error:
                failures.append(error.message)
                log.error("%s", error.message, extra={"alert_key": pending.alert.key})
                owed.update(pending.ids)
                stopped = True
            else:
                done.update(pending.ids)
                sent += 1
        positions[place.id] = position.moved(horizon=batch.horizon, told=done, owed=owed)
    return Delivery(Positions(positions), sent, tuple(failures))
