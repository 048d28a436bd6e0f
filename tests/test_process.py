"""Children, and what they leave."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from dagster_resil import logs
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.process import Child, ProcessTimeout, run


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
