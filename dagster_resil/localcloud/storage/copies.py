"""Copies that the server makes: rewrite, between buckets and in several calls, and compose."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster_resil.localcloud.protocol import (
    BLOCK_BYTES,
    Answer,
    Request,
    Route,
    invalid,
    not_done,
)
from dagster_resil.localcloud.storage.access import Access
from dagster_resil.localcloud.storage.objects import Objects
from dagster_resil.localcloud.storage.preconditions import (
    PARAMETERS,
    SOURCE_PARAMETERS,
    Preconditions,
)
from dagster_resil.localcloud.storage.resources import check_name, joined, object_resource
from dagster_resil.localcloud.storage.store import Bucket, Rewrite, Store, Version

_STEP_BYTES = 128 << 20
"""How much a call copies between locations, unless the caller wants less."""
_MIB = 1 << 20
_MOST_SOURCES = 32
_KEPT = ("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl")


class Copies:
    """The methods ``storage.objects.rewrite`` and ``storage.objects.compose``."""

    def __init__(self, store: Store, access: Access, objects: Objects) -> None:
        self._store = store
        self._access = access
        self._objects = objects

    def routes(self) -> list[Route]:
        """Return its methods."""
        one = "/storage/v1/b/{bucket}/o/{object}"
        return [
            Route(
                "storage.objects.rewrite",
                "POST",
                one + "/rewriteTo/b/{destination_bucket}/o/{destination_object}",
                self._rewrite,
                joined(
                    PARAMETERS,
                    SOURCE_PARAMETERS,
                    {"rewriteToken", "sourceGeneration", "maxBytesRewrittenPerCall"},
                    {"destinationKmsKeyName", "projection"},
                ),
            ),
            Route(
                "storage.objects.compose",
                "POST",
                f"{one}/compose",
                self._compose,
                joined({"ifGenerationMatch", "ifMetagenerationMatch", "kmsKeyName"}),
            ),
        ]

    def _rewrite(self, request: Request) -> Answer:
        source_bucket = self._access.bucket(request, "storage.objects.get")
        bucket = self._access.bucket(
            request, "storage.objects.create", request.names["destination_bucket"]
        )
        name = check_name(request.names["destination_object"])
        given = request.body.json()
        source = self._objects.find(
            request,
            source_bucket,
            request.names["object"],
            request.query.get("sourceGeneration"),
        )
        Preconditions.of(request.query, "ifSource").check(source)
        preconditions = Preconditions.of(request.query)
        self._objects.check_place(request, bucket, name, preconditions)
        metadata = _metadata(source, given)
        wanted = {
            "source": source.generation,
            "bucket": bucket.name,
            "name": name,
            "metadata": metadata,
        }
        rewrite = self._under_way(request, wanted)
        step = self._step(request, source_bucket, bucket, source, metadata)
        file = self._store.reopen(rewrite.file, rewrite.written, rewrite.crc32c)
        try:
            file.write(_blocks(self._store.path(source.file), rewrite.written, step))
            file.sync()
            if file.size < source.size:
                going_on = Rewrite(rewrite.token, file.name, file.size, file.crc32c, wanted)
                self._store.put_rewrite(going_on)
                return Answer.of(
                    {
                        "kind": "storage#rewriteResponse",
                        "totalBytesRewritten": str(file.size),
                        "objectSize": str(source.size),
                        "done": False,
                        "rewriteToken": rewrite.token,
                    }
                )
            with self._store.transaction():
                version = self._objects.commit(
                    request,
                    bucket.name,
                    name,
                    file,
                    metadata,
                    preconditions=preconditions,
                    key_name=request.query.get("destinationKmsKeyName"),
                    more={"componentCount": source.resource.get("componentCount")},
                )
                self._store.remove_rewrite(rewrite.token)
        finally:
            file.close()
        return Answer.of(
            {
                "kind": "storage#rewriteResponse",
                "totalBytesRewritten": str(source.size),
                "objectSize": str(source.size),
                "done": True,
                "resource": object_resource(bucket, version, request.base_url),
            }
        )

    def _under_way(self, request: Request, wanted: dict[str, Any]) -> Rewrite:
        """Return the copy that a token stands for, or a new one."""
        token = request.query.get("rewriteToken")
        if token is None:
            with self._store.new_file() as file:
                return Rewrite(secrets.token_urlsafe(24), file.name, 0, 0, wanted)
        rewrite = self._store.rewrite(token)
        if rewrite is None:
            raise invalid("Invalid rewrite token")
        if json.dumps(rewrite.request, sort_keys=True) != json.dumps(wanted, sort_keys=True):
            raise invalid("The rewrite token is of another copy, or its source has changed.")
        return rewrite

    def _step(
        self,
        request: Request,
        source_bucket: Bucket,
        bucket: Bucket,
        source: Version,
        metadata: dict[str, Any],
    ) -> int:
        given = request.query.get("maxBytesRewrittenPerCall")
        if given is not None and (not given.isdigit() or not int(given) or int(given) % _MIB):
            raise invalid("maxBytesRewrittenPerCall must be a multiple of 1 MiB")
        stays = source_bucket.location == bucket.location and metadata.get(
            "storageClass", bucket.resource.get("storageClass")
        ) == source.resource.get("storageClass")
        if stays:
            return source.size  # no byte has to move
        return int(given) if given else _STEP_BYTES

    def _compose(self, request: Request) -> Answer:
        bucket = self._access.bucket(request, "storage.objects.create")
        self._access.check(request, "storage.objects.get", bucket.name)
        given = request.body.json()
        if given.get("deleteSourceObjects"):
            raise not_done("compose with deleteSourceObjects")
        wanted = given.get("sourceObjects") or []
        if not 1 <= len(wanted) <= _MOST_SOURCES:
            raise invalid(f"The number of source components must be from 1 to {_MOST_SOURCES}.")
        sources = []
        for each in wanted:
            generation = each.get("generation")
            source = self._objects.find(
                request, bucket, str(each.get("name")), generation and str(generation)
            )
            expected = (each.get("objectPreconditions") or {}).get("ifGenerationMatch")
            Preconditions(int(expected) if expected is not None else None).check(source)
            sources.append(source)
        count = sum(int(each.resource.get("componentCount") or 1) for each in sources)
        with self._store.new_file() as file:
            for source in sources:
                file.write(_blocks(self._store.path(source.file), 0, source.size))
            version = self._objects.commit(
                request,
                bucket.name,
                check_name(request.names["object"]),
                file,
                {
                    "contentType": sources[0].resource["contentType"],
                    **(given.get("destination") or {}),
                },
                preconditions=Preconditions.of(request.query),
                key_name=request.query.get("kmsKeyName"),
                more={"componentCount": count},
            )
        return Answer.of(object_resource(bucket, version, request.base_url))


def _metadata(source: Version, given: dict[str, Any]) -> dict[str, Any]:
    """Return a copy's metadata: what the caller gives, all of it; otherwise the source's."""
    if given:
        return {"contentType": source.resource["contentType"], **given}
    return {
        key: value
        for key, value in source.resource.items()
        if key in (*_KEPT, "metadata", "customTime") and value is not None
    }


def _blocks(path: Path, start: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while size and (block := file.read(min(size, BLOCK_BYTES))):
            size -= len(block)
            yield block
