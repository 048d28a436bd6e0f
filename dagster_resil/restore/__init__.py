"""Using backups: guarded restores, compared with the source again."""

from dagster_resil.restore.restore import (
    KeptScratch,
    RestoreReport,
    RestoreSettings,
    restore_backup,
    restore_to_scratch,
)

__all__ = [
    "KeptScratch",
    "RestoreReport",
    "RestoreSettings",
    "restore_backup",
    "restore_to_scratch",
]
