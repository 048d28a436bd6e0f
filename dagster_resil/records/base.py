"""What every record has in common: times, sizes, names.

Times are RFC 3339 in UTC, sizes are bytes, durations are seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer

FORMAT = 1
"""The vault layout that this release writes, and the newest that it reads."""


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time without a zone")
    return value.astimezone(UTC)


def format_time(value: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the microsecond."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Time = Annotated[datetime, AfterValidator(_utc), PlainSerializer(format_time, return_type=str)]
Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
"""The name that this tool uses for a protected database; PostgreSQL's may be anything."""
BACKUP_ID_PATTERN = r"^[a-z][a-z0-9_]*-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$"


class Record(BaseModel):
    """A part of a manifest or receipt: immutable; fields of later releases are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types, with the names that the vault uses."""
        return self.model_dump(mode="json", by_alias=True)
