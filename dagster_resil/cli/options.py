"""Options and arguments that commands share."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import click

from dagster_resil import logs
from dagster_resil.errors import ConfigurationError
from dagster_resil.postgres.connection import Endpoint

SETTINGS = {
    "accept_new_source=True": "--accept-new-source",
    "attempts": "--attempts",
    "compress_level": "--compress-level",
    "jobs": "--jobs",
    "lock_timeout_s": "--lock-timeout",
    "name": "--name",
    "owners=False": "--no-owners",
    "part_bytes": "--part-size",
    "replace": "--replace",
    "roles=False": "--no-roles",
    "timeout_s": "--timeout",
}
"""What the command line calls the settings that hints name."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on stdout, logs on stderr."
    )(command)


def vault_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--vault``, which RESIL_VAULT sets too."""
    return click.option(
        "--vault",
        required=required,
        envvar="RESIL_VAULT",
        show_envvar=True,
        metavar="URL",
        help="Where backups are: file:///path or gs://bucket/prefix.",
    )


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument URL and ``--url-env``: two ways to name the database."""
    command = click.option(
        "--url-env",
        metavar="VARIABLE",
        help="Read the URL from this environment variable, so that no password is typed.",
    )(command)
    return click.argument("url", required=False)(command)


name_option = click.option(
    "--name",
    metavar="NAME",
    help="The name that this tool uses for the database: small letters, digits, underscores.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Connections that work at a time.",
)


_SMALLEST_PART_BYTES = 1 << 20


class _Bytes(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes with a unit: 64MB, 64MiB, 67108864."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {
        "": 1,
        **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G"))},
        **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G"), 1)},
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        units = {unit.lower(): factor for unit, factor in self._UNITS.items()}
        found = re.fullmatch(r"([0-9]+) ?([a-z]*)", str(value).strip().lower())
        if not found or found[2] not in units:
            self.fail(f"{value!r} is no size; 64MB is one", param, ctx)
        size = int(found[1]) * units[found[2]]
        if size < _SMALLEST_PART_BYTES:
            self.fail(f"{value!r} is too small: 1MiB is the smallest part", param, ctx)
        return size


compare_option = click.option(
    "--compare",
    type=click.Choice(["counts", "contents", "text"]),
    default="contents",
    show_default=True,
    help="What a restore has to equal: the number of rows only; their contents; or their contents "
    "by the text of every value, which finds the same changes without relying on the hash function "
    "of any type, at several times the cost.",
)
part_size_option = click.option(
    "--part-size",
    type=_Bytes(),
    default="64MiB",
    show_default=True,
    metavar="SIZE",
    help="How much of a large table goes into one object; memory holds one part a job.",
)
work_dir_option = click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="RESIL_WORK_DIR",
    show_envvar=True,
    help="A folder with room for archives and scratch servers.  [default: the temporary folder]",
)


def endpoint_from(url: str | None, variable: str | None, *, target: bool = False) -> Endpoint:
    """Return the database that the user names: the source, or the target of a restore."""
    option = "--to-env" if target else "--url-env"
    if (url is None) == (variable is None):
        raise ConfigurationError(
            f"give the database{' to restore into' if target else ''} by its URL, or by the "
            "environment variable that holds it",
            hint=f"{'--to ' if target else ''}postgresql://user@host/name, or {option} VARIABLE",
        )
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ConfigurationError(
                f"the environment variable {variable} is not set",
                hint=f"export {variable}=postgresql://user:password@host/name",
            )
        url = value
    endpoint = Endpoint.parse(url or "")
    if endpoint.password:
        logs.register_secret(endpoint.password)
    if endpoint.password_in_url and variable is None:
        logging.getLogger(__name__).warning(
            "a password typed in a URL stays in the shell's history and shows in the list of "
            "processes; PGPASSWORD, a passfile or %s VARIABLE do not",
            option,
        )
    return endpoint


def name_from(endpoint: Endpoint) -> str:
    """Make the name that this tool uses out of the database's own."""
    raw = endpoint.parameters.get("dbname") or endpoint.parameters.get("user") or "database"
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in raw.lower()).strip("_")
    return kept if kept[:1].isalpha() else f"db_{kept}".rstrip("_")
