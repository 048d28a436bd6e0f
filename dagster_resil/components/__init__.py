"""The Dagster face: components that a project declares in its ``defs.yaml``."""

from dagster_resil.components.failure_alerts import FailureAlerts
from dagster_resil.components.protected_database import ProtectedDatabase

__all__ = ["FailureAlerts", "ProtectedDatabase"]
