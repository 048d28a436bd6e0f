"""The variables that lead Google's libraries and ``gcloud`` to a local cloud."""

from __future__ import annotations

import shlex
from pathlib import Path

from dagster_resil.localcloud.identities import PROJECT, ROLES


def environment_of(url: str, keys: Path, account: str) -> dict[str, str]:
    """Return the variables that sign in at a local cloud as one of its accounts.

    Not STORAGE_EMULATOR_HOST, with which Google's libraries would sign in as nobody.

    :param keys: the folder of its accounts' key files.
    """
    key = str(keys.absolute() / f"{account}.json")
    return {
        "RESIL_LOCALCLOUD": url,
        "API_ENDPOINT_OVERRIDE": url,
        "GOOGLE_APPLICATION_CREDENTIALS": key,
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        # Nothing on a laptop answers for Google's own machines.
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_SQL": f"{url}/",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/",
        "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": key,
        "CLOUDSDK_AUTH_TOKEN_HOST": f"{url}/token",
        "CLOUDSDK_CORE_PROJECT": PROJECT,
    }


def environment_file(keys: Path, account: str) -> Path:
    """Return the file that a shell sources to sign in as an account."""
    return keys.absolute() / f"{account}.env"


def write_environment_files(url: str, keys: Path) -> None:
    """Write a file for each account beside its key: the address may be another after a restart."""
    for account in ROLES:
        lines = [
            f"export {name}={shlex.quote(value)}\n"
            for name, value in environment_of(url, keys, account).items()
        ]
        file = environment_file(keys, account)
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text("".join(lines))
