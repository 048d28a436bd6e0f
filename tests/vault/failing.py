"""A vault that fails where a test says so: what no local file system does on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_resil.errors import VaultError
from dagster_resil.records.manifest import StoredObject
from dagster_resil.vault.local import LocalVault


class FailingVault(LocalVault):
    """A local vault whose writing or reading of an object may fail.

    :param writing: says for an object's name what is raised when its first piece is written.
    :param reading: says for an object's name what is raised when it is opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        writing: Callable[[str], VaultError | None] = lambda name: None,
        reading: Callable[[str], VaultError | None] = lambda name: None,
    ) -> None:
        super().__init__(path)
        self._writing = writing
        self._reading = reading

    def put(self, name: str, chunks: Iterable[bytes]) -> StoredObject:
        return super().put(name, self._broken(name, chunks))

    def put_many(self, items: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[StoredObject]:
        return super().put_many((name, self._broken(name, chunks)) for name, chunks in items)

    def _broken(self, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        error = self._writing(name)
        for chunk in chunks:
            yield chunk
            if error is not None:
                raise error
        if error is not None:
            raise error

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        if (error := self._reading(name)) is not None:
            raise error
        with super().open(name) as chunks:
            yield chunks
