"""The checks of a backup: one restore feeds them all, one row each in the UI."""

import warnings
from collections.abc import Iterator

import dagster as dg

from dagster_resil.components.metadata import describe_check
from dagster_resil.components.partitions import partition_of
from dagster_resil.components.running import explained, progress_into
from dagster_resil.components.sources import VaultAddress
from dagster_resil.errors import ReceiptLost, UnknownBackup
from dagster_resil.records.manifest import Manifest, Partition
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify import checks
from dagster_resil.verify.prove import VerifySettings, verify_backup


def severity(verdict: Verdict) -> dg.AssetCheckSeverity:
    """Return how bad a verdict is: a FAIL is an error, INCONCLUSIVE a warning."""
    if verdict is Verdict.INCONCLUSIVE:
        return dg.AssetCheckSeverity.WARN
    return dg.AssetCheckSeverity.ERROR


def build_check_specs(
    asset: dg.AssetKey, partitions: dg.PartitionsDefinition[str]
) -> list[dg.AssetCheckSpec]:
    """Return the checks' specs; their partitions are always the asset's."""
    with warnings.catch_warnings():
        # Partitioned checks are a preview in Dagster 1.13: they are stored and shown, which is
        # what we need of them.
        warnings.filterwarnings(
            "ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning
        )
        return [
            dg.AssetCheckSpec(
                kind.name, asset=asset, description=kind.description, partitions_def=partitions
            )
            for kind in checks.CHECKS
        ]


def results(asset: dg.AssetKey, receipt: Receipt) -> Iterator[dg.AssetCheckResult]:
    """Yield a receipt's checks as Dagster's results."""
    for check in receipt.checks:
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=check.name,
            passed=check.verdict is Verdict.PASS,
            severity=severity(check.verdict),
            description=check.summary,
            metadata=describe_check(check, receipt),
        )


def evaluations(
    asset: dg.AssetKey, receipt: Receipt, partition: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield a receipt's checks as events, for a run that is not the asset's own."""
    for check in receipt.checks:
        yield dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=check.name,
            passed=check.verdict is Verdict.PASS,
            severity=severity(check.verdict),
            description=check.summary,
            metadata=describe_check(check, receipt),
            partition=partition,
        )


def backup_of_run(
    instance: dg.DagsterInstance, run_id: str, asset: dg.AssetKey, backups: Backups
) -> Manifest | None:
    """Return the backup that a run has materialized, if it has."""
    for entry in reversed(
        instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    ):
        event = entry.asset_materialization
        if event is not None and event.asset_key == asset:
            return backups.load(str(event.metadata["backup_id"].value))
    return None


def backup_of_partition(
    backups: Backups, name: str, partition: Partition, *, grace_s: float
) -> Manifest:
    """Return the newest backup of a partition.

    :raises UnknownBackup: there is none.
    :raises ResilError: the manifest of what may be the newest can't be read.
    """
    newest = backups.latest_of(name, partition, grace_s=grace_s)
    if newest is None:
        raise UnknownBackup(
            f"partition {partition.key} of {name} has no backup",
            hint=f"choose a partition that has one: {name}/backup's page lists them",
        )
    return newest


def prove(
    store: Vault, manifest: Manifest, settings: VerifySettings, log: dg.DagsterLogManager
) -> tuple[Receipt, ReceiptLost | None]:
    """Prove one backup; a verdict of which no receipt can be written is one all the same.

    :return: the receipt, and what is to be raised when the verdict has been told.
    """
    try:
        return verify_backup(store, manifest, settings=settings, progress=progress_into(log)), None
    except ReceiptLost as error:
        return error.receipt, error


def build_checks(
    name: str,
    asset: dg.AssetKey,
    partitions: dg.TimeWindowPartitionsDefinition,
    vault: VaultAddress,
    settings: VerifySettings,
    *,
    grace_s: float,
) -> dg.AssetChecksDefinition:
    """Return the checks that prove a backup by restoring it once.

    :param grace_s: how long after its end a backup of a partition may have been taken.
    """

    @dg.multi_asset_check(
        name=f"{name}_proof",
        specs=build_check_specs(asset, partitions),
        required_resource_keys=vault.resource_keys,
        description="Restore the backup into a scratch server and compare it with the source.",
    )
    def proof(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with explained():
            store = vault.open(context.resources)
            backups = Backups(store)
            manifest = backup_of_run(context.instance, context.run.run_id, asset, backups)
            if manifest is None:
                partition = partition_of(partitions, context.op_execution_context.partition_key)
                manifest = backup_of_partition(backups, name, partition, grace_s=grace_s)
            receipt, lost = prove(store, manifest, settings, context.log)
        yield from results(asset, receipt)
        if lost is not None:
            with explained():
                raise lost

    return proof
