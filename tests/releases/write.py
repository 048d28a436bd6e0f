"""Write a vault as test data for later releases, by the code as it is: ``write.py VERSION``.

It has two backups of a small PostgreSQL 15 database with something of everything (``shop.sql``):
the older one proved, the newer one not.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def write(folder: Path) -> None:
    """Write the vault into a folder that is not there yet."""
    from dagster_resil import open_vault, take_backup, verify_backup
    from tests.conftest import owner_session, run_server, stock

    vault = open_vault(folder.as_uri())
    with run_server(stock(15)) as source:
        database = source.create("shop")
        with owner_session(database) as session:
            session.execute((HERE / "shop.sql").read_bytes())
        verify_backup(vault, take_backup(database, vault, name="shop"))
        source.execute(
            database, "INSERT INTO item (name) SELECT 'later' FROM generate_series(1, 10)"
        )
        take_backup(database, vault, name="shop")
    shutil.rmtree(folder / ".incoming", ignore_errors=True)


if __name__ == "__main__":
    os.environ["TMPDIR"] = "/tmp"  # manifests name the socket's folder
    write(HERE / "vaults" / sys.argv[1])
