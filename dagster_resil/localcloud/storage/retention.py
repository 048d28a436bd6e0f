"""What may not be deleted or replaced yet: retention policies, retention of objects, holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from dagster_resil.localcloud.protocol import ApiError, invalid
from dagster_resil.localcloud.storage.store import Bucket, Version

_LONGEST_S = 3_155_760_000
"""A hundred years, Cloud Storage's limit."""


def format_time(moment: datetime) -> str:
    """Return a time as the API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: Any) -> datetime:
    """Read a time.

    :raises ApiError: it is none.
    """
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise invalid(f"Invalid time: {text!r}") from None
    if moment.tzinfo is None:
        raise invalid(f"Invalid time: {text!r}")
    return moment


def retained_until(bucket: Bucket, version: Version) -> datetime | None:
    """Return until when an object has to stay; None for no time."""
    times = []
    policy = bucket.resource.get("retentionPolicy")
    if policy:
        begins = version.resource.get("eventBasedHoldReleased") or version.resource["timeCreated"]
        times.append(parse_time(begins) + timedelta(seconds=int(policy["retentionPeriod"])))
    own = version.resource.get("retention")
    if own:
        times.append(parse_time(own["retainUntilTime"]))
    return max(times, default=None)


def check_removable(bucket: Bucket, version: Version, *, archiving: bool) -> None:
    """Refuse to remove what has to stay.

    :param archiving: whether it would stay as a noncurrent version, which retention allows and a
        hold does not.
    :raises ApiError: it has to stay.
    """
    where = f"{bucket.name}/{version.name}"
    for key, title in (("temporaryHold", "Temporary"), ("eventBasedHold", "Event-Based")):
        if version.resource.get(key):
            raise ApiError(
                403,
                "objectUnderActiveHold",
                f"Object '{where}' is under active {title} hold and cannot be deleted, "
                "overwritten or archived until hold is removed.",
            )
    until = retained_until(bucket, version)
    if until is not None and until > datetime.now(UTC) and not archiving:
        raise ApiError(
            403,
            "retentionPolicyNotMet",
            f"Object '{where}' is subject to bucket's retention policy or object retention and "
            f"cannot be deleted or overwritten until {format_time(until)}",
        )


def check_object_retention(
    bucket: Bucket, old: dict[str, Any] | None, new: dict[str, Any] | None, *, override: bool
) -> None:
    """Refuse a retention that the bucket does not allow, or one that takes back a promise.

    :raises ApiError: it is refused.
    """
    if new is not None:
        if bucket.resource.get("objectRetention", {}).get("mode") != "Enabled":
            raise ApiError(400, "invalid", "Object retention is not enabled for this bucket.")
        if new.get("mode") not in ("Locked", "Unlocked"):
            raise invalid(f"Invalid retention mode: {new.get('mode')!r}")
        if parse_time(new.get("retainUntilTime")) <= datetime.now(UTC) and old != new:
            raise invalid("Retain until time must be in the future.")
    if not old:
        return
    shorter = (
        new is None
        or parse_time(new["retainUntilTime"]) < parse_time(old["retainUntilTime"])
        or (old["mode"] == "Locked" and new["mode"] != "Locked")
    )
    if shorter and (old["mode"] == "Locked" or not override):
        raise ApiError(
            403,
            "forbidden",
            "Object retention configuration can't be removed or shortened"
            + ("." if old["mode"] == "Locked" else " without overrideUnlockedRetention."),
        )


def check_bucket_policy(old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
    """Refuse to take back a retention policy that is locked, or one of an impossible length.

    :raises ApiError: it is refused.
    """
    if new is not None:
        period = str(new.get("retentionPeriod", ""))
        if not period.isdigit() or not 0 < int(period) <= _LONGEST_S:
            raise invalid(f"Invalid retention period: {period!r}")
    if old and old.get("isLocked"):
        shorter = new is None or int(new["retentionPeriod"]) < int(old["retentionPeriod"])
        if shorter:
            raise ApiError(
                403,
                "forbidden",
                "Cannot reduce retention duration of a locked Retention Policy for bucket.",
            )
