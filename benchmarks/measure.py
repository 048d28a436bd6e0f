"""Running a command, and what it cost: time, CPU, memory, disk (Linux: it reads /proc)."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_MEMORY_EVERY_S = 0.2
_DISK_EVERY_S = 2.0
"""Looking costs CPU, most of all at a folder of a server's thousand files."""
_TICKS = os.sysconf("SC_CLK_TCK")
_SERVER = "postgres"


@dataclass(frozen=True)
class Cost:
    """What a command cost.

    :param wall_s: seconds by the clock.
    :param client_cpu_s: CPU seconds of the command and everything that it started.
    :param server_cpu_s: CPU seconds of the server that it talked to.
    :param peak_bytes: the largest memory of the command and everything that it started, servers
        apart, summed over the processes at one moment (proportional set size).
    :param disk_bytes: the most that lay in its working folder.
    """

    wall_s: float
    client_cpu_s: float
    server_cpu_s: float
    peak_bytes: int
    disk_bytes: int
    stdout: str = ""


def _stat(pid: int) -> tuple[str, int, list[int]] | None:
    """Return a process's name, its parent and its CPU ticks: own and reaped children's."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return name, int(fields[1]), [int(field) for field in fields[11:15]]


def _tree(root: int) -> Iterator[tuple[int, str]]:
    """Yield a process and all its descendants, with their names."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))):
            children.setdefault(found[1], []).append((int(entry.name), found[0]))
    todo = [(root, "")]
    while todo:
        pid, name = todo.pop()
        yield pid, name
        todo += children.get(pid, [])


def cpu_of_server(postmaster: int) -> float:
    """Return the CPU seconds of a server and all its backends, those that have ended too."""
    ticks = 0
    for pid, _ in _tree(postmaster):
        if found := _stat(pid):
            ticks += sum(found[2]) if pid == postmaster else sum(found[2][:2])
    return ticks / _TICKS


def _memory(root: int) -> int:
    total = 0
    for pid, name in _tree(root):
        if name == _SERVER:
            continue
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) << 10 for line in lines if line[:4] == "Pss:"), 0)
    return total


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder, as the disk counts it."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_blocks * 512  # noqa: PTH118 - quick
            except OSError:
                continue
    return total


class _Sampler(threading.Thread):
    """Looks at a process tree's memory and at a folder while it runs."""

    def __init__(self, pid: int, folder: Path | None) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._folder = folder
        self.over = threading.Event()
        self.peak_bytes = 0
        self.disk_bytes = 0

    def run(self) -> None:
        looked = time.monotonic()
        while not self.over.wait(_MEMORY_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, _memory(self._pid))
            if self._folder is not None and time.monotonic() - looked >= _DISK_EVERY_S:
                self.disk_bytes = max(self.disk_bytes, folder_bytes(self._folder))
                looked = time.monotonic()


def measured(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    postmaster: int | None = None,
    work_dir: Path | None = None,
) -> Cost:
    """Run a command to its end and return what it cost.

    :raises RuntimeError: it failed; the end of its stderr is in the message.
    """
    before_s = cpu_of_server(postmaster) if postmaster else 0.0
    begun = time.monotonic()
    with subprocess.Popen(
        list(words),
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        sampler = _Sampler(child.pid, work_dir)
        sampler.start()
        said: list[str] = []
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        assert child.stderr is not None  # noqa: S101
        errors = child.stderr
        reader = threading.Thread(target=lambda: said.append(errors.read()))
        reader.start()
        stdout = child.stdout.read()
        reader.join()
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.over.set()
        sampler.join()
    if child.returncode:
        raise RuntimeError(f"{words[0]} failed: {stdout[-1000:]}{''.join(said)[-2000:]}")
    after_s = cpu_of_server(postmaster) if postmaster else 0.0
    return Cost(
        wall_s,
        usage.ru_utime + usage.ru_stime,
        after_s - before_s,
        sampler.peak_bytes,
        sampler.disk_bytes,
        stdout,
    )
