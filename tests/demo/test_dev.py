"""``make dev``, as somebody has it in a terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

_TIMEOUT_S = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, each with what tells it from a later one of its number."""
    found: dict[int, str] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found |= {child: started(child), **descendants(child)}
    return found


def started(pid: int) -> str:
    """Return when a process has started; nothing where there is none, or none that runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_says_what_there_is_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends it; what nobody can catch ends what it has started, too."""
    caught = number == signal.SIGINT
    port = free_port()
    folder = tmp_path / "laptop"
    command = [sys.executable, "-m", "dagster_resil.demo.dev", "--port", str(port)]
    lines: list[str] = []
    ready = threading.Event()
    with subprocess.Popen(
        [*command, "--folder", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    ) as dev:

        def read() -> None:
            assert dev.stderr is not None
            for line in dev.stderr:
                lines.append(line)
                if "days to backfill" in line:
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert ready.wait(_TIMEOUT_S), lines
            answer = requests.get(f"http://127.0.0.1:{port}/server_info", timeout=30)
            assert answer.status_code == 200
            children = descendants(dev.pid)
            assert len(children) > 10  # servers, local cloud, webserver, daemon, code server
            begun = time.monotonic()
            dev.send_signal(number)
            assert dev.wait(timeout=60) == (0 if caught else -number), lines
            took_s = time.monotonic() - begun
        finally:
            dev.kill()
            reader.join()
    said = "".join(lines)
    for words in (
        f"Dagster is at http://localhost:{port}",
        "backups go to gs://resil-europe-west1/vault",
        "instance local:europe-west1:shop, its replica shop-us-east1, 3 days to backfill",
        *(["ended; the data stays"] if caught else []),
    ):
        assert words in said, said
    assert "Traceback" not in said
    assert took_s < 60
    while alive := [pid for pid, when in children.items() if when and started(pid) == when]:
        assert time.monotonic() < begun + 60, alive
        time.sleep(0.1)
    assert (folder / "cloud").is_dir()
