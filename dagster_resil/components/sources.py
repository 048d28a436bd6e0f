"""Where a database and a vault are, by the names of environment variables."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

from dagster_resil import logs
from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.vault import Vault, open_vault


def endpoint_from(variable: str, password_variable: str | None = None) -> Endpoint:
    """Return the database whose URL an environment variable holds.

    :raises ConfigurationError: the variable is not set, or holds no such URL.
    """
    endpoint = replace(
        Endpoint.parse(value_of(variable)),
        login_hint="check the user and the password in the variable "
        f"{password_variable or variable}",
    )
    if password_variable:
        endpoint = replace(endpoint, password=value_of(password_variable))
    if endpoint.password:
        logs.register_secret(endpoint.password)
    return endpoint


def value_of(variable: str) -> str:
    """Return what an environment variable holds.

    :raises ConfigurationError: it is not set.
    """
    value = os.environ.get(variable)
    if not value:
        # In small letters it may be a password that was typed in place of a name.
        name = variable if variable.isupper() else "that the component names (not repeated here)"
        raise ConfigurationError(
            f"the environment variable {name} is not set where Dagster runs this",
            hint="set it where the processes that run jobs are started (for make dev: before it)",
        )
    return value


_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def variable_name(value: str | None) -> str | None:
    """Return the name of an environment variable.

    :raises ValueError: it can't be one.
    """
    if value is not None and not _VARIABLE.match(value):
        raise ValueError(
            "this takes the NAME of an environment variable, not its value (which is not "
            "repeated here: it may be a secret)"
        )
    return value


@dataclass(frozen=True)
class VaultAddress:
    """A vault by its URL, or by the environment variable that holds the URL.

    :param gcs_resource: the key of the project's ``dagster_gcp.GCSResource``, whose client a
        vault in Cloud Storage uses; None for Application Default Credentials.
    :param cloud_storage: settings that go before the environment's.
    """

    url: str | None
    url_env: str | None
    gcs_resource: str | None = None
    cloud_storage: dict[str, Any] = field(default_factory=dict)

    @property
    def resource_keys(self) -> set[str]:
        """Return the keys of the resources that :meth:`open` needs."""
        return {self.gcs_resource} if self.gcs_resource else set()

    def open(self, resources: object = None) -> Vault:
        """Return the vault.

        :param resources: a run's resources, where ``resource_keys`` names any.
        :raises ConfigurationError: the variable is not set, or the URL is none.
        """
        url = self.url or value_of(self.url_env or "")
        if self.gcs_resource is None:
            return open_vault(url, settings=self.cloud_storage)
        key = self.gcs_resource
        # Dagster has the resource's own client stand for it.
        return open_vault(url, settings=self.cloud_storage, client=lambda: getattr(resources, key))
