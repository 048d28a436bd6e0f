"""Writing what is read into the vault, again where the vault fails for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dagster_resil.records.manifest import StoredObject

Store = Callable[[str, Iterable[bytes]], StoredObject]
"""Writes an object of the backup from its name and a stream."""

StoreMany = Callable[[Iterable[tuple[str, Iterable[bytes]]]], Iterator[StoredObject]]
"""Writes some small objects, and yields each as soon as it is written."""

PAUSES_S = (0.5, 2.0, 8.0)
"""Between the attempts to write an object."""


class Replayable:
    """A stream that can be read once more from its beginning while it fits in memory.

    :ivar is_whole: whether it still does.
    """

    def __init__(self, chunks: Iterator[bytes], limit_bytes: int) -> None:
        self._chunks = chunks
        self._limit_bytes = limit_bytes
        self._seen: list[bytes] = []
        self._size = 0
        self.is_whole = True

    def __iter__(self) -> Iterator[bytes]:
        yield from self._seen
        for chunk in self._chunks:
            self._size += len(chunk)
            if self.is_whole and self._size > self._limit_bytes:
                self.is_whole = False
                self._seen = []
            if self.is_whole:
                self._seen.append(chunk)
            yield chunk
