from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dagster_resil import logs
from dagster_resil.errors import VaultError

SECRET = "p\"a\\s's wörd/1"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = logging.getLogger("dagster_resil")
    before = (package.handlers, package.level, package.propagate)
    monkeypatch.setattr(logs, "_secrets", set())
    yield
    package.handlers, package.propagate = before[0], before[2]
    package.setLevel(before[1])


log = logging.getLogger("dagster_resil.vault.local")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raise_with(text: str) -> None:
    try:
        try:
            raise ValueError(f"inner {text}")
        except ValueError as error:
            raise VaultError(f"outer {text}", hint=text) from error
    except VaultError:
        log.exception("it failed")


def test_a_terminal_gets_plain_lines() -> None:
    stream = Terminal()
    logs.configure(logging.INFO, stream=stream)
    log.debug("too much")
    log.info("took %s", "shop")
    log.warning("look out", extra={"rows": 3})

    assert stream.getvalue() == "took shop\nwarning: look out\n"


def test_anything_else_gets_one_object_a_line() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    begun = datetime.now(UTC)
    log.info("two\nlines", extra={"rows": 3, "backup_id": "shop-1", "share": 0.5, "none": None})
    log.error("bad")

    first, second = lines_of(stream)
    moment = datetime.fromisoformat(first.pop("time"))
    assert abs((moment - begun).total_seconds()) < 10
    assert moment.tzinfo is not None
    assert first == {
        "message": "two\nlines",
        "severity": "INFO",
        "logger": "dagster_resil.vault.local",
        "rows": 3,
        "backup_id": "shop-1",
        "share": 0.5,
        "none": None,
    }
    assert second["severity"] == "ERROR"
    assert second["time"].endswith("Z")


def test_the_form_can_be_chosen() -> None:
    stream = Terminal()
    logs.configure(stream=stream, as_json=True)
    log.info("one")
    assert lines_of(stream)[0]["message"] == "one"

    stream = Terminal()
    logs.configure(stream=stream, as_json=False)
    log.info("one")
    assert stream.getvalue() == "one\n"


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.info("one")

    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["message"] == "one"


def test_configuring_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(stream=first)
    logs.configure(logging.WARNING, stream=second)
    log.info("no")
    log.warning("yes")

    assert first.getvalue() == ""
    assert [line["message"] for line in lines_of(second)] == ["yes"]


def test_an_exception_is_in_the_object() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    raise_with("text")

    (line,) = lines_of(stream)
    assert line["message"] == "it failed"
    assert "ValueError: inner text" in line["exc_info"]
    assert "hint: text" in line["exc_info"]


def test_values_that_json_does_not_know_are_told() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    odd = {
        "path": Path("/a"),
        "moment": datetime(2026, 3, 1, tzinfo=UTC),
        "nan": float("nan"),
        "both": {"a": (1, {2})},
        "error": ValueError("x"),
        "severity": "mine",
    }
    log.info("odd", extra=odd)

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    line = json.loads(stream.getvalue(), parse_constant=refuse)
    assert line["path"] == "/a"
    assert line["moment"] == "2026-03-01T00:00:00+00:00"
    assert line["nan"] == "nan"
    assert line["both"] == {"a": [1, [2]]}
    assert line["error"] == "x"
    assert line["severity"] == "INFO"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_registered_secret_never_gets_out(terminal: bool) -> None:
    logs.register_secret(SECRET)
    stream = Terminal() if terminal else io.StringIO()
    logs.configure(stream=stream)
    log.info("plain %s", SECRET)
    log.info("quoted %r", SECRET)
    log.info("in a URL %s", "p%22a%5Cs%27s%20w%C3%B6rd%2F1")
    log.info("extra", extra={"field": SECRET, "deep": {"list": [SECRET], SECRET: 1}})
    log.info("object", extra={"error": ValueError(SECRET)})
    raise_with(SECRET)

    text = stream.getvalue()
    shown = text if terminal else text + repr(lines_of(stream))
    for part in ("wörd", "w\\u00f6rd", "w%C3%B6rd"):
        assert part not in shown
    assert shown.count("…") + shown.count("\\u2026") >= 5


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://u:pw@h/d", "postgresql://u:…@h/d"),
        ("at postgresql://u:pw@h/d now", "at postgresql://u:…@h/d now"),
        ("POSTGRES://u:pw@h", "POSTGRES://u:…@h"),
        ("redis://:pw@h", "redis://:…@h"),
        ("postgresql://u:p@w@h/d", "postgresql://u:…@h/d"),
        ("postgresql://u:p/w@h/d", "postgresql://u:…@h/d"),
        ("postgresql://u:12ab@h/d", "postgresql://u:…@h/d"),
        ("postgresql://u:1234@h/d", "postgresql://u:…@h/d"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("see http://localhost:3000, mail a@b", "see http://localhost:3000, mail a@b"),
        ("file:///srv/a:b@c", "file:///srv/a:b@c"),
        ("host=h password=pw dbname=d", "host=h password=… dbname=d"),
        ("password = 'p w\\'x' host=h", "password = … host=h"),
        ('connect(password="p w", host="h")', 'connect(password=…, host="h")'),
        ("PGPASSWORD=pw psql", "PGPASSWORD=… psql"),
        ("passfile=/a/password", "passfile=/a/password"),
        ("no password here", "no password here"),
    ],
)
def test_passwords_that_look_like_one_are_redacted(text: str, redacted: str) -> None:
    assert logs.redact(text) == redacted
    stream = io.StringIO()
    logs.configure(stream=stream)
    log.info(text)
    raise_with(text)
    message, failure = lines_of(stream)
    assert message["message"] == redacted
    assert f"ValueError: inner {redacted}" in failure["exc_info"]


_CPU_S = 20
_REDACT = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, ({_CPU_S}, {_CPU_S}))
from dagster_resil import logs
for text in ("a-" * 400_000, "a://x:" * 60_000, "password='" * 20_000):
    logs.redact(text)
"""


def test_the_time_to_redact_grows_with_the_length() -> None:
    """It takes a second; with the square of the length it would take minutes and be killed."""
    subprocess.run([sys.executable, "-c", _REDACT], check=True, timeout=250)


def test_the_longer_secret_goes_first() -> None:
    logs.register_secret("secret")
    logs.register_secret("secret-and-more")

    assert logs.redact("a secret-and-more b secret c") == "a … b … c"


def test_what_is_too_short_to_be_a_secret_hides_nothing() -> None:
    logs.register_secret("a")
    logs.register_secret("")

    assert logs.redact("a banana") == "a banana"


def test_a_broken_record_tells_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    logs.register_secret("very-secret")
    logs.configure(stream=io.StringIO())
    log.info("%d", "very-secret")

    err = capsys.readouterr().err
    assert "TypeError" in err
    assert "very-secret" not in err


def test_threads_write_whole_lines() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)

    def work(number: int) -> None:
        for turn in range(100):
            logs.register_secret(f"secret-{number}-{turn}")
            log.info("now secret-%d-%d", number, turn, extra={"number": number})

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(stream)
    assert len(lines) == 800
    assert not any("secret-" in line["message"] for line in lines)
