from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_resil.vault.base import Vault
from tests.localcloud.cloud import Cloud
from tests.vault.kinds import KINDS, new_vault


@pytest.fixture(params=KINDS)
def vault(request: pytest.FixtureRequest, tmp_path: Path, any_cloud: Callable[[], Cloud]) -> Vault:
    """An empty vault, of every kind in turn."""
    return new_vault(request.param, tmp_path, any_cloud)
