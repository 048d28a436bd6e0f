"""Materialize a partition of a protected database: ``python -m … NAME [PARTITION | drill]``.

What the UI's Materialize button does, for a script: by default with the partition that is open, or,
with "drill", what the drill's does. Prints one JSON object and exits with 0 when the run succeeded.
What the checks found is in the backup's receipt.
"""

from __future__ import annotations

import json
import logging
import sys

import dagster as dg

from dagster_resil import logs
from dagster_resil.components.partitions import open_key
from dagster_resil.definitions import defs


def materialize(
    name: str, instance: dg.DagsterInstance, key: str | None = None
) -> dict[str, str | bool]:
    """Run ``<name>_backup``; return its run, partition and backup.

    :param key: the partition; by default the one that is open.
    """
    job = defs().resolve_job_def(f"{name}_backup")
    partitions = job.partitions_def
    if not isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        raise TypeError(f"job {name}_backup has no time partitions")
    key = key or open_key(partitions)
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


def drill(name: str, instance: dg.DagsterInstance) -> dict[str, str | bool]:
    """Run ``<name>_drill``; return its run, and what its check found."""
    job = defs().resolve_job_def(f"{name}_drill")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    found = result.get_asset_check_evaluations()
    return {
        "run_id": result.run_id,
        "success": result.success,
        "verdict": str(found[0].metadata["verdict"].value) if found else "",
        "summary": str(found[0].description) if found else "",
    }


def main() -> None:
    """Read the name, and what to run, from the command line."""
    logs.configure(logging.WARNING)
    name, what = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else None)
    with dg.DagsterInstance.get() as instance:
        document = drill(name, instance) if what == "drill" else materialize(name, instance, what)
    sys.stdout.write(json.dumps(document) + "\n")
    sys.exit(0 if document["success"] else 4)


if __name__ == "__main__":
    main()
