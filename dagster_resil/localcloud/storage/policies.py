"""Buckets' IAM policies: which roles whom gives which permissions there.

So a service account gets rights on a bucket as at Google: an instance of Cloud SQL, for example,
whose identity begins with none. The roles are Cloud Storage's own, with those of their permissions
that are about buckets and objects (as of August 2026).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, Route, invalid, not_done
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.store import POLICY, Bucket, Store

_OBJECTS = "storage.objects."
ROLES: Mapping[str, tuple[str, ...]] = {
    "roles/storage.objectCreator": (f"{_OBJECTS}create",),
    "roles/storage.objectViewer": (f"{_OBJECTS}get", f"{_OBJECTS}list"),
    "roles/storage.objectUser": tuple(
        f"{_OBJECTS}{verb}"
        for verb in ("create", "delete", "get", "list", "move", "restore", "update")
    ),
    "roles/storage.objectAdmin": (f"{_OBJECTS}*",),
    "roles/storage.bucketViewer": ("storage.buckets.get", "storage.buckets.list"),
    "roles/storage.legacyObjectReader": (f"{_OBJECTS}get",),
    "roles/storage.legacyBucketReader": ("storage.buckets.get", f"{_OBJECTS}list"),
    "roles/storage.legacyBucketWriter": (
        "storage.buckets.get",
        *(f"{_OBJECTS}{verb}" for verb in ("create", "delete", "list", "restore", "setRetention")),
    ),
    "roles/storage.admin": ("storage.buckets.*", f"{_OBJECTS}*"),
}


class Policies:
    """The methods ``storage.buckets.getIamPolicy`` and ``setIamPolicy``."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        access.policy = self.grants

    def routes(self) -> list[Route]:
        """Return its methods."""
        place = "/storage/v1/b/{bucket}/iam"
        version = frozenset({"optionsRequestedPolicyVersion"})
        return [
            Route("storage.buckets.getIamPolicy", "GET", place, self._get, version),
            Route("storage.buckets.setIamPolicy", "PUT", place, self._set),
        ]

    def grants(self, caller: str | None, permission: str, bucket_name: str) -> bool:
        """Return whether a bucket's policy gives somebody a permission."""
        bucket = self._store.bucket(bucket_name) if caller else None
        if bucket is None:
            return False
        return any(
            f"serviceAccount:{caller}" in binding["members"]
            and any(fnmatchcase(permission, pattern) for pattern in ROLES[binding["role"]])
            for binding in _bindings(bucket)
        )

    def _get(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.buckets.getIamPolicy")
        return Answer.of(_shown(bucket))

    def _set(self, request: Request) -> Answer:
        given = request.body.json()
        unknown = given.keys() - {"kind", "resourceId", "version", "bindings", "etag"}
        if unknown:
            raise invalid(f"fields of a policy that are unknown: {sorted(unknown)}")
        bindings = [_checked(each) for each in given.get("bindings", [])]
        with self._store.transaction():
            bucket = self._access.bucket(request, "storage.buckets.setIamPolicy")
            if "etag" in given and given["etag"] != _shown(bucket)["etag"]:
                # Somebody has changed it since it was read.
                raise ApiError(412, "conditionNotMet", "Precondition Failed")
            bucket = replace(
                bucket,
                metageneration=bucket.metageneration + 1,
                resource={**bucket.resource, POLICY: bindings},
            )
            self._store.put_bucket(bucket)
        return Answer.of(_shown(bucket))


def _bindings(bucket: Bucket) -> list[dict[str, Any]]:
    return list(bucket.resource.get(POLICY, ()))


def _checked(binding: Any) -> dict[str, Any]:
    """Return a binding, if it can be one.

    :raises ApiError: it can't.
    """
    if not isinstance(binding, dict) or not isinstance(binding.get("members"), list):
        raise invalid("a binding has a role and members")
    if binding.get("condition"):
        raise not_done("conditions on roles")
    if binding.get("role") not in ROLES:
        raise invalid(f"Role {binding.get('role')} is not supported for this resource.")
    for member in binding["members"]:
        if member in ("allUsers", "allAuthenticatedUsers"):
            raise ApiError(
                412,
                "conditionNotMet",
                "The member bindings allUsers and allAuthenticatedUsers are not allowed since "
                "public access prevention is enforced.",
            )
        if not isinstance(member, str) or ":" not in member:
            raise invalid(f"Invalid member: {member!r}")
    return {"role": binding["role"], "members": sorted(set(binding["members"]))}


def _shown(bucket: Bucket) -> dict[str, Any]:
    bindings = _bindings(bucket)
    mark = hashlib.sha256(json.dumps(bindings, sort_keys=True).encode()).hexdigest()[:12]
    return {
        "kind": "storage#policy",
        "resourceId": f"projects/_/buckets/{bucket.name}",
        "version": 1,
        "etag": mark,
        "bindings": bindings,
    }
