"""Where a database and a vault are, by the names of environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from dagster_resil import logs
from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.vault import Vault, open_vault


def endpoint_from(variable: str, password_variable: str | None = None) -> Endpoint:
    """Return the database whose URL an environment variable holds.

    :raises ConfigurationError: the variable is not set, or holds no such URL.
    """
    endpoint = Endpoint.parse(_value(variable))
    if password_variable:
        endpoint = replace(endpoint, password=_value(password_variable))
    if endpoint.password:
        logs.register_secret(endpoint.password)
    return endpoint


def _value(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ConfigurationError(
            f"the environment variable {variable} is not set where Dagster runs this",
            hint="set it for the processes that run jobs (in the laptop's set-up, make dev does)",
        )
    return value


@dataclass(frozen=True)
class VaultAddress:
    """A vault by its URL, or by the environment variable that holds the URL."""

    url: str | None
    url_env: str | None

    def open(self) -> Vault:
        """Return the vault.

        :raises ConfigurationError: the variable is not set, or the URL is none.
        """
        return open_vault(self.url or _value(self.url_env or ""))
