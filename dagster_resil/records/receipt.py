"""Receipts: what a verification found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dagster_resil.records.base import Bytes, Record, Seconds, Time
from dagster_resil.records.manifest import Recovered
from dagster_resil.records.verdict import Verdict


class Check(Record):
    """What one check found."""

    name: str
    verdict: Verdict
    summary: str
    """One sentence with the figures, or with the first thing that is wrong."""
    details: tuple[str, ...] = ()
    """The differences, one a line, the first of them when there are many."""


class TableComparison(Record):
    """One row of the comparison: a table in the source and in the restored database."""

    schema_: str = Field(alias="schema")
    name: str
    kind: str
    rows_source: int | None
    rows_restored: int | None
    fingerprint_source: str | None
    fingerprint_restored: str | None
    bytes_source: int | None
    bytes_restored: int | None
    verdict: Verdict
    difference: str = ""

    @property
    def title(self) -> str:
        """Return the table's name for a person."""
        return "large objects" if self.kind == "large_objects" else f"{self.schema_}.{self.name}"


class Receipt(Record):
    """The outcome of one verification."""

    format: Annotated[int, Field(ge=1)]
    backup_id: str
    name: str
    database: str
    verdict: Verdict
    checks: tuple[Check, ...]
    seconds: dict[str, Seconds]
    rows: int
    bytes: Bytes
    verified_at: Time
    server_version: str | None
    """The scratch server's version; None when there was none."""
    tools: dict[str, str]
    isolation: tuple[str, ...] = ()
    """How the scratch server was shut off, and what could not be."""
    not_checked: tuple[str, ...] = ()
    tables: tuple[TableComparison, ...] = ()
    recovered: Recovered | None = None
    """Of a point-in-time drill: the moment, and the instance that was recovered to it."""

    def check(self, name: str) -> Check:
        """Return the check of that name; KeyError when there is none."""
        for item in self.checks:
            if item.name == name:
                return item
        raise KeyError(name)
