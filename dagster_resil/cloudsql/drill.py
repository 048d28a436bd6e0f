"""``recovers_to_a_moment``: whether point-in-time recovery gives back what was there.

A clone is recovered to the moment of a backup's snapshot, chosen at random from those that lie in
the window of recovery, and its tables are compared with what the backup knows of that moment.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pandas as pd

import dagster_resil
from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.instance import Instance, RecoveryWindow
from dagster_resil.cloudsql.temporary import temporary_clone
from dagster_resil.errors import CloudSqlError, NoVault, ResilError, VaultError
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.tables import list_tables
from dagster_resil.progress import Progress, Step, silent
from dagster_resil.records.base import FORMAT, format_time
from dagster_resil.records.manifest import Manifest, Recovered
from dagster_resil.records.receipt import Check, Receipt
from dagster_resil.records.verdict import Verdict
from dagster_resil.vault.backups import Backups
from dagster_resil.vault.base import Vault
from dagster_resil.verify.compare import DETAILS_SHOWN, compare_tables, to_records
from dagster_resil.verify.contents import read_tables

log = logging.getLogger(__name__)

CHECK = "recovers_to_a_moment"

_NOT_CHECKED = (
    "sequences' values, and what materialized views and foreign tables hold",
    "definitions, owners and grants (the checks of a backup compare them)",
    "the moments between backups, of which nothing is known",
)


@dataclass(frozen=True)
class DrillSettings:
    """How a recovery is tried.

    :param jobs: connections that compare.
    :param project: where the temporary instance is made; by default where its source is.
    :param recovery_point_s: how far behind the newest moment that can be recovered may be.
    """

    jobs: int = 2
    project: str | None = None
    recovery_point_s: float = 900


@dataclass(frozen=True)
class DrillResult:
    """What a drill has found.

    :param receipt: what the vault has; None where nothing could be tried.
    :param lag_s: how far behind the newest moment is that can be recovered.
    :param failure: what failed when the verdict was found: the temporary instance is left, which
        costs money, or the receipt could not be written.
    """

    check: Check
    window: RecoveryWindow
    lag_s: float
    receipt: Receipt | None = None
    failure: ResilError | None = None


@dataclass(frozen=True)
class _Compared:
    """What was found in a clone.

    :param unreadable: tables of extensions that the login may not read.
    """

    tables: pd.DataFrame
    unreadable: frozenset[str]
    unlogged: frozenset[str]
    server_version: str
    clone: str

    @property
    def rows(self) -> int:
        """Return how many rows were compared."""
        return int(self.tables.loc[self.tables["kind"] == "table", "rows_source"].sum())

    @property
    def count(self) -> int:
        """Return how many tables were."""
        return int((self.tables["kind"] == "table").sum())


def drill(
    cloud: CloudSql,
    source: str,
    vault: Vault,
    *,
    name: str,
    owner: str,
    connect: Callable[[Instance], Endpoint],
    settings: DrillSettings | None = None,
    progress: Progress = silent,
    choose: Callable[[list[Manifest]], Manifest] = random.choice,
) -> DrillResult:
    """Recover a clone to a moment that a backup knows, compare, delete the clone.

    :param source: the instance's name.
    :param name: the protected database's name.
    :param owner: who the temporary instance belongs to, a Dagster run's id for example.
    :param connect: returns the way to the database in the clone.
    :param choose: chooses the backup: of those with nothing under way, if there are any.
    :raises CloudSqlError: the window can't be read, or the clone can't be made.
    :raises ResilError: the clone can't be read. What fails after that is in what is returned, so
        that the verdict is not lost.
    """
    settings = settings or DrillSettings()
    backups = Backups(vault)
    instance = cloud.instance(source)
    window = cloud.recovery_window(source)
    lag_s = max(0.0, (datetime.now(UTC) - window.latest).total_seconds())
    where = f"{instance.project}:{instance.region}:{instance.name}"
    known: list[Manifest] = []
    with contextlib.suppress(NoVault):  # the first backup makes it
        known = [
            entry.manifest
            for entry in backups.entries(name).backups
            if _is_known(entry.manifest, where, window)
        ]
    if not known:
        nothing = (
            f"no backup of {where} has a snapshot within the recovery window, "
            f"{format_time(window.earliest)} to {format_time(window.latest)}, so nothing is known "
            "about any moment in it"
        )
        # Where nothing is archived any more every backup is soon younger than the window.
        behind = _behind(lag_s, settings)
        return DrillResult(
            Check(
                name=CHECK,
                verdict=Verdict.FAIL if behind else Verdict.INCONCLUSIVE,
                summary=f"{behind}; {nothing}" if behind else nothing,
            ),
            window,
            lag_s,
        )
    # Of a moment at which nothing was under way everything is known.
    manifest = choose([each for each in known if each.snapshot.in_progress == 0] or known)
    moment = _moment(manifest)
    seconds: dict[str, float] = {}
    compared: _Compared | None = None
    failure: ResilError | None = None
    begun = time.monotonic()
    progress(Step(f"recovering {source} to {format_time(moment)}"))
    try:
        with temporary_clone(
            cloud, source, owner=owner, purpose="drill", moment=moment, project=settings.project
        ) as clone:
            seconds["restore"] = time.monotonic() - begun
            compared_at = time.monotonic()
            compared = _compare(manifest, clone, connect(clone), settings.jobs, progress)
            deleted_at = time.monotonic()
            seconds["compare"] = deleted_at - compared_at
            progress(Step(f"deleting {clone.name}"))
        seconds["delete"] = time.monotonic() - deleted_at
    except CloudSqlError as error:
        if compared is None:
            raise
        failure = error
    seconds["total"] = time.monotonic() - begun
    check = _judged(manifest, compared, seconds["restore"], lag_s, settings)
    receipt = Receipt(
        format=FORMAT,
        backup_id=manifest.backup_id,
        name=name,
        database=manifest.source.database,
        verdict=check.verdict,
        checks=(check,),
        seconds={key: round(value, 3) for key, value in seconds.items()},
        rows=compared.rows,
        bytes=manifest.bytes,
        verified_at=datetime.now(UTC),
        server_version=compared.server_version,
        tools={"dagster_resil": dagster_resil.__version__},
        not_checked=(
            *_NOT_CHECKED,
            *(
                f"rows of {table}, which is unlogged: no clone has them"
                for table in sorted(compared.unlogged)
            ),
            *(
                f"rows of {table}, an extension's, which the login may not read"
                for table in sorted(compared.unreadable)
            ),
        ),
        tables=to_records(compared.tables),
        recovered=Recovered(
            instance=where,
            moment=moment,
            by_way_of=compared.clone,
        ),
    )
    try:
        backups.put_drill(receipt)
    except VaultError as error:
        if failure is not None:
            error.add_note(failure.message)
        failure = error
    log.info(
        "recovered %s to %s: %s",
        name,
        format_time(moment),
        check.verdict,
        extra={"backup_id": manifest.backup_id, "verdict": str(check.verdict)},
    )
    return DrillResult(check, window, lag_s, receipt, failure)


def _moment(manifest: Manifest) -> datetime:
    """Return the moment to recover to, in whole milliseconds: finer ones may be cut off."""
    taken_at = manifest.snapshot.taken_at
    return taken_at.replace(microsecond=taken_at.microsecond // 1000 * 1000)


def _compare(
    manifest: Manifest, clone: Instance, endpoint: Endpoint, jobs: int, progress: Progress
) -> _Compared:
    """Compare a clone's tables with what a backup knows of its moment."""
    endpoint = replace(endpoint, ascii_encoding=manifest.source.client_encoding)
    unreadable, unlogged = _not_to_compare(endpoint)
    restored = read_tables(
        endpoint,
        form=manifest.expectations.fingerprint,
        jobs=jobs,
        leave_out=unreadable | unlogged,
        progress=progress,
    )
    tables = compare_tables(
        (table for table in manifest.tables if table.title not in unlogged),
        restored.tables,
        moving=restored.moving,
    )
    with endpoint.connect(autocommit=True) as connection:
        server_version = str(connection.info.parameter_status("server_version")).split()[0]
    return _Compared(tables, unreadable, unlogged, server_version, clone.name)


