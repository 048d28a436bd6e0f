"""Jobs for a person: prove an older backup again, restore one."""

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import dagster as dg
from pydantic import Field

from dagster_resil.components.checks import backup_of_partition, evaluations, prove
from dagster_resil.components.metadata import describe_comparison, describe_seconds
from dagster_resil.components.partitions import partition_of
from dagster_resil.components.running import explained, progress_into
from dagster_resil.components.sources import VaultAddress, endpoint_from
from dagster_resil.errors import (
    ConfigurationError,
    ResilError,
    RestoreFailed,
    TargetRefused,
    UnknownBackup,
)
from dagster_resil.records.manifest import Manifest, Partition
from dagster_resil.records.receipt import Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.restore import (
    KeptScratch,
    RestoreReport,
    RestoreSettings,
    restore_backup,
    restore_to_scratch,
)
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.listing import passed_over
from dagster_resil.verify.prove import VerifySettings

log = logging.getLogger(__name__)


class VerifyConfig(dg.Config):
    """Which backup of the partition to prove again."""

    backup_id: str = Field(
        default="",
        description="A backup's id; when empty, the partition's newest, whose verdict alone goes "
        "into the checks.",
    )


class ToScratch(dg.Config):
    """Restore into a scratch server that stays for a while."""

    kind: Literal["scratch"] = "scratch"
    keep_minutes: int = Field(
        default=60, ge=1, le=10_080, description="How long it stays, in minutes."
    )


class ToDatabase(dg.Config):
    """Restore into a database of your own, which has to be empty."""

    kind: Literal["database"] = "database"
    url_env: str = Field(
        description="The NAME of the environment variable that holds the target's URL. Run "
        "configuration is stored in plain text: never write the URL itself here."
    )
    replace: str = Field(
        default="", description="To overwrite a target that is not empty: its name, typed again."
    )
    roles: bool = Field(
        default=True,
        description="Create the roles that are missing, without passwords, and apply the "
        "database's settings and grants.",
    )
    owners: bool = Field(
        default=True,
        description="Restore owners and grants; a login that is not a superuser may need false.",
    )


class RestoreConfig(dg.Config):
    """What to restore, and where to."""

    target: ToScratch | ToDatabase = Field(
        default_factory=ToScratch,
        discriminator="kind",
        description="scratch, or database",
    )
    backup_id: str = Field(
        default="", description="A backup's id; when empty, the partition's newest proved one."
    )
    even_failed: bool = Field(
        default=False, description="Restore a backup whose verification said FAIL."
    )


def _partition(
    context: dg.OpExecutionContext, partitions: dg.TimeWindowPartitionsDefinition, name: str
) -> Partition:
    """Return the run's partition; Dagster starts such a job without one, or with any text."""
    if not context.has_partition_key:
        raise ConfigurationError(
            "this job needs a partition: nothing was done",
            hint=f"choose one in the Launchpad; the asset {name}/backup lists those with backups",
        )
    key = context.partition_key
    if not partitions.has_partition_key(key):
        raise ConfigurationError(
            f"{key!r} is no partition of {name}/backup: nothing was done",
            hint="choose one from the Launchpad's list",
        )
    return partition_of(partitions, key)


def _named(backups: Backups, name: str, partition: Partition, backup_id: str) -> Manifest:
    """Return the backup of a partition that a user named by its id."""
    manifest = backups.load(backup_id)
    key = manifest.partition.key if manifest.partition else None
    if manifest.name != name or key != partition.key:
        raise ConfigurationError(
            f"backup {backup_id} is not of partition {partition.key} of {name}",
            hint="leave backup_id empty, or choose the backup's own partition",
        )
    return manifest


def _older(backups: Backups, manifest: Manifest, partition: Partition, *, grace_s: float) -> str:
    """Return which backup of the partition is newer, in words; empty when this is the newest.

    :raises ResilError: that can't be told.
    """
    newest = backups.latest_of(manifest.name, partition, grace_s=grace_s)
    if newest is None or newest.backup_id == manifest.backup_id:
        return ""
    return f"the partition's newest backup is {newest.backup_id}"


