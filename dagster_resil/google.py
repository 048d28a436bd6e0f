"""Who we are at Google, and which servers we take for Google's."""

from __future__ import annotations

import ipaddress
import json
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
_KEY_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
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
            f"can't sign in to Google Cloud: {auth_said(error)}",
            hint=signing_in_hint(impersonate) + more,
        ) from None
    return credentials, project


def auth_said(error: GoogleAuthError) -> str:
    """Return what an error in signing in says, in one line: it has Google's answer beside it."""
    words = [str(each).strip() for each in error.args if isinstance(each, str | Exception)]
    said = words[0].splitlines()[0] if words and words[0] else type(error).__name__
    for answer in words[1:]:
        try:
            document = json.loads(answer)
            said += f": {document['error']['message']}"
        except (ValueError, TypeError, KeyError):
            continue
    return said[:400]


def signing_in_hint(impersonate: str | None = None) -> str:
    """Return what to look at when signing in failed.

    :param impersonate: the service account to act as.
    """
    file = os.environ.get(_KEY_FILE_VARIABLE)
    hint = ""
    if impersonate:
        hint = (
            f"acting as {impersonate} takes roles/iam.serviceAccountTokenCreator on it, for the "
            "account that signs in; "
        )
    if file:
        return f"{hint}look at the key file that {_KEY_FILE_VARIABLE} names, {file[:200]}"
    return (
        f"{hint}on your machine: gcloud auth application-default login; on a server, let it run as "
        "a service account"
    )


def _iam_endpoint(account: str) -> str | None:
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    path = f"/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    return local.rstrip("/") + path if local else None
