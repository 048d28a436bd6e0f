"""The databases of the demo and the tests: a realistic one and a hostile one."""

from __future__ import annotations

from importlib import resources
from typing import Literal

from psycopg import sql

from dagster_resil.errors import ConfigurationError, ResilError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import Programs
from dagster_resil.process import ProcessTimeout, run

LOAD_TIMEOUT_S = 300
"""A load takes seconds; a machine under full load may need many times that."""


class DemoFailed(ResilError):
    """A demo database could not be made."""

    code = "demo_failed"


def load(
    endpoint: Endpoint,
    programs: Programs,
    which: Literal["shop", "hostile"],
    *,
    scale: float = 1.0,
) -> None:
    """Fill an empty database with rows that are the same every time.

    :param endpoint: a superuser's way to the database.
    :param programs: where psql is; of the server's major version or later.
    :param scale: multiplies the shop's numbers of rows; 1 is about 100 MB on disk. The hostile
        database is small and has one size only.
    :raises ConfigurationError: ``scale`` is not above 0.
    :raises DemoFailed: psql failed; its words are in the message.
    """
    if not 0 < scale <= 1000:
        raise ConfigurationError(
            f"a scale of {scale:g} makes no database", hint="1 is about 100 MB, 0.01 about 1 MB"
        )
    packaged = resources.files(__package__) / f"{which}.sql"
    with resources.as_file(packaged) as script:
        try:
            loaded = run(
                [
                    programs.path("psql"),
                    *endpoint.child_arguments(),
                    "--no-psqlrc",
                    "--quiet",
                    "--set=ON_ERROR_STOP=1",
                    f"--set=scale={scale:f}",
                    f"--file={script}",
                ],
                env=endpoint.child_environment(),
                timeout_s=LOAD_TIMEOUT_S,
            )
        except ProcessTimeout as error:
            raise DemoFailed(f"can't fill {endpoint.describe()}: {error}") from None
    if not loaded.ok:
        raise DemoFailed(
            f"can't fill {endpoint.describe()} with the {which} database: {loaded.complaint}",
            hint="it has to be empty and in UTF-8, and the login a superuser",
        )


def create_database(endpoint_of_maintenance_db: Endpoint, name: str) -> None:
    """Create an empty UTF-8 database.

    :param endpoint_of_maintenance_db: the way to any other database of the server.
    :raises psycopg.Error: the server refuses, for example since it is there already.
    """
    # template0: what somebody put into template1 does not belong in it.
    command = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
    with endpoint_of_maintenance_db.connect(autocommit=True) as connection:
        connection.execute(command.format(sql.Identifier(name)))
