"""Instances of Cloud SQL as its API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Instance:
    """An instance as it was when it was asked for.

    :param state: Google's word: RUNNABLE, PENDING_CREATE, FAILED…
    :param major: PostgreSQL's major version; 0 for another kind of database.
    :param service_account: the instance's own identity, which exports write with.
    :param has_recovery: whether point-in-time recovery is on.
    :param address: where its server is: its private address before its public one.
    :param primary: the name of the instance that it is a replica of.
    """

    project: str
    name: str
    region: str
    state: str
    major: int
    labels: Mapping[str, str]
    created_at: datetime
    service_account: str
    deletion_protected: bool
    has_recovery: bool
    address: str
    port: int
    primary: str | None


@dataclass(frozen=True)
class RecoveryWindow:
    """The moments that an instance can be cloned at, both ends included. Times are UTC."""

    earliest: datetime
    latest: datetime


@dataclass(frozen=True)
class Certificates:
    """What an instance's server is known by.

    :param pem: the certificates of the authorities that may have signed its own.
    :param host: the name that is in its certificate; None for none that could be looked up.
    """

    pem: str
    host: str | None