def build_verify_job(
    name: str,
    asset: dg.AssetKey,
    partitions: dg.TimeWindowPartitionsDefinition,
    vault: VaultAddress,
    settings: VerifySettings,
    *,
    grace_s: float,
) -> dg.JobDefinition:
    """Return ``<name>_verify``, which reports into the asset's own checks.

    These are of a partition's newest backup. Of an older one the receipt and the run tell, and
    the run fails when it is not proved.

    :param grace_s: how long after its end a backup of a partition may have been taken.
    """

    @dg.op(name=f"{name}_verify_backup", required_resource_keys=vault.resource_keys)
    def verify(context: dg.OpExecutionContext, config: VerifyConfig) -> None:
        with explained():
            partition = _partition(context, partitions, name)
            store = vault.open(context.resources)
            backups = Backups(store)
            older = ""
            if config.backup_id:
                manifest = _named(backups, name, partition, config.backup_id)
                try:
                    older = _older(backups, manifest, partition, grace_s=grace_s)
                except ResilError as error:
                    older = f"it may not be the partition's newest: {error.message}"
            else:
                manifest = backup_of_partition(backups, name, partition, grace_s=grace_s)
            receipt, lost = prove(store, manifest, settings, context.log)
            if not older:
                # Another may have been taken meanwhile; a vault that is gone tells of none.
                with suppress(ResilError):
                    older = _older(backups, manifest, partition, grace_s=grace_s)
        metadata = _describe_proof(receipt)
        if older:
            metadata["not_in_the_checks"] = dg.MetadataValue.text(older)
            context.log.warning(
                f"the checks of {name}/backup were not changed, because they are not those of "
                f"{receipt.backup_id}: {older}"
            )
            for check in receipt.checks:
                context.log.info(f"{check.name} {check.verdict}: {check.summary}")
        else:
            for evaluation in evaluations(asset, receipt, partition.key):
                # The signature leaves evaluations out; the event log takes them.
                context.log_event(evaluation)  # type: ignore[arg-type]
        context.add_output_metadata(metadata)
        context.log.info(f"{receipt.backup_id}: {receipt.verdict}")
        if lost is not None:
            with explained():
                raise lost
        if older and receipt.verdict is not Verdict.PASS:
            # No check tells of it, so that the run has to.
            first = next(check for check in receipt.checks if check.verdict is receipt.verdict)
            raise dg.Failure(
                f"{receipt.verdict}: {receipt.backup_id}: {first.name}: {first.summary}\n"
                f"hint: what else was found: resil show {receipt.backup_id}",
                metadata=metadata,
                allow_retries=False,
            )

    @dg.job(
        name=f"{name}_verify",
        partitions_def=partitions,
        executor_def=dg.in_process_executor,
        description=f"Prove a backup of {name} again; the result shows in the checks of "
        f"{name}/backup, when it is its partition's newest.",
    )
    def job() -> None:
        verify()

    return job


def _proved(
    backups: Backups,
    name: str,
    partition: Partition,
    config: RestoreConfig,
    log_manager: dg.DagsterLogManager,
    *,
    grace_s: float,
) -> Manifest:
    """Return the backup to restore.

    A newer one whose manifest can't be read is passed over with a warning: a recovery is not held
    up by it.

    :raises TargetRefused: the one that was named is known to be bad.
    :raises ResilError: no manifest of the partition can be read.
    """
    if config.backup_id:
        manifest = _named(backups, name, partition, config.backup_id)
        verdict = backups.verdict(manifest.backup_id)
        if verdict is Verdict.FAIL and not config.even_failed:
            raise TargetRefused(
                f"the verification of {manifest.backup_id} said FAIL: nothing was restored",
                hint="choose another backup, or set even_failed",
            )
        if verdict is not Verdict.PASS:
            log_manager.warning(f"{manifest.backup_id} is not proved ({verdict or 'no receipt'})")
        return manifest
    found = backups.for_partition(name, partition, grace_s=grace_s)
    for entry in found.backups:
        if entry.verdict is Verdict.PASS:
            for warning in passed_over(entry.manifest, found.problems):
                log_manager.warning(warning)
            return entry.manifest
    if not found.backups and found.problems:
        # There are backups: what keeps them from being read is what has to be told.
        raise max(found.problems, key=lambda problem: problem.backup_id).error
    raise UnknownBackup(
        f"partition {partition.key} of {name} has no proved backup: nothing was restored",
        hint=f"choose a partition that has one ({name}/backup's page lists them), prove one with "
        f"{name}_verify, or name a backup_id",
    )


