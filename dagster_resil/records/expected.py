"""What a restored database has to equal beyond its tables' rows: two objects of a backup."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from dagster_resil.records.base import Record
from dagster_resil.records.inventory import Inventory, Item, LargeObjects

SCHEMA_OBJECT = "expectations/schema.sql"
"""``pg_dump --schema-only`` of the source, made under the snapshot."""
INVENTORY_OBJECT = "expectations/inventory.json"
"""What such a dump does not show: an :class:`Expected`."""


class SequenceState(Record):
    """Where a sequence stands in the archive, which lay between two looks at the source."""

    schema_name: str
    name: str
    last_value: int
    is_called: bool


class Expected(Record):
    """What the schema's dump does not show."""

    inventory: Inventory
    sequences: tuple[SequenceState, ...]
    large_objects: LargeObjects
    unreadable_tables: tuple[str, ...] = ()
    """Tables of extensions that the login could not read and pg_dump does not dump."""
    catalogues: Mapping[str, tuple[Item, ...]] = Field(default_factory=dict)
    """What a dump does not carry, by class; see :mod:`dagster_resil.postgres.catalogues`."""
    globals: tuple[Item, ...] | None = None
    """What ``globals.sql`` makes, beside memberships and settings, which are in the inventory; None
    in a backup of an earlier release."""
