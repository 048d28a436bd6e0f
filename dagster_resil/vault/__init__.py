"""Where backups are kept: objects that are written once, the manifest last."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from dagster_resil.errors import ConfigurationError
from dagster_resil.logs import redact
from dagster_resil.vault.base import Vault, is_name
from dagster_resil.vault.local import LocalVault

if TYPE_CHECKING:
    from dagster_resil.vault.gcs_client import ClientSource, GcsSettings

__all__ = ["Vault", "bucket_and_prefix", "open_vault"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


def open_vault(
    url: str, *, settings: GcsSettings | None = None, client: ClientSource | None = None
) -> Vault:
    """Return the vault at a URL; nothing is read or written yet.

    :param url: ``file:///path`` or ``gs://bucket/prefix``, percent-encoded where it must be.
    :param settings: for Cloud Storage; by default those of the environment.
    :param client: makes the client of Cloud Storage; by default with Application Default
        Credentials.
    :raises ConfigurationError: it is no such URL, or the settings make no sense.
    """
    # urlsplit would drop control characters and so name another folder.
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise _unusable(url, "has a control character in it")
    scheme, separator, _ = url.partition(":")
    if scheme.lower() == "file" and separator:
        return LocalVault(_local_path(url))
    if "://" not in url:
        place = Path(url).expanduser().absolute() if url else Path("/srv/backups")
        raise ConfigurationError(
            f"a vault's address is a URL, not {redact(url)!r}", hint=f"use {place.as_uri()}"
        )
    if scheme.lower() == "gs":
        # Imported here: half a second that a local vault does not need.
        from dagster_resil.vault.gcs import GcsVault
        from dagster_resil.vault.gcs_client import GcsSettings

        bucket, prefix = bucket_and_prefix(url)
        return GcsVault(
            bucket, prefix, settings=settings or GcsSettings.from_environment(), client=client
        )
    raise ConfigurationError(
        f"a vault's address can't begin with {scheme[:20]!r}",
        hint="the schemes known are file:///path and gs://bucket/prefix",
    )


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Return what a ``gs://`` URL names.

    :raises ConfigurationError: it names nothing that can be.
    """
    hint = "use gs://bucket/prefix"
    parts = urlsplit("gs:" + url.partition(":")[2])
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise _unusable(url, "has a ? or # in it", "write %3F for ? and %23 for #")
    if not _BUCKET.fullmatch(parts.netloc):
        if _BUCKET.fullmatch(parts.netloc.lower()):
            raise _unusable(
                url,
                "has capitals in its bucket's name, which can't be",
                f"did you mean gs://{parts.netloc.lower()}{parts.path}?",
            )
        if re.fullmatch(r"[A-Za-z0-9._-]+", parts.netloc):
            raise _unusable(
                url,
                "names what can't be a bucket: small letters, digits, dots, _ and - are allowed, "
                "3 or more, a letter or digit at each end",
                hint,
            )
        raise _unusable(url, "names no bucket", hint)
    prefix = unquote(parts.path).strip("/")
    if prefix and not is_name(prefix):
        raise _unusable(url, "has a prefix that no object's name can begin with", hint)
    return parts.netloc, prefix


def _local_path(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unusable(url, "is no URL") from None
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise _unusable(url, "has a ? or # in it", "write %3F for ? and %23 for #")
    path = os.fsdecode(unquote_to_bytes(parts.path))
    if parts.netloc not in ("", "localhost") or not path.startswith("/"):
        # A relative path was meant, most likely; a login before a host is not repeated.
        beginning = parts.netloc.rpartition("@")[2].removeprefix("localhost")
        meant = Path(beginning + path).absolute()
        raise _unusable(
            url,
            "names a host or a relative path",
            f"use three slashes and an absolute path: {meant.as_uri()}",
        )
    if "\0" in path or not path.strip("/"):
        raise _unusable(url, "names no folder")
    return Path(path)


def _unusable(url: str, why: str, hint: str = "use file:///srv/backups") -> ConfigurationError:
    return ConfigurationError(f"the vault's address {redact(url)!r} {why}", hint=hint)
