"""Which instances are temporary ones of this tool, which it may delete.

An instance gets labels only after it is there: a clone can't be given any. So the name alone says
who made it, when, and of which instance it is:

    resil-tmp-<owner>-<since><random>-<mark>

``owner`` is whose it is, ``since`` the time in seconds since 1970 (8 hexadecimal digits, by our
clock), ``random`` 4 such digits, and ``mark`` the first 6 of SHA-256 of all that and of the
source's project and name. A name that somebody else gives has no such mark.

Labelled, it is ours when its labels say the same as its name, and the mark is that of the source
that they name, in our project. Without a label of ours (its worker died before) it is ours when
the mark is that of an instance that our project has now, and an operation CLONE made it. In no
other case: one whose labels name another owner or source, and a replica, are not ours.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dagster_resil.cloudsql.instance import Instance
from dagster_resil.errors import ConfigurationError

PREFIX = "resil-tmp-"
_OWNER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,34}[a-z0-9])?")
"""A Dagster run's id fits; Google allows project and name 98 characters together."""
_NAME = re.compile(
    PREFIX + rf"(?P<owner>{_OWNER.pattern})-(?P<since>[0-9a-f]{{8}})(?P<random>[0-9a-f]{{4}})"
    r"-(?P<mark>[0-9a-f]{6})"
)
_TEMPORARY, _OWNER_LABEL, _PURPOSE, _SOURCE = (
    f"resil-{word}" for word in ("temporary", "owner", "purpose", "source")
)
_LABEL_CHARACTERS = 63


@dataclass(frozen=True)
class Claim:
    """What an instance's name and labels say of it; not yet whether that is so.

    :param since: when its making began, in seconds since 1970, by our clock.
    """

    name: str
    owner: str
    since: int
    is_labelled: bool

    def is_of(self, project: str, source: str) -> bool:
        """Return whether the name's mark is that of a source."""
        head, _, mark = self.name.rpartition("-")
        return mark == _mark(head, project, source)


def new_name(project: str, source: str, owner: str) -> str:
    """Return a name for a temporary clone of an instance.

    :raises ConfigurationError: the owner can't be in a name, or the source is temporary itself.
    """
    if not _OWNER.fullmatch(owner):
        raise ConfigurationError(
            f"{owner!r} can't be the owner of a temporary instance",
            hint="it has at most 36 of the characters a-z, 0-9 and -, as a Dagster run's id has",
        )
    if source.startswith(PREFIX):
        # The clone would inherit its labels, and nobody would know it for ours.
        raise ConfigurationError(
            f"instance {source} is temporary itself: no temporary clone is made of it",
            hint="clone the instance that it was cloned from",
        )
    head = f"{PREFIX}{owner}-{int(time.time()):08x}{secrets.token_hex(2)}"
    return f"{head}-{_mark(head, project, source)}"


def labels(source: str, *, owner: str, purpose: str) -> Mapping[str, str]:
    """Return the labels of a temporary clone of an instance."""
    return {
        _TEMPORARY: "true",
        _OWNER_LABEL: owner,
        _PURPOSE: purpose,
        # A name may be longer than a label: its beginning, and what tells it from others.
        _SOURCE: _source_label(source),
    }


def claim(instance: Instance, project: str) -> Claim | None:
    """Return what an instance says of itself if it may be ours; None if it can't be.

    :param project: ours, where sources are.
    """
    found = _NAME.fullmatch(instance.name)
    if found is None or instance.primary is not None:
        return None
    ours = [key for key in (_TEMPORARY, _OWNER_LABEL, _SOURCE, _PURPOSE) if key in instance.labels]
    read = Claim(instance.name, found["owner"], int(found["since"], 16), bool(ours))
    if not ours:
        return read
    source = instance.labels.get(_SOURCE, "")
    if (
        instance.labels.get(_TEMPORARY) == "true"
        and instance.labels.get(_OWNER_LABEL) == read.owner
        and read.is_of(project, source)
    ):
        return read
    return None


def _mark(head: str, project: str, source: str) -> str:
    text = f"{head}/{project}/{_source_label(source)}"
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _source_label(source: str) -> str:
    if len(source) <= _LABEL_CHARACTERS:
        return source
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return f"{source[: _LABEL_CHARACTERS - 9]}_{digest}"
