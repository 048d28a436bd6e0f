"""The kinds of vaults, by the scheme of their URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from dagster_resil.errors import ConfigurationError
from dagster_resil.logs import redact
from dagster_resil.vault.base import Finding, Vault, is_name
from dagster_resil.vault.local import LocalVault

# What speaks to Cloud Storage is imported when it is needed: that takes half a second.
if TYPE_CHECKING:
    from dagster_resil.vault.gcs_client import ClientSource, GcsSettings

    Settings = GcsSettings | Mapping[str, Any] | None

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


@dataclass(frozen=True)
class Scheme:
    """A kind of vault.

    :param example: a URL, as messages show it.
    :param open: makes the vault at a URL; nothing is read or written yet.
    :param preflight: opens the vault at a URL, and yields what is known of the place that holds
        it, compared with the settings; the flag says whether backups are to be written.
    """

    example: str
    open: Callable[[str, Settings, ClientSource | None], Vault]
    preflight: Callable[[str, bool], Iterator[Finding]]


def open_vault(url: str, *, settings: Settings = None, client: ClientSource | None = None) -> Vault:
    """Return the vault at a URL; nothing is read or written yet.

    :param url: ``file:///path`` or ``gs://bucket/prefix``, percent-encoded where it must be.
    :param settings: for Cloud Storage: all of them, or by name those that replace the
        environment's. By default those of the environment.
    :param client: makes the client of Cloud Storage; by default with Application Default
        Credentials.
    :raises ConfigurationError: it is no such URL, or the settings make no sense.
    """
    return _scheme(url).open(url, settings, client)


def preflight(url: str, *, writes: bool) -> Iterator[Finding]:
    """Yield what is known of the place that holds a vault, compared with its settings.

    :param writes: whether backups are to be written; to restore them takes fewer rights.
    :raises ConfigurationError: the URL is not that of a vault.
    :raises VaultError: the place can't be inspected.
    """
    return _scheme(url).preflight(url, writes)


def _scheme(url: str) -> Scheme:
    # urlsplit would drop control characters and so name another folder.
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise _unusable(url, "has a control character in it")
    name, separator, _ = url.partition(":")
    found = SCHEMES.get(name.lower()) if separator else None
    if found is not None and ("://" in url or name.lower() == "file"):
        return found
    if "://" not in url:
        place = Path(url).expanduser().absolute() if url else Path("/srv/backups")
        raise ConfigurationError(
            f"a vault's address is a URL, not {redact(url)!r}", hint=f"use {place.as_uri()}"
        )
    raise ConfigurationError(
        f"a vault's address can't begin with {name[:20]!r}",
        hint=f"use {' or '.join(each.example for each in SCHEMES.values())}",
    )


# -- folders


def _open_folder(url: str, settings: Settings, client: ClientSource | None) -> Vault:
    return LocalVault(_local_path(url))


def _check_folder(url: str, writes: bool) -> Iterator[Finding]:
    yield from ()  # whether it can be written is tried with every vault


# -- Cloud Storage


def _open_bucket(url: str, settings: Settings, client: ClientSource | None) -> Vault:
    from dagster_resil.vault.gcs import GcsVault
    from dagster_resil.vault.gcs_client import GcsSettings

    bucket, prefix = bucket_and_prefix(url)
    if not isinstance(settings, GcsSettings):
        settings = GcsSettings.from_environment(**(settings or {}))
    return GcsVault(bucket, prefix, settings=settings, client=client)


def _check_bucket(url: str, writes: bool) -> Iterator[Finding]:
    from dagster_resil.vault.gcs import GcsVault
    from dagster_resil.vault.gcs_check import check_bucket
    from dagster_resil.vault.gcs_client import GcsSettings

    vault = GcsVault(*bucket_and_prefix(url), settings=GcsSettings.from_environment())
    return check_bucket(vault, writes=writes)


SCHEMES = {
    "file": Scheme("file:///path", _open_folder, _check_folder),
    "gs": Scheme("gs://bucket/prefix", _open_bucket, _check_bucket),
}


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
