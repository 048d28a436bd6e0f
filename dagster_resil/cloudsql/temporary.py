"""Temporary instances: each is deleted however the run ends; a janitor removes what is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from dagster_resil.cloudsql import ownership
from dagster_resil.cloudsql.api import Watch, nothing
from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.instance import Instance
from dagster_resil.cloudsql.ownership import PREFIX
from dagster_resil.errors import CloudSqlError, InstanceMissing, OperationUnfinished

__all__ = ["PREFIX", "sweep", "temporary_clone"]

log = logging.getLogger(__name__)

_TURN_S = 600
"""How long a clone that is no longer wanted may go on being made before the janitor has to see to
it."""
_LAST_TURN_S = 20
"""So long for a worker that is told to end: it has not much time before it is killed."""


@contextmanager
def temporary_clone(
    cloud: CloudSql,
    source: str,
    *,
    owner: str,
    purpose: str,
    moment: datetime | None = None,
    project: str | None = None,
    watch: Watch = nothing,
) -> Iterator[Instance]:
    """Clone an instance, and delete the clone however the run ends, also when cloning failed.

    :param owner: whose it is, for :func:`sweep`: a Dagster run's id or a process's token; at most
        36 of a-z, 0-9 and -.
    :param purpose: what for; a label: at most 63 of a-z, 0-9, _ and -.
    :param moment: the state of which moment; by default now.
    :param project: where to make it; by default where the source is.
    :raises ConfigurationError: an owner or purpose that can't be one.
    :raises CloudSqlError: it was refused or failed, or the clone could not be deleted. Where
        something else was raised too, a note of that says which instance is left.
    """
    name = ownership.new_name(cloud.settings.project, source, owner)
    labels = ownership.labels(source, owner=owner, purpose=purpose)
    cloud.check_labels(labels)
    try:
        cloud.clone(source, name, moment=moment, project=project, watch=watch)
        cloud.label(name, labels, project=project)
        yield cloud.instance(name, project=project)
    except BaseException as error:
        if isinstance(error, CloudSqlError) and error.reason == "instanceAlreadyExists":
            raise  # before anything was asked for: it is somebody else's
        turn_s = _TURN_S if isinstance(error, Exception) else _LAST_TURN_S
        if isinstance(error, OperationUnfinished):
            turn_s = 0
        try:
            _remove(cloud, name, project, turn_s=turn_s)
        except CloudSqlError as left:
            log.error("%s", left)
            error.add_note(left.message)
        raise
    _remove(cloud, name, project, turn_s=_TURN_S)


def sweep(
    cloud: CloudSql,
    *,
    project: str | None = None,
    alive: Callable[[str], bool],
    older_than_s: float,
    leave: Callable[[str, str], None] = lambda name, why: None,
) -> list[str]:
    """Delete the temporary instances that nobody will delete any more.

    That is: those whose owner is not alive, or which are older than ``older_than_s``. Only what is
    ours for certain is ever touched: :mod:`dagster_resil.cloudsql.ownership` says how that is told.
    What an operation has just now is left for the next time, and so is what has no labels yet and
    is younger than ten minutes (or than ``older_than_s``, if that is less).

    :param project: where the temporary instances are; by default where their sources are.
    :param alive: tells of an owner whether it lives.
    :param leave: told of each that is left for the next time: its name, and why.
    :return: the names of those that were deleted.
    :raises CloudSqlError: some could not be deleted; all others were.
    """
    removed: list[str] = []
    left: list[CloudSqlError] = []
    for instance in cloud.instances(project=project):
        claim = ownership.claim(instance, cloud.settings.project)
        if claim is None:
            continue
        age_s = time.time() - claim.since
        if age_s <= older_than_s and alive(claim.owner):
            continue
        if not claim.is_labelled and age_s < min(_TURN_S, older_than_s):
            leave(instance.name, "it has no labels yet and was created recently")
            continue
        try:
            if cloud.is_busy(instance):
                if age_s > older_than_s:
                    raise CloudSqlError(
                        f"temporary instance {instance.name} in project {instance.project} is "
                        f"{age_s / 3600:,.0f} hours old, and an operation is still running on it",
                        hint="see which: gcloud sql operations list "
                        f"--instance={instance.name} --project={instance.project}",
                        reason="operationInProgress",
                    )
                leave(instance.name, "an operation is running on it")
                continue
            if cloud.owner(instance) is None:
                log.warning(
                    "instance %s is named like a temporary instance, but its labels do not show "
                    "that this tool created it",
                    instance.name,
                )
                continue
            _remove(cloud, instance.name, instance.project, turn_s=0)
        except CloudSqlError as error:
            log.error("%s", error)
            left.append(error)
        else:
            log.info("removed temporary instance %s of %s", instance.name, claim.owner)
            removed.append(instance.name)
    if left:
        raise CloudSqlError(
            f"{len(left)} temporary instances are left, and cost money: "
            + "; ".join(error.message for error in left),
            hint=left[0].hint,
            reason=left[0].reason,
        )
    return removed


def _remove(cloud: CloudSql, name: str, project: str | None, *, turn_s: float) -> None:
    """Delete an instance of ours.

    :raises CloudSqlError: it is left.
    """
    state = "may be left"
    try:
        try:
            instance = cloud.instance(name, project=project)
        except InstanceMissing:
            return
        state = "is left"
        if instance.deletion_protected:
            cloud.unprotect(name, project=project, turn_s=turn_s)
        cloud.delete(name, project=project, turn_s=turn_s)
    except CloudSqlError as error:
        where = project or cloud.settings.project
        raise CloudSqlError(
            f"temporary instance {name} in project {where} {state}: {error.message}",
            hint=error.hint
            or f"it costs money; delete it: gcloud sql instances delete {name} --project={where}",
            reason=error.reason,
        ) from None
