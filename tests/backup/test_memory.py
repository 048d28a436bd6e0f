"""Memory does not follow the size of the database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dagster_resil.demo.laptop import url_of
from dagster_resil.postgres.connection import Endpoint
from tests.backup.test_kill_anywhere import work_folder
from tests.conftest import Source

# The peak of this process alone, children apart: ru_maxrss would begin with the test's own.
RESIL = """
import re, sys
from pathlib import Path
from dagster_resil.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print("peak", re.search(r"VmHWM:\\s*(\\d+) kB", status)[1], file=sys.stderr)
"""
GROWS_MB = 20
"""More than a part for each job, of the ordinary test's part size, and what an allocator keeps."""
ALL_MB = 200
"""pandas and its libraries take 100 MB, of which a system counts the mapped files in its own way."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="asks Linux for a process's peak"
)


@dataclass
class Resil:
    """Runs the command on a vault of its own, and says what memory it took."""

    folder: Path
    work_dir: Path

    def peak_mb(self, *words: str) -> float:
        done = subprocess.run(
            [
                *(sys.executable, "-c", RESIL, *words, "--json"),
                f"--work-dir={self.work_dir}",
                f"--vault={(self.folder / 'vault').as_uri()}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        if words[0] == "verify":
            assert json.loads(done.stdout)["verdict"] == "PASS"
        return int(done.stderr.split("peak ")[-1]) / 1024

    def peaks_mb(self, endpoint: Endpoint, name: str, *options: str) -> tuple[float, float]:
        """Back up and verify; return the peak of either."""
        url = url_of(endpoint)
        return (
            self.peak_mb("backup", url, "--name", name, *options),
            self.peak_mb("verify", "latest", "--name", name),
        )


@pytest.fixture
def resil(tmp_path: Path) -> Iterator[Resil]:
    with work_folder() as work_dir:
        yield Resil(tmp_path, work_dir)


def with_rows(source: Source, megabytes: int) -> Endpoint:
    """Make a table of that size, of which hardly anything compresses."""
    endpoint = source.create()
    source.execute(
        endpoint,
        "CREATE TABLE t (a int, b bytea)",
        "ALTER TABLE t ALTER b SET STORAGE PLAIN",
        # Eight times the 32 bytes of a hash, in a row of about 290 bytes.
        "INSERT INTO t SELECT n, (SELECT string_agg(sha256((n * 8 + k)::text::bytea), '') "
        f"FROM generate_series(1, 8) k) FROM generate_series(1, {megabytes * 3500}) n",
    )
    return endpoint


def assert_bounded(small: tuple[float, float], large: tuple[float, float]) -> None:
    for which, (before, after) in {
        "backup": (small[0], large[0]),
        "verify": (small[1], large[1]),
    }.items():
        assert after - before < GROWS_MB, f"{which}: {before:.0f} MB, then {after:.0f} MB"
        assert after < ALL_MB, f"{which}: {after:.0f} MB"


def test_ten_times_the_rows_take_no_more_memory(one_source: Source, resil: Resil) -> None:
    small, large = (
        resil.peaks_mb(with_rows(one_source, size), f"rows_{size}", "--part-size", "1MiB")
        for size in (10, 100)
    )
    assert_bounded(small, large)


@pytest.mark.long
def test_ten_times_the_rows_take_no_more_memory_with_parts_of_the_usual_size(
    one_source: Source, resil: Resil
) -> None:
    # A part for each of two jobs is in memory from the first on.
    small, large = (
        resil.peaks_mb(with_rows(one_source, size), f"rows_{size}", "--part-size", "16MiB")
        for size in (60, 600)
    )
    assert_bounded(small, large)


def test_a_very_compressible_table_takes_no_more_memory(one_source: Source, resil: Resil) -> None:
    """A megabyte of gzip holds hundreds of them."""
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "CREATE TABLE t (a text)",
        "INSERT INTO t SELECT repeat('x', 1900) FROM generate_series(1, 60000)",
        # A value that is far larger than a piece.
        "CREATE TABLE huge (a text)",
        "INSERT INTO huge SELECT repeat('y', 50000000)",
    )
    small = resil.peaks_mb(with_rows(one_source, 10), "rows", "--part-size", "1MiB")
    assert_bounded(small, resil.peaks_mb(endpoint, "zeros", "--part-size", "1MiB"))


@pytest.mark.long
def test_a_large_large_object_takes_no_more_memory(one_source: Source, resil: Resil) -> None:
    """pg_dump writes it to the work folder first, and that is all that it costs."""
    endpoint = one_source.create()
    one_source.execute(
        endpoint,
        "SELECT lo_create(4711)",
        "DO $$ BEGIN FOR n IN 0..24 LOOP PERFORM lo_put(4711, n * 10000000::bigint, "
        "(SELECT string_agg(sha256((n * 400000 + k)::text::bytea), '') "
        "FROM generate_series(1, 312500) k)); END LOOP; END $$",
    )
    small = resil.peaks_mb(with_rows(one_source, 10), "rows")
    assert_bounded(small, resil.peaks_mb(endpoint, "objects"))
