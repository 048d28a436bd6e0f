"""The checks of a backup: what each is called, says and shows. A new one is one line here.

The first two judge how a backup arrives and is restored; :mod:`dagster_resil.verify.prove` makes
them on the way. Each of the others judges the comparison of the restored database with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from dagster_resil.records.receipt import Check
from dagster_resil.verify.compare import contents_check, row_counts_check
from dagster_resil.verify.restored import Comparison, money_check, schema_check

Circumstance = Literal["other_version", "left_out"]
"""What a restore may differ by because it was asked for: another major version, or roles, owners
and grants left out."""


@dataclass(frozen=True)
class CheckKind:
    """One of the checks.

    :param description: when it holds, in one sentence.
    :param judge: returns the check from the comparison; None where it is made before.
    :param shows: what is shown with it: the comparison of tables, or how the restore went.
    :param softened_by: in which circumstances its FAIL says nothing about the backup.
    :param names_left_out: whether its summary says what the backup has not got.
    """

    name: str
    description: str
    judge: Callable[[Comparison], Check] | None = None
    shows: Literal["tables", "restore"] | None = None
    softened_by: frozenset[Circumstance] = field(default_factory=frozenset)
    names_left_out: bool = False


CHECKS: tuple[CheckKind, ...] = (
    CheckKind(
        "archive_intact",
        "Every object is there with its size and checksum, and the archive parses.",
    ),
    CheckKind(
        "restores_cleanly",
        "The restore into a scratch server ended with no error at all.",
        shows="restore",
    ),
    CheckKind(
        "row_counts_match",
        "Every table has as many rows as under the backup's snapshot.",
        lambda compared: row_counts_check(compared.tables),
        shows="tables",
        names_left_out=True,
    ),
    CheckKind(
        "contents_match",
        "Every table's fingerprint equals the one taken under the snapshot.",
        lambda compared: money_check(contents_check(compared.tables), compared.money),
        shows="tables",
        softened_by=frozenset({"other_version"}),
    ),
    CheckKind(
        "schema_matches",
        "Definitions, owners, grants, sequences, large objects… are equal.",
        lambda compared: schema_check(
            compared.differences, compared.expected, unsettled=compared.unsettled
        ),
        softened_by=frozenset({"other_version", "left_out"}),
    ),
)
"""All checks, in the order in which they are shown."""


def names() -> tuple[str, ...]:
    """Return the checks' names, in their order."""
    return tuple(kind.name for kind in CHECKS)


def kind_of(name: str) -> CheckKind | None:
    """Return the check of that name; None for one that this release does not know."""
    return next((kind for kind in CHECKS if kind.name == name), None)


def judge(compared: Comparison) -> Iterator[Check]:
    """Yield the checks of a restored database."""
    for kind in CHECKS:
        if kind.judge is not None:
            yield kind.judge(compared)
