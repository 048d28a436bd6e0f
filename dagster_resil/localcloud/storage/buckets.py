"""Buckets: where they are, and the rules for what is in them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, Route, invalid
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.preconditions import Preconditions
from dagster_resil.localcloud.storage.resources import (
    STORAGE_CLASSES,
    bucket_resource,
    check_key,
)
from dagster_resil.localcloud.storage.retention import check_bucket_policy, format_time
from dagster_resil.localcloud.storage.store import Bucket, Store

LOCATIONS = ("EUROPE-WEST1", "US-EAST1")
"""The regions of the local cloud."""
_SOFT_DELETE_S = 604_800
_SETTABLE = frozenset(
    {"versioning", "retentionPolicy", "softDeletePolicy", "iamConfiguration", "encryption"}
    | {"defaultEventBasedHold", "storageClass", "labels"}
)
_METAGENERATION = frozenset({"ifMetagenerationMatch", "ifMetagenerationNotMatch"})


class Buckets:
    """The methods ``storage.buckets.*``."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    def routes(self) -> list[Route]:
        """Return its methods."""
        one = "/storage/v1/b/{bucket}"
        return [
            Route(
                "storage.buckets.insert",
                "POST",
                "/storage/v1/b",
                self._insert,
                frozenset({"project", "enableObjectRetention", "projection"}),
            ),
            Route(
                "storage.buckets.list",
                "GET",
                "/storage/v1/b",
                self._list,
                frozenset({"project", "maxResults", "projection"}),
            ),
            Route("storage.buckets.get", "GET", one, self._get, _METAGENERATION | {"projection"}),
            Route(
                "storage.buckets.patch", "PATCH", one, self._patch, _METAGENERATION | {"projection"}
            ),
            Route("storage.buckets.delete", "DELETE", one, self._delete, _METAGENERATION),
            Route(
                "storage.buckets.testIamPermissions",
                "GET",
                f"{one}/iam/testPermissions",
                self._test_permissions,
                frozenset({"permissions"}),
            ),
            Route(
                "storage.buckets.lockRetentionPolicy",
                "POST",
                f"{one}/lockRetentionPolicy",
                self._lock,
                frozenset({"ifMetagenerationMatch"}),
            ),
        ]

    def create(self, name: str, given: dict[str, Any], *, object_retention: bool) -> Bucket:
        """Make a bucket.

        :raises ApiError: it is there, or is not as a bucket may be.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", name):
            raise invalid(f"Invalid bucket name: '{name}'")
        location = str(given.get("location", "")).upper()
        if location not in LOCATIONS:
            raise invalid(
                f"The specified location constraint is not valid: {location!r}; the local cloud "
                f"has {', '.join(LOCATIONS)}"
            )
        now = format_time(datetime.now(UTC))
        resource: dict[str, Any] = {
            "location": location,
            "locationType": "region",
            "storageClass": "STANDARD",
            "timeCreated": now,
            "updated": now,
            "softDeletePolicy": {"retentionDurationSeconds": str(_SOFT_DELETE_S)},
            "iamConfiguration": {
                "uniformBucketLevelAccess": {"enabled": True},
                "publicAccessPrevention": "enforced",
            },
        }
        if object_retention:
            resource["objectRetention"] = {"mode": "Enabled"}
        given = {k: v for k, v in given.items() if k not in ("name", "location", "kind", "id")}
        bucket = _changed(Bucket(name, 1, resource), given)
        with self._store.transaction():
            if self._store.bucket(name):
                raise ApiError(
                    409,
                    "conflict",
                    "Your previous request to create the named bucket succeeded and you already "
                    "own it.",
                )
            self._store.put_bucket(bucket)
        return bucket

    def _insert(self, request: Request) -> Answer:
        given = request.body.json()
        name = str(given.get("name", ""))
        self._access.check(request, "storage.buckets.create", name)
        enabled = request.flag("enableObjectRetention")
        bucket = self.create(name, given, object_retention=enabled)
        return Answer.of(bucket_resource(bucket, request.base_url))

    def _list(self, request: Request) -> Answer:
        self._access.check(request, "storage.buckets.list", "*")
        items = [bucket_resource(each, request.base_url) for each in self._store.buckets()]
        return Answer.of({"kind": "storage#buckets", "items": items})

    def _get(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.buckets.get")
        Preconditions.of(request.query).check(bucket, reading=True)
        return Answer.of(bucket_resource(bucket, request.base_url))

    def _patch(self, request: Request) -> Answer:
        given = request.body.json()
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.buckets.update")
            Preconditions.of(request.query).check(bucket)
            bucket = _changed(bucket, given)
            bucket = replace(bucket, metageneration=bucket.metageneration + 1)
            self._store.put_bucket(bucket)
        return Answer.of(bucket_resource(bucket, request.base_url))

    def _delete(self, request: Request) -> Answer:
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.buckets.delete")
            Preconditions.of(request.query).check(bucket)
            if self._store.has_versions(bucket.name):
                raise ApiError(409, "conflict", "The bucket you tried to delete is not empty.")
            self._store.remove_bucket(bucket.name)
        return Answer(204)

    def _test_permissions(self, request: Request) -> Answer:
        name = request.names["bucket"]
        if self._store.bucket(name) is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.")
        if request.caller is None:
            raise ApiError(401, "required", "Anonymous caller has no permissions.")
        held = [
            each
            for each in request.query.get("permissions", "").split(",")
            if self._access.may(request, each, name)
        ]
        document: dict[str, Any] = {"kind": "storage#testIamPermissionsResponse"}
        if held:
            document["permissions"] = held
        return Answer.of(document)

    def _lock(self, request: Request) -> Answer:
        if "ifMetagenerationMatch" not in request.query:
            raise ApiError(400, "required", "Required parameter: ifMetagenerationMatch")
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.buckets.update")
            Preconditions.of(request.query).check(bucket)
            policy = bucket.resource.get("retentionPolicy")
            if not policy:
                raise invalid("Bucket has no retention policy to lock.")
            resource = {**bucket.resource, "retentionPolicy": {**policy, "isLocked": True}}
            bucket = Bucket(bucket.name, bucket.metageneration + 1, resource)
            self._store.put_bucket(bucket)
        return Answer.of(bucket_resource(bucket, request.base_url))


def _changed(bucket: Bucket, given: dict[str, Any]) -> Bucket:
    """Return a bucket with other settings.

    :raises ApiError: one is unknown or impossible.
    """
    unknown = given.keys() - _SETTABLE
    if unknown:
        raise invalid(f"settings of a bucket that can't be set here: {sorted(unknown)}")
    resource = dict(bucket.resource)
    now = format_time(datetime.now(UTC))
    for key, value in given.items():
        old = resource.get(key)
        if key == "retentionPolicy":
            check_bucket_policy(old, value)
            if value is not None:
                value = {
                    "retentionPeriod": str(value["retentionPeriod"]),
                    "effectiveTime": (old or {}).get("effectiveTime", now),
                    **({"isLocked": True} if (old or {}).get("isLocked") else {}),
                }
        elif key == "softDeletePolicy" and value is not None:
            value = {
                "retentionDurationSeconds": str(value.get("retentionDurationSeconds", "")),
                "effectiveTime": now,
            }
            if not value["retentionDurationSeconds"].isdigit():
                raise invalid("Invalid soft delete policy")
        elif key == "encryption" and value is not None:
            check_key(bucket, str(value.get("defaultKmsKeyName")))
        elif key == "storageClass" and value not in STORAGE_CLASSES:
            raise invalid(f"Invalid storage class: {value!r}")
        elif key in ("iamConfiguration", "labels") and value is not None:
            value = {**(old or {}), **value}
        resource[key] = value
    resource["updated"] = now
    return Bucket(bucket.name, bucket.metageneration, resource)
