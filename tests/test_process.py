"""Children, and what they leave."""

from __future__ import annotations

import io
import json
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dagster_resil import logs
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.process import Child, ProcessTimeout, run
from dagster_resil.workspace import Workspace, work_root


def test_output_and_errors_are_kept() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr, done.ok) == (3, "out\n", "err\n", False)
    assert done.complaint == "err"
    assert run(["sh", "-c", "kill -9 $$"]).complaint == "sh was killed by SIGKILL"
    assert run(["sh", "-c", "exit 5"]).complaint == "sh exited with status 5"


def test_much_output_does_not_block() -> None:
    done = run([sys.executable, "-c", "import sys; sys.stderr.write('x' * 3_000_000)"])
    assert done.ok
    assert len(done.stderr) == 256 * 1024


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_group_is_gone_in_every_ending(tmp_path: Path, stubborn: bool) -> None:
    file = tmp_path / "pid"
    trap = "trap '' TERM; " if stubborn else ""
    script = f"{trap}sh -c '{trap.replace(chr(39), chr(34))}sleep 60' & echo $! > {file}; wait"
    begun = time.monotonic()
    with pytest.raises(ProcessTimeout):
        run(["sh", "-c", script], timeout_s=0.5)
    assert not _alive(int(file.read_text()))
    assert time.monotonic() - begun < 20


def test_an_interrupt_does_not_lose_a_child_that_has_just_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(real(*words, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(KeyboardInterrupt):
        Child(["sleep", "60"])
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0].pid, 0)


def test_an_interrupt_does_not_leave_a_child_waited_for_for_ever() -> None:
    class Lock:
        """subprocess's own lock, with an interrupt just after it is taken."""

        def __init__(self, lock: Any) -> None:
            self.lock = lock
            self.interrupts = 1

        def acquire(self, blocking: bool = True) -> bool:
            taken: bool = self.lock.acquire(blocking)
            if self.interrupts:
                self.interrupts -= 1
                os.kill(os.getpid(), signal.SIGINT)
            return taken

        def release(self) -> None:
            self.lock.release()

    begun = time.monotonic()
    with Child(["sleep", "60"]) as child:
        child._popen._waitpid_lock = Lock(child._popen._waitpid_lock)  # type: ignore[union-attr]
        with pytest.raises(KeyboardInterrupt):
            child.wait()
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_a_signal_that_nohup_holds_off_stays_held_off() -> None:
    script = (
        "import os, signal; from dagster_resil.process import on_stop; "
        "on_stop(lambda number, frame: print(number, flush=True)); "
        "[os.kill(os.getpid(), n) for n in (signal.SIGHUP, signal.SIGTERM)]"
    )
    done = run(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", script])
    assert (done.stdout, done.returncode) == (f"{signal.SIGTERM:d}\n", 0), done.stderr


@pytest.mark.parametrize(
    "call", ["pathlib.Path.mkdir", "os.open", "fcntl.flock", "pathlib.Path.rename"]
)
def test_an_interrupt_leaves_no_half_made_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    workspace = Workspace(tmp_path)
    module, _, name = call.rpartition(".")
    real = getattr(pkgutil.resolve_name(module), name)

    def interrupted(*words: Any, **options: Any) -> Any:
        monkeypatch.undo()  # once
        real(*words, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(call, interrupted)
    with pytest.raises(KeyboardInterrupt), workspace:
        pass
    assert list(work_root(tmp_path).iterdir()) == []


def test_watching_can_end_a_child() -> None:
    def watch() -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), Child(["sleep", "60"]) as child:
        child.wait(watch=watch)
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_no_secret_gets_into_a_log() -> None:
    stream = io.StringIO()
    package = logging.getLogger("dagster_resil")
    before = (package.handlers, package.level, package.propagate)
    try:
        logs.configure(stream=stream)
        logs.register_secret("hunter2-secret")
        log = logging.getLogger("dagster_resil.test")
        log.warning("connecting to postgresql://user:abc@host/db", extra={"rows": 3})
        try:
            raise ValueError("wrong: hunter2-secret")
        except ValueError:
            log.exception("failed with password=swordfish here")
    finally:
        package.handlers, package.level, package.propagate = before
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["severity"] == "WARNING"
    assert lines[0]["rows"] == 3
    assert lines[0]["time"].endswith("Z")
    assert lines[0]["message"] == "connecting to postgresql://user:…@host/db"
    for secret in ("abc@", "hunter2-secret", "swordfish"):
        assert secret not in stream.getvalue()


def test_an_endpoint_shows_no_password() -> None:
    endpoint = Endpoint.parse("postgresql://me:s%40cret@db.example:6432/app?sslmode=require")
    assert endpoint.password == "s@cret"
    assert endpoint.password_in_url
    shown = f"{endpoint!r} {endpoint.describe()} {endpoint.child_arguments()}"
    assert "s@cret" not in shown
    assert endpoint.describe() == "db.example:6432/app"
    assert endpoint.child_environment()["PGPASSWORD"] == "s@cret"
    assert "sslmode=require" in endpoint.child_arguments()[0]
