"""What a vault can do: write an object once, read it as a stream, name what is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from dagster_resil.vault.model import StoredObject


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
    def discard(self, prefix: str) -> None:
        """Remove what an attempt that will have no manifest has written, as far as possible.

        A vault that does not let its writer delete leaves it to retention.
        """

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
