"""PostgreSQL backups that have already been restored.

The names below are loaded when they are first used, so that importing the package takes no time
and needs neither Dagster nor Google's libraries.
"""

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, whose import takes longer than all the rest
if TYPE_CHECKING:
    from dagster_resil.backup.settings import BackupSettings
    from dagster_resil.backup.take import take_backup
    from dagster_resil.errors import (
        BackupFailed,
        CannotProve,
        ConfigurationError,
        ResilError,
        RestoreFailed,
        VaultError,
    )
    from dagster_resil.postgres.connection import Endpoint
    from dagster_resil.records.manifest import Manifest
    from dagster_resil.records.receipt import Check, Receipt
    from dagster_resil.records.verdict import Verdict
    from dagster_resil.restore.restore import RestoreReport, RestoreSettings, restore_backup
    from dagster_resil.vault import open_vault
    from dagster_resil.vault.backups import Backups
    from dagster_resil.vault.base import Vault
    from dagster_resil.verify.prove import VerifySettings, verify_backup

__version__ = "0.1.0"

__all__ = [
    "BackupFailed",
    "BackupSettings",
    "Backups",
    "CannotProve",
    "Check",
    "ConfigurationError",
    "Endpoint",
    "Manifest",
    "Receipt",
    "ResilError",
    "RestoreFailed",
    "RestoreReport",
    "RestoreSettings",
    "Vault",
    "VaultError",
    "Verdict",
    "VerifySettings",
    "open_vault",
    "restore_backup",
    "take_backup",
    "verify_backup",
]

_PLACES = {
    "backup.settings": ["BackupSettings"],
    "backup.take": ["take_backup"],
    "errors": [
        "BackupFailed",
        "CannotProve",
        "ConfigurationError",
        "ResilError",
        "RestoreFailed",
        "VaultError",
    ],
    "postgres.connection": ["Endpoint"],
    "records.manifest": ["Manifest"],
    "records.receipt": ["Check", "Receipt"],
    "records.verdict": ["Verdict"],
    "restore.restore": ["RestoreReport", "RestoreSettings", "restore_backup"],
    "vault": ["open_vault"],
    "vault.backups": ["Backups"],
    "vault.base": ["Vault"],
    "verify.prove": ["VerifySettings", "verify_backup"],
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
