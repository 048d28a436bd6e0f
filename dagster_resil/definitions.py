"""The laptop's code location: everything that ``dagster_resil/defs`` declares."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load the components below ``defs/``."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    # The steps of a backup follow each other: a process for each would cost two seconds a step.
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
