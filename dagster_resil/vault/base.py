"""What a vault can do: write an object once, read it as a stream, name what is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from dagster_resil.errors import ConfigurationError, ObjectExists, ObjectMissing, VaultError
from dagster_resil.records.manifest import StoredObject


@dataclass(frozen=True)
class Finding:
    """One thing that was found out about the place that holds a vault.

    :param ok: whether it is as it has to be.
    :param hint: what to do, or to think of.
    """

    what: str
    ok: bool = True
    hint: str = ""


class Vault(ABC):
    """A flat store of objects with slashes in their names.

    An implementation is safe to use from several threads at once. Every failure to read or
    write is a :class:`~dagster_resil.errors.VaultError` that names the object and the vault.
    """

    url: str
    """The vault's address, as a user types it: ``file:///path`` or ``gs://bucket/prefix``."""

    @abstractmethod
    def put(self, name: str, chunks: Iterable[bytes]) -> StoredObject:
        """Write a new object from a stream of chunks, durably, or leave nothing.

        The sums are those of the bytes given, computed on the way.

        :raises ObjectExists: an object of that name is there; it is left as it is.
        :raises VaultError: the vault is full, read-only, out of reach…
        """

    def put_many(self, items: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[StoredObject]:
        """Write some small objects, and yield each as soon as it is written.

        A vault for which several together cost less than each by itself overrides this.

        :param items: their names and what is in them.
        :raises ObjectExists: one is there; those that were not yielded may not be.
        :raises VaultError: as for :meth:`put`.
        """
        for name, chunks in items:
            yield self.put(name, chunks)

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Read an object as a stream of chunks.

        :raises ObjectMissing: no object of that name.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Return an object's size in bytes.

        :raises ObjectMissing: no object of that name.
        """

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size of each object whose name begins with ``prefix``.

        A vault that can list sizes overrides this, which asks for one after the other.
        """
        return {name: self.size(name) for name in self.names(prefix)}

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with ``prefix``, sorted by their bytes."""

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Yield the next parts of the names below a prefix that go on after it, sorted.

        A vault that can ask for them overrides this, which reads every name.

        :param prefix: empty, or the beginning of names up to and with a slash.
        """
        names = (name.removeprefix(prefix) for name in self.names(prefix))
        yield from sorted({name.split("/")[0] for name in names if "/" in name})

    @abstractmethod
    def written_at(self, folder: str) -> datetime | None:
        """Return when something was written last into a folder, by the vault's own clock.

        :param folder: the beginning of names up to and with a slash.
        :return: None when there is nothing.
        """

    @abstractmethod
    def discard(self, prefix: str) -> None:
        """Remove what an attempt that will have no manifest has written, as far as possible.

        A vault that does not let its writer delete leaves it to retention.
        """

    def may_discard(self) -> bool:
        """Return whether :meth:`discard` removes anything, as far as the vault can know."""
        return True

    @abstractmethod
    def check_writable(self, name: str | None = None) -> None:
        """Raise VaultError, with a hint, when nothing could be written now; leave nothing there.

        :param name: the protected database whose backups are to be written; by default any.
        """

    def read(self, name: str) -> bytes:
        """Return a small object whole.

        :raises ObjectMissing: no object of that name.
        """
        with self.open(name) as chunks:
            return b"".join(chunks)

    # -- what implementations share

    def _exists(self, name: str) -> ObjectExists:
        return ObjectExists(
            f"object {name} is in vault {self.url} already",
            hint="nothing in a vault is ever overwritten",
        )

    def _missing(self, name: str) -> ObjectMissing:
        return ObjectMissing(
            f"there is no object {name} in vault {self.url}",
            hint="list what there is with: resil list",
        )

    def _manifest_of(self, prefix: str) -> str:
        """Return the name of the manifest that a prefix inside one backup's folder would have.

        :raises VaultError: the prefix reaches further than one backup.
        """
        parts = prefix.split("/")
        if len(parts) < 4 or parts[1] != "backups":
            raise VaultError(
                f"refusing to remove {prefix!r} from vault {self.url}: it is more than one backup",
                hint="name one backup's folder: <name>/backups/<backup id>/",
            )
        return f"{parts[0]}/manifests/{parts[2]}.json"

    def _is_whole(self, prefix: str) -> VaultError:
        return VaultError(
            f"refusing to remove {prefix!r} from vault {self.url}: it is a whole backup",
            hint="what has a manifest is removed by retention alone",
        )


def is_name(name: str) -> bool:
    """Return whether an object may be called so in every kind of vault."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name and all(part and part[0] != "." for part in name.split("/"))


def check_name(name: str) -> None:
    """Refuse a name that an object can't have.

    :raises ConfigurationError: it is one.
    """
    if not is_name(name):
        raise ConfigurationError(
            f"{name!r} can't be an object's name",
            hint="parts between single slashes, none of them empty or beginning with a dot",
        )


def check_prefix(prefix: str) -> None:
    """Refuse what no object's name can begin with.

    :raises ConfigurationError: it is such.
    """
    folder = prefix.rpartition("/")[0]
    if prefix.startswith("/") or "\0" in prefix:
        raise ConfigurationError(f"{prefix!r} can't be the beginning of an object's name")
    if folder:
        check_name(folder)