def _is_known(manifest: Manifest, instance: str, window: RecoveryWindow) -> bool:
    """Return whether a backup says what an instance was like at a moment in the window.

    One of a clone says nothing of the moment, nor one of another instance of this one.
    """
    return (
        manifest.capabilities.under_snapshot
        and manifest.recovered is None
        and manifest.source.instance == instance
        and window.earliest <= _moment(manifest) <= window.latest
    )


def _not_to_compare(endpoint: Endpoint) -> tuple[frozenset[str], frozenset[str]]:
    """Return the tables of extensions that the login may not read, and the unlogged ones."""
    with endpoint.connect(autocommit=True) as connection:
        tables = list_tables(connection)
    return (
        frozenset(f"{t.schema}.{t.name}" for t in tables if not t.readable),
        frozenset(f"{t.schema}.{t.name}" for t in tables if t.is_unlogged),
    )


def _behind(lag_s: float, settings: DrillSettings) -> str:
    """Say that the newest moment that can be recovered is too old; nothing if it is not."""
    if lag_s <= settings.recovery_point_s:
        return ""
    return (
        f"the newest moment that can be recovered is {lag_s:,.0f} s ago, more than "
        f"{settings.recovery_point_s:,.0f} s"
    )


def _judged(
    manifest: Manifest,
    compared: _Compared,
    restore_s: float,
    lag_s: float,
    settings: DrillSettings,
) -> Check:
    moment = format_time(manifest.snapshot.taken_at)
    comparison = compared.tables
    wrong = [
        f"{row['schema']}.{row['name']}: {row['difference']}"
        for row in comparison.to_dict("records")
        if row["difference"]
    ]
    more = f" (and {len(wrong) - 1:,} more tables)" if len(wrong) > 1 else ""
    if wrong and manifest.snapshot.in_progress == 0:
        return Check(
            name=CHECK,
            verdict=Verdict.FAIL,
            summary=f"recovered to {moment}, {wrong[0]}{more}",
            details=tuple(wrong[:DETAILS_SHOWN]),
        )
    if wrong:
        # What was being committed at the moment may be on either side of it.
        count = manifest.snapshot.in_progress
        why = (
            "the backup was read from a standby, which may have been behind its clock"
            if count is None
            else f"{count:,} transactions were under way or had just ended then, which a recovery "
            "may have committed or not"
        )
        return Check(
            name=CHECK,
            verdict=Verdict.INCONCLUSIVE,
            summary=f"recovered to {moment}, {wrong[0]}{more}; {why}",
            details=tuple(wrong[:DETAILS_SHOWN]),
        )
    if behind := _behind(lag_s, settings):
        return Check(
            name=CHECK,
            verdict=Verdict.FAIL,
            summary=f"recovered to {moment} exactly, but {behind}",
        )
    if manifest.expectations.fingerprint == "none":
        return Check(
            name=CHECK,
            verdict=Verdict.INCONCLUSIVE,
            summary=f"recovered to {moment}, with the expected number of rows in each table; "
            "the backup recorded counts only, so nothing is known about their contents",
        )
    return Check(
        name=CHECK,
        verdict=Verdict.PASS,
        summary=f"recovered to {moment} in {restore_s:.1f} s: {compared.rows:,} rows in "
        f"{compared.count:,} tables as they were"
        + "".join(
            f"; not compared: {table} ({why})"
            for why, tables in (
                ("unlogged: no clone has its rows", compared.unlogged),
                ("unreadable", compared.unreadable),
            )
            for table in sorted(tables)[:3]
        )
        + f"; the newest moment that can be recovered is {lag_s:,.0f} s ago",
    )
