"""Taking, proving and restoring as most tests do it: even small tables in parts, and streamed.

By default only large tables are. What a test gives as ``settings`` it makes with :func:`in_parts`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from dagster_resil.backup import take
from dagster_resil.backup.settings import BackupSettings
from dagster_resil.restore import RestoreSettings
from dagster_resil.restore import restore as restoring
from dagster_resil.verify import prove
from dagster_resil.verify.prove import VerifySettings

IN_PARTS = BackupSettings(small_table_bytes=0, part_bytes=1 << 16)
STREAMED = VerifySettings(streamed_bytes=0)


def in_parts(**settings: Any) -> BackupSettings:
    """Return settings for a backup of which every table is read in parts."""
    return replace(IN_PARTS, **settings)


take_backup = partial(take.take_backup, settings=IN_PARTS)
verify_backup = partial(prove.verify_backup, settings=STREAMED)
restore_backup = partial(restoring.restore_backup, settings=RestoreSettings(streamed_bytes=0))
