"""How PostgreSQL's programs and psycopg reach the databases of an instance."""

from __future__ import annotations

import os
from pathlib import Path

from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.instance import Instance
from dagster_resil.errors import CloudSqlError, ConfigurationError
from dagster_resil.logs import register_secret
from dagster_resil.postgres.connection import Endpoint

_ACCOUNT_SUFFIX = ".gserviceaccount.com"


def endpoint_of(
    instance: Instance,
    *,
    database: str,
    user: str,
    password: str | None = None,
    iam: bool = False,
    server_ca: Path | None = None,
    login_hint: str = "check the user and the password",
    cloud: CloudSql,
) -> Endpoint:
    """Return the address of an instance's database.

    At Google the connection is encrypted and the server's certificate is verified, with its host's
    name where the certificate has one. The local cloud's servers are on this machine: plain TCP.

    :param user: the database's user; for IAM database authentication a service account's or a
        person's e-mail address.
    :param password: kept out of argv, logs and messages; by default libpq finds it in PGPASSWORD
        or in a passfile.
    :param iam: log in with an access token of ``cloud``'s identity for a password. It lasts an hour
        at most: make a new endpoint for sessions that begin later.
    :param server_ca: a file to make, for whoever owns it alone, with the certificates to verify the
        server by. It has to last for as long as sessions begin; the caller removes it. Not used
        with a local cloud.
    :param login_hint: what to do where a password is refused.
    :raises ConfigurationError: no file for certificates, or two ways to log in.
    :raises CloudSqlError: the instance can't be reached at all, or there is no token.
    """
    if iam and password is not None:
        raise ConfigurationError(
            "a database's login has a password or IAM database authentication, not both",
            hint="leave the password out",
        )
    if not instance.address:
        raise CloudSqlError(
            f"instance {instance.name} in project {instance.project} has no address (it is "
            f"{instance.state})",
            hint="give it a private address: gcloud sql instances patch … --network=…",
        )
    if iam:
        user = user.removesuffix(_ACCOUNT_SUFFIX)
        password = cloud.login_token()
        login_hint = (
            f"is {user} a user of the instance (gcloud sql users list), with "
            "roles/cloudsql.instanceUser, and cloudsql.iam_authentication on?"
        )
        if cloud.is_local:
            login_hint = "the local cloud has no IAM database authentication: use a password"
    if password is not None:
        register_secret(password)
    parameters = {
        "host": instance.address,
        "port": str(instance.port),
        "dbname": database,
        "user": user,
    }
    if not cloud.is_local:
        parameters |= _verified(instance, server_ca, cloud)
    return Endpoint(parameters, password, server=f"instance {instance.name}", login_hint=login_hint)


def _verified(instance: Instance, server_ca: Path | None, cloud: CloudSql) -> dict[str, str]:
    if server_ca is None:
        raise ConfigurationError(
            f"the server of instance {instance.name} can't be verified without a file for its "
            "certificate authority",
            hint="name one in a private folder",
        )
    found = cloud.certificates(instance.name, project=instance.project)
    try:
        descriptor = os.open(server_ca, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"can't write the certificate authority of instance {instance.name}: {error}",
            hint="name a file that is not there yet, in a private folder",
        ) from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(found.pem)
    parameters = {"sslrootcert": str(server_ca), "sslmode": "verify-ca"}
    if found.host is not None:
        parameters["sslmode"] = "verify-full"
        if instance.address != found.host:
            # Where to connect is known; the name is what is verified.
            parameters |= {"host": found.host, "hostaddr": instance.address}
    return parameters
