"""Who may do what in a bucket by its own policy: ``storage.buckets.getIamPolicy`` and ``set…``.

A policy gives roles to members; the roles are Google's predefined ones for objects and buckets.
What an account may do by itself (:mod:`dagster_resil.localcloud.identities`) it may do besides.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from dagster_resil.localcloud.protocol import ApiError, invalid
from dagster_resil.localcloud.storage.store import Bucket

KEY = "_policy"
"""Where a bucket's resource holds it; it is not shown with the bucket."""
_VIEW = ("storage.objects.get", "storage.objects.list")
_BUCKET_VIEW = ("storage.buckets.get", "storage.buckets.list")
ROLES: Mapping[str, tuple[str, ...]] = {
    "roles/storage.admin": ("storage.*",),
    "roles/storage.bucketViewer": _BUCKET_VIEW,
    "roles/storage.objectAdmin": ("storage.objects.*", "storage.multipartUploads.*"),
    "roles/storage.objectCreator": ("storage.objects.create", "storage.multipartUploads.*"),
    "roles/storage.objectUser": (
        *_VIEW,
        *(f"storage.objects.{verb}" for verb in ("create", "delete", "update", "restore", "move")),
        "storage.multipartUploads.*",
    ),
    "roles/storage.objectViewer": _VIEW,
}
_MEMBERS = ("serviceAccount:", "user:", "group:", "domain:")


def policy_of(bucket: Bucket) -> dict[str, Any]:
    """Return a bucket's policy, as the API shows it."""
    policy = bucket.resource.get(KEY) or {"bindings": [], "number": 0}
    return {
        "kind": "storage#policy",
        "resourceId": f"projects/_/buckets/{bucket.name}",
        "version": 1,
        "etag": base64.b64encode(str(policy["number"]).encode()).decode(),
        "bindings": policy["bindings"],
    }


def with_policy(bucket: Bucket, given: Mapping[str, Any]) -> Bucket:
    """Return a bucket with another policy.

    :raises ApiError: it can't be one, or was made from one that is no longer the bucket's.
    """
    now = policy_of(bucket)
    if given.get("etag") not in (None, now["etag"]):
        raise ApiError(412, "conditionNotMet", "The policy was changed meanwhile.")
    bindings = []
    for binding in given.get("bindings", []):
        role, members = binding.get("role"), binding.get("members", [])
        if role not in ROLES:
            raise invalid(f"Role {role} is not supported for this resource.")
        if "condition" in binding:
            raise ApiError(501, "notImplemented", "conditions of bindings are not done here")
        for member in members:
            if member in ("allUsers", "allAuthenticatedUsers"):
                raise ApiError(
                    412, "conditionNotMet", "The bucket's public access prevention is enforced."
                )
            if not str(member).startswith(_MEMBERS):
                raise invalid(f"Invalid member {member!r}")
        if members:
            bindings.append({"role": role, "members": sorted(set(members))})
    number = (bucket.resource.get(KEY) or {}).get("number", 0) + 1
    resource = {**bucket.resource, KEY: {"bindings": bindings, "number": number}}
    return Bucket(bucket.name, bucket.metageneration, resource)


def grants(bucket: Bucket, caller: str | None, permission: str) -> bool:
    """Return whether a bucket's policy gives a caller a permission."""
    policy = bucket.resource.get(KEY)
    if policy is None or caller is None:
        return False
    return any(
        fnmatchcase(permission, pattern)
        for binding in policy["bindings"]
        if f"serviceAccount:{caller}" in binding["members"]
        for pattern in ROLES[binding["role"]]
    )
