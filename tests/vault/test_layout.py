"""What is called what in a vault."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dagster_resil.backup.settings import BackupSettings, check_settings
from dagster_resil.components import ProtectedDatabase
from dagster_resil.errors import ConfigurationError, UnknownBackup
from dagster_resil.vault.layout import is_database_name, name_of, new_backup_id

BAD = ["", "Shop", "1shop", "_shop", "shop\n", "shop-eu", "shop/eu", "../shop", "shöp", " shop"]


@pytest.mark.parametrize("name", BAD)
def test_one_rule_says_what_a_database_may_be_called(name: str) -> None:
    """The vault, a backup's settings and the component refuse the same names."""
    assert not is_database_name(name)
    with pytest.raises(ConfigurationError, match="can't be a protected database's name"):
        new_backup_id(name, datetime.now(UTC))
    with pytest.raises(ConfigurationError, match="can't be a protected database's name"):
        check_settings(name, BackupSettings(part_bytes=1 << 20))
    with pytest.raises(ValueError, match="small letters, digits and underscores"):
        ProtectedDatabase._a_name(name)


def test_an_id_begins_with_its_database() -> None:
    assert name_of(new_backup_id("shop_2", datetime.now(UTC))) == "shop_2"
    for text in ("shop", "shop-20260101T000000Z-0a1b2c\n", "shop-20260101-0a1b2c"):
        with pytest.raises(UnknownBackup, match="is no backup's id"):
            name_of(text)
