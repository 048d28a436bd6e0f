"""What is called what in a vault: names of databases, ids of backups, paths of objects."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from dagster_resil.errors import ConfigurationError, UnknownBackup
from dagster_resil.records.base import BACKUP_ID_PATTERN, NAME_PATTERN


def new_backup_id(name: str, moment: datetime) -> str:
    """Return an id that no other attempt has: ``<name>-<YYYYMMDDTHHMMSSZ>-<6 hex>``.

    :raises ConfigurationError: the name can't be a protected database's.
    """
    check_database_name(name)
    return f"{id_beginning(name, moment)}-{secrets.token_hex(3)}"


def id_beginning(name: str, moment: datetime) -> str:
    """Return the beginning of the ids of backups that show a moment: ids sort by it."""
    return f"{name}-{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def folder(backup_id: str) -> str:
    """Return the beginning of the names of a backup's objects; it ends in a slash."""
    return f"{name_of(backup_id)}/backups/{backup_id}/"


def manifest_name(backup_id: str) -> str:
    """Return the name of a backup's manifest."""
    return f"{name_of(backup_id)}/manifests/{backup_id}.json"


def receipts_folder(backup_id: str) -> str:
    """Return the beginning of the names of a backup's receipts; it ends in a slash."""
    return f"{name_of(backup_id)}/receipts/{backup_id}/"


def is_backup_id(text: str) -> bool:
    """Return whether text is the id of a backup."""
    # fullmatch: "$" would let a line feed through.
    return re.fullmatch(BACKUP_ID_PATTERN.strip("^$"), text) is not None


def is_database_name(text: str) -> bool:
    """Return whether text can be a protected database's name: the one rule for it."""
    return re.fullmatch(NAME_PATTERN.strip("^$"), text) is not None


def name_of(backup_id: str) -> str:
    """Return the protected database's name in a backup's id.

    :raises UnknownBackup: it is no such id.
    """
    if not is_backup_id(backup_id):
        raise UnknownBackup(
            f"{backup_id!r} is no backup's id",
            hint="ids look like shop-20260101T000000Z-0a1b2c; list them with: resil list",
        )
    return backup_id.split("-", 1)[0]


def check_database_name(name: str) -> None:
    """Refuse what can't be a protected database's name.

    :raises ConfigurationError: it can't.
    """
    if not is_database_name(name):
        raise ConfigurationError(
            f"{name!r} can't be a protected database's name",
            hint="use small letters, digits and underscores, a letter first",
        )
