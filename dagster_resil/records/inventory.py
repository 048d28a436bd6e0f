"""Inventories: what a database has, beside its tables' rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from dagster_resil.records.base import Record
from dagster_resil.records.text import shown


class Item(Record):
    """One thing of the database, and what of it has to be equal."""

    kind: str
    identity: Annotated[str, BeforeValidator(shown)]
    properties: Annotated[str, BeforeValidator(shown)]


class Inventory(Record):
    """Everything that was looked at, sorted.

    ``not_read`` names the kinds that the login may not read. ``membership_options`` are apart from
    the items because earlier releases have not kept them: with one of their inventories nothing
    but the items is compared. ``all_comments`` says that the items have the comments of large
    objects with numbers below 16384 too, which earlier releases have not kept either.
    """

    items: tuple[Item, ...]
    not_read: tuple[str, ...] = ()
    membership_options: tuple[Item, ...] = ()
    all_comments: bool = False

    def extensions(self) -> dict[str, str]:
        """Return the extensions and their versions."""
        return {
            item.identity: item.properties.removeprefix("version ").split(",", 1)[0]
            for item in self.items
            if item.kind == "EXTENSION"
        }


class SequenceValue(Record):
    """Where a sequence stands now; sequences are no part of a snapshot."""

    schema_name: str
    name: str
    last_value: int
    is_called: bool
    increment: int
    cycle: bool


class LargeObjects(Record):
    """All large objects: how many, how large, and a fingerprint of all they hold.

    ``sizes`` are (OID, bytes).
    """

    count: int
    bytes: int
    fingerprint: str
    sizes: tuple[tuple[int, int], ...] = ()
