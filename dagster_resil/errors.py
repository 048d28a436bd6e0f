"""The errors that a user can meet.

::

    ResilError                      exit code
    ├── ConfigurationError          2   wrong usage or configuration
    │   ├── UnknownBackup           2
    │   ├── ManifestTooNew          2
    │   ├── SourceChanged           2   another database under a known name
    │   └── TargetRefused           2   a restore that would overwrite something
    ├── CannotProve                 3   no verdict possible, for a reason outside the backup
    │   ├── NoServer                3
    │   └── NoSpace                 3
    ├── BackupFailed                4
    │   ├── SourceUnreachable       4
    │   │   └── PoolerBetween       4   a session there would not be ours alone
    │   ├── PermissionMissing       4
    │   ├── LockTimeout             4   somebody else's lock, or wait for one, is in the way
    │   ├── ProgramMissing          4
    │   └── SnapshotLost            4
    ├── VaultError                  4
    │   ├── VaultUnreachable        4   nothing is known about its contents
    │   ├── ObjectExists            4
    │   ├── ObjectMissing           4
    │   ├── ObjectDamaged           4
    │   │   └── ArrivedDamaged      4   on its way: the vault itself has it otherwise
    │   ├── ManifestDamaged         4
    │   └── ReceiptLost             4   a verdict was found and could not be kept
    ├── CloudSqlError               4
    │   ├── InstanceMissing         4
    │   └── OperationUnfinished     4   it may still be running
    └── RestoreFailed               4

Exit code 1 is the verdict FAIL and nothing else; it belongs to no error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from dagster_resil.records.text import shown

if TYPE_CHECKING:
    from dagster_resil.records.receipt import Receipt


_SETTING = re.compile(r"\bsetting (\w+(?:=\w+)?)")


def name_settings(text: str, names: Mapping[str, str]) -> str:
    """Return a text in which settings have the names that a user types.

    :param text: names settings as Python does, after the word "setting": ``setting timeout_s``.
    :param names: each setting's name for the user: ``{"timeout_s": "--timeout"}``.
    """
    return _SETTING.sub(lambda found: names.get(found[1], found[0]), text)


class ResilError(Exception):
    """Say what happened, to what, and what to do about it.

    :param message: what happened and to what; one sentence, without a secret.
    :param hint: what the reader can do now; empty when nothing helps. It names a setting as the
        functions of this package do, after the word "setting"; the command line and the component
        put their own name in its place (:func:`name_settings`).
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 4

    def __init__(self, message: str, *, hint: str = "") -> None:
        message, self.hint = shown(message), shown(hint)
        super().__init__(message)
        self.message = message.strip()

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, str]:
        """Return the body of ``{"error": …}`` that ``--json`` prints."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ConfigurationError(ResilError):
    """Wrong usage or configuration: nothing was started."""

    code = "configuration"
    exit_code = 2


class UnknownBackup(ConfigurationError):
    """No whole backup of that id, or none at all."""

    code = "unknown_backup"


class ManifestTooNew(ConfigurationError):
    """The manifest was written by a newer release than this one."""

    code = "manifest_too_new"


class SourceChanged(ConfigurationError):
    """The source is not the database that this name stood for so far."""

    code = "source_changed"


class TargetRefused(ConfigurationError):
    """The target of a restore holds something, or is the source itself."""

    code = "target_refused"


class CannotProve(ResilError):
    """No verdict is possible, for a reason outside the backup: INCONCLUSIVE."""

    code = "inconclusive"
    exit_code = 3


class NoServer(CannotProve):
    """No PostgreSQL server of the needed version and abilities on this machine."""

    code = "no_server"


class NoSpace(CannotProve):
    """Not enough room for a scratch server."""

    code = "no_space"


class BackupFailed(ResilError):
    """Taking the backup failed; nothing of it is listed."""

    code = "backup_failed"


class SourceUnreachable(BackupFailed):
    """The database could not be reached or refused the login."""

    code = "source_unreachable"


class PoolerBetween(SourceUnreachable):
    """The address is that of a connection pooler that lends a session to others in between."""

    code = "pooler_between"


class PermissionMissing(BackupFailed):
    """The login may not read something that belongs in the backup."""

    code = "permission_missing"


class LockTimeout(BackupFailed):
    """A lock that reading needs was not to be had in time.

    :param names_blockers: whether the message says who is in the way.
    """

    code = "lock_timeout"

    def __init__(self, message: str, *, hint: str = "", names_blockers: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.names_blockers = names_blockers


class ProgramMissing(BackupFailed):
    """PostgreSQL's client programs are missing or too old for the server."""

    code = "program_missing"


class SnapshotLost(BackupFailed):
    """The session that held the snapshot ended before the backup was whole."""

    code = "snapshot_lost"


class VaultError(ResilError):
    """The vault could not be read or written.

    :param transient: whether the same may work when it is tried again in a moment.
    """

    code = "vault"

    def __init__(self, message: str, *, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class NoVault(VaultError):
    """There is no vault at that address yet."""

    code = "no_vault"


class VaultUnreachable(VaultError):
    """The vault can't be reached, or a right is missing: nothing is known about its contents."""

    code = "vault_unreachable"


class ObjectExists(VaultError):
    """An object of that name is there already; nothing is ever overwritten."""

    code = "object_exists"


class ObjectMissing(VaultError):
    """No object of that name."""

    code = "object_missing"


class ObjectDamaged(VaultError):
    """An object's size or checksum is not what the manifest says."""

    code = "object_damaged"


class ArrivedDamaged(ObjectDamaged):
    """What arrived of an object is not what the vault says it has.

    :param size: the size in bytes that the vault tells, when it is asked for it again.
    :param crc32c: the checksum that it tells, in base64.
    """

    code = "arrived_damaged"

    def __init__(self, message: str, *, hint: str = "", size: int, crc32c: str) -> None:
        super().__init__(message, hint=hint)
        self.transient = True
        self.size = size
        self.crc32c = crc32c


class ManifestDamaged(VaultError):
    """The manifest is not valid, so the backup cannot be trusted."""

    code = "manifest_damaged"


class ReceiptLost(VaultError):
    """A backup was verified, and the receipt can't be written."""

    code = "receipt_lost"

    def __init__(self, receipt: Receipt, error: VaultError) -> None:
        super().__init__(
            f"the verdict on {receipt.backup_id}, {receipt.verdict}, is not kept: {error.message}",
            hint=error.hint,
            transient=error.transient,
        )
        self.receipt = receipt


class CloudSqlError(ResilError):
    """Cloud SQL refused something, or an operation of it failed.

    :param reason: Google's own word for it, for example "notAuthorized"; the set is open.
    """

    code = "cloud_sql"

    def __init__(self, message: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class InstanceMissing(CloudSqlError):
    """There is no instance of that name."""

    code = "instance_missing"


class OperationUnfinished(CloudSqlError):
    """An operation has not ended in time, or can't be watched: it may still be running."""

    code = "operation_unfinished"


class RestoreFailed(ResilError):
    """Restoring into the target failed."""

    code = "restore_failed"
