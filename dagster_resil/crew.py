"""Threads that share a piece of work, and end together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

_JOIN_S = 0.2
_WATCH_S = 0.05


class Crew:
    """Threads that each do the same work, until it is done or one of them fails.

    Entering it starts them; leaving it ends those that are still at work.

    :param work: what each of them does; it returns early when :attr:`stopping` is set.
    :param interrupt: makes those return that wait for something. It is called again and again
        until all have returned: a request to cancel does nothing to who is between two waits.
    :ivar stopping: set when one has failed, or the crew is left.
    """

    def __init__(
        self, work: Callable[[], None], *, name: str, size: int, interrupt: Callable[[], None]
    ) -> None:
        self._work = work
        self._interrupt = interrupt
        self.stopping = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(size)
        ]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            while thread.ident is not None and thread.is_alive():
                self._interrupt()
                thread.join(_JOIN_S)

    def check(self) -> None:
        """Raise what made one of them fail first."""
        if self._failure is not None:
            raise self._failure

    def wait(self, watch: Callable[[], None]) -> None:
        """Wait for their end; ``watch`` is called some twenty times a second.

        :raises BaseException: what made one of them fail first.
        """
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_WATCH_S)
                watch()
        self.check()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised where they are waited for
            if self._failure is None:
                self._failure = error
            self.stopping.set()
