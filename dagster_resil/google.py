"""Who we are at Google, and which servers we take for Google's."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import google.auth
from google.auth import impersonated_credentials
from google.auth.exceptions import GoogleAuthError

from dagster_resil.errors import ConfigurationError

LOCALCLOUD_VARIABLE = "RESIL_LOCALCLOUD"
"""Set by our local cloud to its own address: the one server but Google's that is believed."""
CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sign_in(
    scopes: Sequence[str], *, impersonate: str | None = None, more: str = ""
) -> tuple[Any, str | None]:
    """Return Application Default Credentials and their project.

    :param scopes: what the credentials are for.
    :param impersonate: the service account to act as.
    :param more: said at the end of the hint.
    :raises ConfigurationError: there are none.
    """
    try:
        credentials, project = google.auth.default(scopes=[*scopes, CLOUD_SCOPE])
        if impersonate:
            credentials = impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
                source_credentials=credentials,
                target_principal=impersonate,
                target_scopes=list(scopes),
                iam_endpoint_override=_iam_endpoint(impersonate),
            )
    except GoogleAuthError as error:
        raise ConfigurationError(
            f"can't sign in to Google Cloud: {error}".splitlines()[0],
            hint="on your machine: gcloud auth application-default login; on a server, let it run "
            f"as a service account{more}",
        ) from None
    return credentials, project


def _iam_endpoint(account: str) -> str | None:
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    path = f"/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    return local + path if local else None
