"""Running ``resil`` as a child, for what only its exit code and its words show."""

from __future__ import annotations

import os
import subprocess
import sys


def resil(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dagster_resil.cli", *words],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
