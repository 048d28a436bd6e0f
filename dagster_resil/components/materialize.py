"""Materialize the open partition of a protected database: ``python -m … NAME``.

What the UI's Materialize button does, for a script: prints one JSON object and exits with 0 when
the run succeeded. What the checks found is in the backup's receipt.
"""

from __future__ import annotations

import json
import logging
import sys

import dagster as dg

from dagster_resil import logs
from dagster_resil.components.partitions import open_key
from dagster_resil.definitions import defs


def materialize(name: str, instance: dg.DagsterInstance) -> dict[str, str | bool]:
    """Run ``<name>_backup`` for the window that is open; return its run, partition and backup."""
    job = defs().resolve_job_def(f"{name}_backup")
    partitions = job.partitions_def
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise TypeError(f"job {name}_backup has no time partitions")
    key = open_key(partitions)
    result = job.execute_in_process(instance=instance, partition_key=key, raise_on_error=False)
    backup_id = ""
    for event in result.get_asset_materialization_events():
        backup_id = str(event.materialization.metadata["backup_id"].value)
    return {
        "run_id": result.run_id,
        "partition": key,
        "backup_id": backup_id,
        "success": result.success,
    }


def main() -> None:
    """Read the name from the command line."""
    logs.configure(logging.WARNING)
    with dg.DagsterInstance.get() as instance:
        document = materialize(sys.argv[1], instance)
    sys.stdout.write(json.dumps(document) + "\n")
    sys.exit(0 if document["success"] else 4)


if __name__ == "__main__":
    main()
