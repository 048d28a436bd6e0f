"""Looking whether a bucket is what the configuration says, and whether we may do what we must."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.cloud import storage

from dagster_resil.errors import VaultUnreachable
from dagster_resil.vault.base import Finding
from dagster_resil.vault.gcs import CREATE, DELETE, GET, LIST, ROLES, GcsVault

_DAY_S = 86_400
_SET_RETENTION = "storage.objects.setRetention"
_MUST_NOT = (DELETE, "storage.objects.update", "storage.buckets.delete", "storage.buckets.update")
"""With one of these, whoever takes over the machine that takes backups can undo them."""


def check_bucket(vault: GcsVault, *, writes: bool = True) -> Iterator[Finding]:
    """Yield what a vault's bucket is, compared with its settings.

    :param writes: whether backups are to be taken; to restore them takes fewer rights.
    :raises VaultError: it can't be looked at.
    """
    yield from _rights(vault, writes=writes)
    try:
        with vault.telling("look at the bucket", "storage.buckets.get"):
            bucket = vault.client.get_bucket(vault.bucket_name, **vault.options)
    except VaultUnreachable as error:
        if writes or error.transient:
            raise
        yield Finding("how the bucket is set up was not looked at", hint=error.message)
        return
    yield from _place(vault, bucket)
    yield from _keeping(vault, bucket)
    yield from _access(bucket)


def _rights(vault: GcsVault, *, writes: bool) -> Iterator[Finding]:
    name, who = vault.bucket_name, vault.caller()
    wanted = [CREATE, GET, LIST] if writes else [GET, LIST]
    if writes and vault.settings.object_retention_days:
        wanted.append(_SET_RETENTION)
    have = vault.permissions([*wanted, *_MUST_NOT])
    for each in wanted:
        if each in have:
            yield Finding(f"{who} has {each} on bucket {name}")
        else:
            yield Finding(
                f"{who} lacks {each} on bucket {name}",
                False,
                f"grant {ROLES[each]} on bucket {name} to {who}",
            )
    for each in _MUST_NOT:
        if each in have:
            yield Finding(
                f"{who} has {each} on bucket {name}: whoever takes over this machine can undo "
                "backups",
                False,
                f"take away the role that grants it: {ROLES[CREATE]} and {ROLES[GET]} are enough",
            )
    if not have.intersection(_MUST_NOT):
        yield Finding(f"{who} can't delete or change what is in bucket {name}")


def _place(vault: GcsVault, bucket: storage.Bucket) -> Iterator[Finding]:
    wanted, found = vault.settings.location, str(bucket.location).lower()
    what = f"bucket {bucket.name} is in {found}"
    if wanted is not None and wanted.lower() != found:
        yield Finding(
            f"{what}, not in {wanted}",
            False,
            "correct the configuration, or use a bucket there: a bucket's location never changes",
        )
    else:
        yield Finding(what)


def _keeping(vault: GcsVault, bucket: storage.Bucket) -> Iterator[Finding]:
    settings = vault.settings
    versioned = bool(bucket.versioning_enabled)
    state = "keeps" if versioned else "does not keep"
    what = f"bucket {bucket.name} {state} noncurrent versions"
    if settings.versioning is not None and settings.versioning is not versioned:
        flag = "--versioning" if settings.versioning else "--no-versioning"
        yield Finding(f"{what}, which is not as configured", False, _update(bucket, flag))
    else:
        yield Finding(what)
    period_s = int(bucket.retention_period or 0)
    locked = bool(bucket.retention_policy_locked)
    lock = ", locked" if locked else ", not locked" if period_s else ""
    what = f"bucket {bucket.name} keeps objects for {period_s / _DAY_S:g} days{lock}"
    short = settings.retention_days is not None and period_s < settings.retention_days * _DAY_S
    if short:
        yield Finding(
            f"{what}, not for {settings.retention_days} days",
            False,
            _update(bucket, f"--retention-period={settings.retention_days}d"),
        )
    if settings.retention_locked and not locked:
        yield Finding(
            f"{what}, not locked, which is not as configured"
            if not period_s
            else f"{what}, which is not as configured",
            False,
            _update(bucket, "--lock-retention-period") + " (it can never be taken back)",
        )
    elif not short:
        yield Finding(what)
    if settings.object_retention_days is not None and bucket.object_retention_mode != "Enabled":
        yield Finding(
            f"bucket {bucket.name} allows no retention of single objects",
            False,
            "it is allowed when a bucket is made: --enable-per-object-retention; or leave "
            "object_retention_days out",
        )


def _access(bucket: storage.Bucket) -> Iterator[Finding]:
    configuration: Any = bucket.iam_configuration
    if configuration.uniform_bucket_level_access_enabled:
        yield Finding(f"access to bucket {bucket.name} is uniform")
    else:
        yield Finding(
            f"objects in bucket {bucket.name} may have access lists of their own",
            False,
            _update(bucket, "--uniform-bucket-level-access"),
        )
    if configuration.public_access_prevention == "enforced":
        yield Finding(f"public access to bucket {bucket.name} is prevented")
    else:
        yield Finding(
            f"bucket {bucket.name} could be opened to the public",
            False,
            _update(bucket, "--public-access-prevention"),
        )


def _update(bucket: storage.Bucket, flag: str) -> str:
    return f"gcloud storage buckets update gs://{bucket.name} {flag}"
