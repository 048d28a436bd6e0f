"""What is said of progress, by a clock that does as it is told."""

from __future__ import annotations

import pytest

from dagster_resil.progress import Meter, Step, lines


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


MB = 1_000_000


def test_rate_and_time_left_are_those_of_the_stage() -> None:
    clock = Clock()
    meter = Meter(clock)
    assert meter.figures(Step("reading", 0, 100 * MB, "bytes")) == "0 of 100 MB"
    clock.now += 1
    # Too early to tell.
    assert meter.figures(Step("reading", 10 * MB, 100 * MB, "bytes")) == "10 of 100 MB"
    clock.now += 9
    assert (
        meter.figures(Step("reading", 20 * MB, 100 * MB, "bytes", rows=1234567))
        == "20 of 100 MB · 1,234,567 rows · 2.0 MB/s · 40 s left"
    )
    clock.now += 90
    assert meter.figures(Step("reading", 100 * MB, 100 * MB, "bytes")).endswith(
        "1.0 MB/s · 0 s left"
    )
    # Another stage begins anew.
    assert meter.figures(Step("restoring", 50 * MB, 100 * MB, "bytes")) == "50 of 100 MB"
    clock.now += 2
    assert meter.figures(Step("restoring", 60 * MB, 100 * MB, "bytes")).endswith(
        "30.0 MB/s · 1 s left"
    )


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (59, "59 s"),
        (60, "1:00 min"),
        (61, "1:01 min"),
        (3599, "59:59 min"),
        (3600, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_time_left_is_in_a_persons_units(left: int, words: str) -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.figures(Step("reading", 0, 1, "bytes"))
    clock.now += 10
    assert meter.figures(Step("reading", 10 * MB, (10 + left) * MB, "bytes")).endswith(
        f"· {words} left"
    )


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("starting"), ""),
        (Step("comparing", 3, 7, "tables"), "3 of 7 tables"),
        (Step("indexing", 5, None, "s"), "5 s"),
        (Step("reading", 5 * MB, None, "bytes"), "5 MB"),
        (
            Step("restoring", 1, 2, "tables", rows=10, total_rows=2000),
            "1 of 2 tables · 10 of 2,000 rows",
        ),
        # More than there was thought to be: never a time below nothing.
        (Step("reading", 30 * MB, 20 * MB, "bytes"), "30 of 20 MB · 3.0 MB/s · 0 s left"),
    ],
)
def test_figures_say_what_is_known(step: Step, words: str) -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.figures(Step(step.stage, 0))
    clock.now += 10
    assert meter.figures(step) == words


def test_a_line_when_a_stage_begins_and_one_every_few_seconds() -> None:
    clock = Clock()
    said: list[str] = []
    report = lines(said.append, clock)
    for _ in range(200):  # ten seconds, twenty reports each
        report(Step("reading", int((clock.now - 1000) * MB), 10 * MB, "bytes"))
        clock.now += 0.05
    report(Step("keeping", 0, 5, "bytes"))
    report(Step("comparing"))
    clock.now += 60
    report(Step("comparing"))
    assert said == [
        "reading",
        "reading · 5 of 10 MB · 1.0 MB/s · 5 s left",
        "keeping",
        "comparing",
    ]
