"""How buckets and objects look in the API, and which of their fields a caller may set."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from dagster_resil.localcloud.protocol import ApiError, invalid
from dagster_resil.localcloud.storage.retention import (
    format_time,
    parse_time,
    retained_until,
)
from dagster_resil.localcloud.storage.store import POLICY, Bucket, Version

STORAGE_CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")
_TEXTS = ("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl")
_SETTABLE = frozenset(
    {*_TEXTS, "metadata", "storageClass", "customTime", "temporaryHold", "eventBasedHold"}
    | {"retention", "kmsKeyName"}
)
_ALSO_GIVEN = frozenset({"name", "bucket", "crc32c", "md5Hash", "kind", "id", "size", "generation"})
_KEY = re.compile(r"projects/[^/]+/locations/([^/]+)/keyRings/[^/]+/cryptoKeys/[^/]+")


def crc32c_text(value: int) -> str:
    """Return a checksum as Cloud Storage writes it."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def object_resource(bucket: Bucket, version: Version, base_url: str) -> dict[str, Any]:
    """Return an object as the API shows it."""
    where = f"b/{version.bucket}/o/{quote(version.name, safe='')}"
    mark = f"{version.generation}/{version.metageneration}".encode()
    until = retained_until(bucket, version)
    document = {
        "kind": "storage#object",
        "id": f"{version.bucket}/{version.name}/{version.generation}",
        "selfLink": f"{base_url}/storage/v1/{where}",
        "mediaLink": f"{base_url}/download/storage/v1/{where}?generation="
        f"{version.generation}&alt=media",
        "name": version.name,
        "bucket": version.bucket,
        "generation": str(version.generation),
        "metageneration": str(version.metageneration),
        "size": str(version.size),
        "crc32c": crc32c_text(version.crc32c),
        "etag": base64.b64encode(mark).decode(),
        **{key: value for key, value in version.resource.items() if value is not None},
    }
    document.pop("eventBasedHoldReleased", None)
    if until is not None:
        document["retentionExpirationTime"] = format_time(until)
    return document


def settable(bucket: Bucket, given: Mapping[str, Any], key_name: str | None) -> dict[str, Any]:
    """Return the fields of a new object's metadata that are its caller's to set.

    :param key_name: the customer-managed key that the query names.
    :raises ApiError: a field is unknown, or its value impossible.
    """
    unknown = given.keys() - _SETTABLE - _ALSO_GIVEN
    if unknown:
        raise invalid(f"fields that can't be set: {sorted(unknown)}")
    fields = {key: value for key, value in given.items() if key in _SETTABLE and value is not None}
    check_fields(fields)
    fields.setdefault("storageClass", bucket.resource.get("storageClass", "STANDARD"))
    if bucket.resource.get("defaultEventBasedHold"):
        fields.setdefault("eventBasedHold", True)
    default = bucket.resource.get("encryption", {}).get("defaultKmsKeyName")
    key = key_name or fields.pop("kmsKeyName", None) or default
    if key:
        fields["kmsKeyName"] = check_key(bucket, key) + "/cryptoKeyVersions/1"
    return fields


def check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse impossible values.

    :raises ApiError: one is.
    """
    for key, value in fields.items():
        if value is None:
            continue
        if key in _TEXTS and not isinstance(value, str):
            raise invalid(f"Invalid value for {key}: {value!r}")
        if key in ("temporaryHold", "eventBasedHold") and not isinstance(value, bool):
            raise invalid(f"Invalid value for {key}: {value!r}")
        if key == "metadata" and not (
            isinstance(value, dict) and all(isinstance(each, str | None) for each in value.values())
        ):
            raise invalid("Invalid value for metadata: texts are wanted")
        if key == "customTime":
            parse_time(value)
        if key == "storageClass" and value not in STORAGE_CLASSES:
            raise invalid(f"Invalid argument: storage class {value!r}")


def check_key(bucket: Bucket, key: str) -> str:
    """Return a key's name, if it can encrypt in a bucket.

    :raises ApiError: it is no key's name, or the key is elsewhere.
    """
    found = _KEY.fullmatch(key)
    if not found:
        raise invalid(f"Malformed Cloud KMS key resource ID: {key!r}")
    if found[1].upper() != bucket.location:
        raise invalid(
            f"Cloud KMS key {key} is in {found[1]}, the bucket in {bucket.location.lower()}"
        )
    return key


def check_name(name: Any) -> str:
    """Return an object's name, if it can be one.

    :raises ApiError: it can't.
    """
    if not isinstance(name, str) or not name:
        raise ApiError(400, "required", "Required parameter: name")
    if len(name.encode()) > 1024 or "\r" in name or "\n" in name or name in (".", ".."):
        raise invalid(f"Invalid object name: {name[:80]!r}")
    return name


def bucket_resource(bucket: Bucket, base_url: str) -> dict[str, Any]:
    """Return a bucket as the API shows it."""
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "selfLink": f"{base_url}/storage/v1/b/{bucket.name}",
        "projectNumber": "1",
        "metageneration": str(bucket.metageneration),
        "etag": base64.b64encode(str(bucket.metageneration).encode()).decode(),
        **{
            key: value
            for key, value in bucket.resource.items()
            if value is not None and key != POLICY
        },
    }


def selected(document: Any, fields: str) -> Any:
    """Return the parts of a document that the query's ``fields`` names.

    :raises ApiError: it can't be understood.
    """
    return _pick(document, _tree(fields))


def _tree(text: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    depth, begun, parts = 0, 0, []
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(text[begun:place])
            begun = place + 1
    parts.append(text[begun:])
    for part in parts:
        found = re.fullmatch(r"\s*([A-Za-z0-9*/]+)\s*(?:\((.*)\))?\s*", part)
        if not found or depth:
            raise invalid(f"Invalid field selection {text}")
        below = _tree(found[2]) if found[2] else None
        path = found[1].split("/")
        here = tree
        for step in path[:-1]:
            here = here.setdefault(step, {})
        here[path[-1]] = below
    return tree


def _pick(document: Any, tree: dict[str, Any] | None) -> Any:
    if tree is None or "*" in tree:
        return document
    if isinstance(document, list):
        return [_pick(each, tree) for each in document]
    if not isinstance(document, dict):
        return document
    return {key: _pick(document[key], below) for key, below in tree.items() if key in document}


def joined(*sets: Iterable[str]) -> frozenset[str]:
    """Return the parameters of several sets."""
    return frozenset(each for one in sets for each in one)
