"""Where backups are kept: objects that are written once, the manifest last."""

from dagster_resil.vault.base import Vault
from dagster_resil.vault.schemes import bucket_and_prefix, open_vault

__all__ = ["Vault", "bucket_and_prefix", "open_vault"]
