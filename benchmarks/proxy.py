"""A proxy that lets each connection have so many bytes a second, and no more.

That is what a cloud's network does to one stream: a program that uses one connection gets no more
than one stream's share, however fast the machines are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator

_PIECE_BYTES = 1 << 16


def _pump(source: socket.socket, target: socket.socket, bytes_per_s: float) -> None:
    """Copy from one end to the other; what was sent has to be paid for in time."""
    due = time.monotonic()
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
            now = time.monotonic()
            due = max(due, now - 0.05) + len(piece) / bytes_per_s
            if due > now:
                time.sleep(due - now)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _serve(listener: socket.socket, port: int, bytes_per_s: float) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        # Small buffers: what the kernel holds is not seen by the limit.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(one, other, bytes_per_s), daemon=True).start()


@contextlib.contextmanager
def limited(port: int, *, bytes_per_s: float) -> Iterator[int]:
    """Run the proxy to a port of this machine in a process of its own; return the proxy's port."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(listener, port, bytes_per_s), daemon=True
    )
    process.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        process.kill()
        process.join()
        listener.close()
