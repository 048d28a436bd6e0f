"""What the local Cloud SQL knows, in one SQLite database: it survives a restart and a crash."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster_resil.localcloud.sql.clock import Clock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instances (
    project TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (project, name)
) STRICT;
CREATE TABLE IF NOT EXISTS operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, project TEXT NOT NULL,
    instance TEXT NOT NULL, document TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_instance ON operations (project, instance);
CREATE TABLE IF NOT EXISTS bases (
    uid TEXT NOT NULL, folder TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (uid, folder)
) STRICT;
CREATE TABLE IF NOT EXISTS backups (
    project TEXT NOT NULL, uid TEXT NOT NULL, id INTEGER NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (uid, id)
) STRICT;
CREATE TABLE IF NOT EXISTS clocks (name TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Instance:
    """An instance.

    :param uid: tells it from an earlier one of the same name.
    :param port: where its server listens on 127.0.0.1.
    :param major: of PostgreSQL.
    :param clock: the name of its clock.
    :param archive: counts the archives of its WAL: what is restored from a backup begins another.
    :param resource: what the API shows of it, without what is computed.
    """

    project: str
    name: str
    uid: str
    port: int
    major: int
    clock: str
    archive: int
    resource: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """Return its project and name."""
        return self.project, self.name

    @property
    def region(self) -> str:
        """Return where it is."""
        return str(self.resource["region"])

    @property
    def state(self) -> str:
        """Return how it is, for example RUNNABLE."""
        return str(self.resource["state"])

    @property
    def is_on(self) -> bool:
        """Return whether its owner wants its server to run."""
        return self.settings.get("activationPolicy") != "NEVER"

    @property
    def settings(self) -> dict[str, Any]:
        """Return its settings."""
        settings: dict[str, Any] = self.resource["settings"]
        return settings

    @property
    def primary(self) -> str | None:
        """Return the name of the instance that it is a replica of."""
        name = self.resource.get("masterInstanceName")
        return None if name is None else str(name).rpartition(":")[2]

    @property
    def service_account(self) -> str:
        """Return the address of its own identity."""
        return str(self.resource["serviceAccountEmailAddress"])

    @property
    def has_recovery(self) -> bool:
        """Return whether it keeps what point-in-time recovery needs."""
        configuration = self.settings.get("backupConfiguration", {})
        return bool(configuration.get("pointInTimeRecoveryEnabled"))

    def changed(self, **fields: Any) -> Instance:
        """Return it with other fields of its resource; None takes one away."""
        resource = {**self.resource, **fields}
        return replace(self, resource={k: v for k, v in resource.items() if v is not None})


@dataclass(frozen=True)
class Base:
    """A copy of a cluster's files that a recovery can begin with.

    :param folder: its name below the instance's backups.
    :param archive: to which of the instance's archives it belongs.
    :param timeline: of PostgreSQL, that the recovery follows.
    :param real: the real time at which it was whole.
    """

    uid: str
    folder: str
    archive: int
    timeline: int
    real: datetime


@dataclass(frozen=True)
class Backup:
    """A backup run; ``resource`` is what the API shows of it."""

    project: str
    uid: str
    id: int
    folder: str
    major: int
    resource: dict[str, Any]


class Store:
    """What is on disk."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        file.touch(mode=0o600)
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(
            "PRAGMA synchronous = OFF"
        )  # the clusters themselves have no fsync
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do several things with nobody between them."""
        with self._lock:
            yield

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    # -- instances

    def instance(self, project: str, name: str) -> Instance | None:
        """Return an instance, if it is there."""
        rows = self._execute(
            "SELECT document FROM instances WHERE project = ? AND name = ?", project, name
        )
        return Instance(**json.loads(rows[0][0])) if rows else None

    def instances(self, project: str | None = None) -> list[Instance]:
        """Return the instances of a project, or all, by name."""
        rows = self._execute(
            "SELECT document FROM instances WHERE ? IS NULL OR project = ? ORDER BY project, name",
            project,
            project,
        )
        return [Instance(**json.loads(row[0])) for row in rows]

    def put_instance(self, instance: Instance) -> None:
        """Write an instance's row."""
        self._execute(
            "INSERT OR REPLACE INTO instances VALUES (?, ?, ?)",
            instance.project,
            instance.name,
            json.dumps(asdict(instance)),
        )

    def change(self, key: tuple[str, str], **fields: Any) -> Instance:
        """Change fields of an instance's resource; None takes one away."""
        with self._lock:
            instance = self.instance(*key)
            if instance is None:
                raise KeyError(key)
            instance = instance.changed(**fields)
            self.put_instance(instance)
            return instance

    def remove_instance(self, instance: Instance) -> None:
        """Remove an instance's row."""
        self._execute("DELETE FROM instances WHERE project = ? AND name = ?", *instance.key)

    # -- operations

    def operation(self, project: str, name: str) -> dict[str, Any] | None:
        """Return an operation, if it is there."""
        rows = self._execute(
            "SELECT document FROM operations WHERE project = ? AND name = ?", project, name
        )
        return dict(json.loads(rows[0][0])) if rows else None

    def operations(
        self, project: str | None, instance: str | None, before: int | None, limit: int
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return operations with their numbers, the newest first.

        :param before: only those of lower numbers.
        """
        rows = self._execute(
            "SELECT number, document FROM operations WHERE (? IS NULL OR project = ?) "
            "AND (? IS NULL OR instance = ?) AND (? IS NULL OR number < ?) "
            "ORDER BY number DESC LIMIT ?",
            project,
            project,
            instance,
            instance,
            before,
            before,
            limit,
        )
        return [(number, json.loads(text)) for number, text in rows]

    def put_operation(self, document: dict[str, Any]) -> None:
        """Write an operation's row."""
        self._execute(
            "INSERT INTO operations (name, project, instance, document) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET document = excluded.document",
            document["name"],
            document["targetProject"],
            document["targetId"],
            json.dumps(document),
        )

    # -- bases and backups

    def bases(self, uid: str) -> list[Base]:
        """Return an instance's bases, the oldest first."""
        rows = self._execute("SELECT document FROM bases WHERE uid = ?", uid)
        found = [json.loads(row[0]) for row in rows]
        return sorted(
            (Base(**{**each, "real": datetime.fromisoformat(each["real"])}) for each in found),
            key=lambda base: base.real,
        )

    def put_base(self, base: Base) -> None:
        """Write a base's row."""
        document = {**asdict(base), "real": base.real.isoformat()}
        self._execute(
            "INSERT OR REPLACE INTO bases VALUES (?, ?, ?)",
            base.uid,
            base.folder,
            json.dumps(document),
        )

    def remove_base(self, base: Base) -> None:
        """Remove a base's row."""
        self._execute("DELETE FROM bases WHERE uid = ? AND folder = ?", base.uid, base.folder)

    def backup(self, uid: str, backup_id: int) -> Backup | None:
        """Return a backup of an instance, if it is there."""
        rows = self._execute(
            "SELECT document FROM backups WHERE uid = ? AND id = ?", uid, backup_id
        )
        return Backup(**json.loads(rows[0][0])) if rows else None

    def backups(self, uid: str) -> list[Backup]:
        """Return an instance's backups, the newest first."""
        rows = self._execute("SELECT document FROM backups WHERE uid = ? ORDER BY id DESC", uid)
        return [Backup(**json.loads(row[0])) for row in rows]

    def put_backup(self, backup: Backup) -> None:
        """Write a backup's row."""
        self._execute(
            "INSERT OR REPLACE INTO backups VALUES (?, ?, ?, ?)",
            backup.project,
            backup.uid,
            backup.id,
            json.dumps(asdict(backup)),
        )

    def remove_backup(self, backup: Backup) -> None:
        """Remove a backup's row."""
        self._execute("DELETE FROM backups WHERE uid = ? AND id = ?", backup.uid, backup.id)

    def forget(self, uid: str) -> None:
        """Remove the rows of everything that belongs to an instance."""
        self._execute("DELETE FROM bases WHERE uid = ?", uid)
        self._execute("DELETE FROM backups WHERE uid = ?", uid)

    # -- clocks

    def clock(self, name: str) -> Clock:
        """Return a clock; one that was never told anything tells real time."""
        rows = self._execute("SELECT document FROM clocks WHERE name = ?", name)
        return Clock.of_json(json.loads(rows[0][0])) if rows else Clock()

    def put_clock(self, name: str, clock: Clock) -> None:
        """Write a clock's row."""
        self._execute(
            "INSERT OR REPLACE INTO clocks VALUES (?, ?)", name, json.dumps(clock.to_json())
        )

    def remove_clocks(self) -> None:
        """Remove every clock."""
        self._execute("DELETE FROM clocks")

    def remove_clock(self, name: str) -> None:
        """Remove a clock's row."""
        self._execute("DELETE FROM clocks WHERE name = ?", name)