def build_restore_job(
    name: str,
    partitions: dg.TimeWindowPartitionsDefinition,
    vault: VaultAddress,
    settings: RestoreSettings,
    *,
    grace_s: float,
) -> dg.JobDefinition:
    """Return ``<name>_restore``: into a scratch server that stays, or into an empty database.

    :param grace_s: how long after its end a backup of a partition may have been taken.
    """

    @dg.op(
        name=f"{name}_restore_backup",
        out=dg.Out(dg.Nothing),
        required_resource_keys=vault.resource_keys,
    )
    def restore(context: dg.OpExecutionContext, config: RestoreConfig) -> None:
        with explained():
            partition = _partition(context, partitions, name)
            store = vault.open(context.resources)
            manifest = _proved(
                Backups(store), name, partition, config, context.log, grace_s=grace_s
            )
            context.log.info(f"restoring {manifest.backup_id}")
            progress = progress_into(context.log)
            if isinstance(config.target, ToDatabase):
                target = endpoint_from(config.target.url_env)
                report = restore_backup(
                    store,
                    manifest,
                    target,
                    settings=replace(
                        settings,
                        replace=config.target.replace or None,
                        roles=config.target.roles,
                        owners=config.target.owners,
                    ),
                    progress=progress,
                )
                address = target.describe()
                metadata = _describe_restore(report, address)
            else:
                kept = restore_to_scratch(
                    store,
                    manifest,
                    keep_s=config.target.keep_minutes * 60,
                    settings=settings,
                    progress=progress,
                )
                report, address = kept.report, f'psql "{kept.address}"'
                metadata = _describe_restore(report, address) | _describe_stay(kept)
        context.add_output_metadata(metadata)
        context.log.info(f"{report.verdict}: {report.backup_id} is restored: {address}")
        if report.verdict is Verdict.FAIL:
            failed = next(c for c in report.checks if c.verdict is Verdict.FAIL)
            raise dg.Failure(
                str(
                    RestoreFailed(
                        f"{report.backup_id} is restored, but it is not what the source held: "
                        f"{failed.name}: {failed.summary}",
                        hint="look at the differences in this run's metadata before you use it",
                    )
                ),
                metadata=metadata,
                allow_retries=False,
            )

    @dg.job(
        name=f"{name}_restore",
        partitions_def=partitions,
        executor_def=dg.in_process_executor,
        description=f"Restore a proved backup of {name}: into a scratch server that stays for a "
        "while, or into an empty database.",
    )
    def job() -> None:
        restore()

    return job


def _describe_proof(receipt: Receipt) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "backup_id": dg.MetadataValue.text(receipt.backup_id),
        "verdict": dg.MetadataValue.text(str(receipt.verdict)),
        **describe_seconds(receipt.seconds),
    }
    if receipt.tables:
        metadata["tables"] = describe_comparison(receipt.tables)
    return metadata


def _describe_restore(report: RestoreReport, address: str) -> dict[str, dg.MetadataValue]:
    return {
        "backup_id": dg.MetadataValue.text(report.backup_id),
        "verdict": dg.MetadataValue.text(str(report.verdict)),
        "address": dg.MetadataValue.text(address),
        "rows": dg.MetadataValue.int(report.rows),
        "tables": describe_comparison(report.tables),
        **describe_seconds(report.seconds),
    }


def _describe_stay(kept: KeptScratch) -> dict[str, dg.MetadataValue]:
    return {"stays_until": dg.MetadataValue.timestamp(kept.expires_at)}
