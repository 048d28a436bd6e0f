"""Where backups are kept: objects that are written once, the manifest last."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from dagster_resil.errors import ConfigurationError
from dagster_resil.vault.base import Vault
from dagster_resil.vault.local import LocalVault

__all__ = ["Vault", "open_vault"]


def open_vault(url: str) -> Vault:
    """Return the vault at a URL; nothing is read or written yet.

    :param url: ``file:///path``.
    :raises ConfigurationError: it is no such URL.
    """
    if "://" not in url:
        raise ConfigurationError(
            f"a vault's address is a URL, not {url!r}",
            hint=f"use {Path(url or '.').absolute().as_uri()}",
        )
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigurationError(
                f"{url!r} names a host or a relative path",
                hint="use three slashes and an absolute path: file:///srv/backups",
            )
        return LocalVault(Path(unquote(parts.path)))
    if parts.scheme == "gs":
        raise ConfigurationError(
            "vaults in Cloud Storage are not in this release", hint="use file:///path"
        )
    raise ConfigurationError(
        f"a vault's address can't begin with {parts.scheme[:20]!r}", hint="use file:///path"
    )
