"""The laptop's code location: everything that ``dagster_resil/defs`` declares.

It loads from a checkout and from an installed package, with or without the environment variables
that its components name: ``dagster dev -m dagster_resil.definitions``.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg

import dagster_resil.defs


@dg.definitions
def defs() -> dg.Definitions:
    """Load the components below ``defs/``."""
    # load_from_defs_folder wants a pyproject.toml, which an installed package does not have.
    tree = dg.ComponentTree.from_module(
        defs_module=dagster_resil.defs, project_root=Path(__file__).parent.parent
    )
    with warnings.catch_warnings():
        # Dagster's own loader calls what Dagster has in preview; load_from_defs_folder, too,
        # keeps that to itself.
        for category in (dg.PreviewWarning, dg.BetaWarning):
            warnings.simplefilter("ignore", category)
        loaded = tree.build_defs()
    # The steps of a backup follow each other: a process for each would cost two seconds a step.
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))
