"""The local cloud as a process: alone, restarted, killed, in the hands of many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from dagster_resil.errors import ResilError
from dagster_resil.localcloud.running import run_local_cloud
from dagster_resil.vault.gcs_client import LOCALCLOUD_VARIABLE
from tests.localcloud.cloud import Cloud, running_cloud

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cloud"


def kill(cloud: Cloud) -> None:
    os.kill(cloud.running.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            requests.get(f"{cloud.url}/localcloud/status", timeout=1)
        except requests.ConnectionError:
            return
    raise AssertionError("it did not die")


def test_it_starts_alone_and_ends_with_a_signal(folder: Path) -> None:
    command = [sys.executable, "-m", "dagster_resil.localcloud", "--folder", str(folder)]
    command += ["--bucket=vault-eu=europe-west1", "--bucket=vault-us=us-east1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        assert document["url"].startswith("http://127.0.0.1:")
        assert {"owner.json", "backup.json", "restorer.json"} <= {
            file.name for file in Path(document["keys"]).iterdir()
        }
        assert all(f.stat().st_mode & 0o077 == 0 for f in Path(document["keys"]).iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_two_do_not_share_a_folder(folder: Path) -> None:
    with (
        running_cloud(folder),
        pytest.raises(ResilError, match="another local cloud uses"),
        run_local_cloud(folder),
    ):
        pass


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with running_cloud(folder) as cloud:
        port = cloud.url.rpartition(":")[2]
        command = [sys.executable, "-m", "dagster_resil.localcloud", "--port", port]
        done = subprocess.run(
            [*command, "--folder", str(folder.with_name("other"))],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"port {port} of this machine is taken" in done.stderr
    assert "hint:" in done.stderr


MISTAKES = {
    "no such location": (["--bucket=my-vault=mars1"], 2, "mars1"),
    "no such name": (["--bucket=My_Vault!=europe-west1"], 2, "My_Vault!"),
    "no location": (["--bucket=my-vault"], 2, "NAME=LOCATION"),
    "elsewhere": (["--bucket=b-1=europe-west1", "--bucket=b-1=us-east1"], 2, "is there, in europe"),
    "no folder": (["--folder=/proc/x"], 4, "/proc/x"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_plain_mistakes_are_told(folder: Path, kind: str) -> None:
    words, code, part = MISTAKES[kind]
    done = subprocess.run(
        [sys.executable, "-m", "dagster_resil.localcloud", "--folder", str(folder), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_it_where_a_script_has_started_it(folder: Path) -> None:
    script = 'trap "" INT; exec "$0" -m dagster_resil.localcloud --folder "$1"'
    with subprocess.Popen(
        ["sh", "-c", script, sys.executable, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_shell_can_be_led_to_it(folder: Path) -> None:
    with running_cloud(folder) as cloud:
        cloud.client().bucket("my-vault").create(location="europe-west1")
        for account, code in (("backup", 0), ("operator", 4)):
            file = cloud.running.environment_file(account)
            assert file.stat().st_mode & 0o077 == 0
            done = subprocess.run(
                [
                    "sh",
                    "-c",
                    f'. "{file}"; exec "$0" -m dagster_resil.cli list --vault gs://my-vault',
                    sys.executable,
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == code, done.stderr
        assert cloud.running.environment()["RESIL_LOCALCLOUD"] == cloud.url
        assert LOCALCLOUD_VARIABLE == "RESIL_LOCALCLOUD"


def test_it_ends_with_the_process_that_started_it(folder: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'dagster_resil.localcloud', '--folder', "
        "sys.argv[1], '--with-parent'], stdout=subprocess.PIPE, text=True, "
        "start_new_session=True)\n"
        "print(child.stdout.readline(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = json.loads(parent.stdout.readline())["pid"]
        parent.kill()
    deadline = time.monotonic() + 20
    while _lives(pid):
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_what_was_written_is_there_after_a_crash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MIB)
    with running_cloud(folder, durable=True) as cloud:
        bucket = cloud.bucket(retentionPolicy={"retentionPeriod": "60"})
        blob = bucket.blob("kept")
        blob.upload_from_string(b"data", if_generation_match=0)
        url = bucket.blob("going on").create_resumable_upload_session(if_generation_match=0)
        http = cloud.client()._http
        header = {"Content-Range": f"bytes 0-{MIB - 1}/{len(data)}"}
        assert http.put(url, data=data[:MIB], headers=header).status_code == 308
        # Half of an upload in one request, and half of a part, are on their way when it dies.
        for method in ("storage.objects.insert", "storage.uploads.put"):
            cloud.fault("slow", method=method, bytes_per_s=200_000, incoming=True)
        half = [
            subprocess.Popen(
                [sys.executable, "-c", _HALF, target, http.credentials.token],
                stderr=subprocess.DEVNULL,
            )
            for target in (
                f"{cloud.url}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=half",
                f"PUT {url}",
            )
        ]
        time.sleep(1.5)
        kill(cloud)
        for process in half:
            process.kill()
            process.wait()
    with running_cloud(folder, durable=True) as cloud:
        again = cloud.client().bucket(bucket.name)
        assert [each.name for each in again.list_blobs()] == ["kept"]
        assert again.get_blob("kept").generation == blob.generation
        assert again.blob("kept").download_as_bytes() == b"data"
        session = cloud.client()._http
        url = f"{cloud.url}/{url.split('/', 3)[3]}"
        told = session.put(url, data=b"", headers={"Content-Range": "bytes */*"})
        assert told.status_code == 308
        begun = int(told.headers["Range"].rpartition("-")[2]) + 1
        assert begun >= MIB
        assert begun % (256 << 10) == 0
        header = {"Content-Range": f"bytes {begun}-{len(data) - 1}/{len(data)}"}
        assert session.put(url, data=data[begun:], headers=header).status_code == 200
        assert again.blob("going on").download_as_bytes(checksum="crc32c") == data
        # Files that no object names are gone.
        files = list((folder / "storage" / "data").glob("*/*"))
        assert len(files) == 2


_HALF = """
import os, sys, requests
verb, _, url = sys.argv[1].rpartition(" ")
headers = {"Authorization": f"Bearer {sys.argv[2]}"}
start = 1 << 20 if verb else 0
if verb:
    headers["Content-Range"] = f"bytes {start}-{3 * (1 << 20) - 1}/{3 * (1 << 20)}"
requests.request(verb or "POST", url, data=b"x" * (2 << 20), headers=headers)
"""


def test_it_starts_again_after_uploads_that_have_ended(folder: Path) -> None:
    with running_cloud(folder) as cloud:
        bucket = cloud.bucket()
        bucket.blob("x").upload_from_string(b"x" * 9 * MIB)  # above 8 MB in parts
        url = bucket.blob("y").create_resumable_upload_session()
        assert cloud.client()._http.delete(url).status_code == 499
    with running_cloud(folder) as cloud:
        assert [each.name for each in cloud.client().list_blobs(bucket.name)] == ["x"]


def test_tokens_and_keys_outlive_a_restart(folder: Path) -> None:
    with running_cloud(folder) as cloud:
        bucket = cloud.bucket()
        bucket.blob("x").upload_from_string(b"data")
        token = cloud.client()._http.credentials.token
    with running_cloud(folder) as cloud:
        answer = requests.get(
            f"{cloud.url}/storage/v1/b/{bucket.name}/o/x",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )
        assert answer.json()["size"] == "4"


def test_a_fault_that_is_none_is_refused(cloud: Cloud) -> None:
    for wrong, words in (
        ({"kind": "nonsense"}, "'nonsense'; one of error, drop, cut, slow, corrupt"),
        ({}, "None; one of error"),
        ({"kind": "error", "colour": "red"}, "colour: Extra"),
        ({"kind": "error", "times": "often"}, "times: Input should be"),
        ({"kind": "error", "method": "storage.object.get"}, "storage.objects.get"),
        ({"kind": "error", "method": "storage.object.*"}, "no method is"),
        ({"kind": "region_gone", "location": "mars1"}, "europe-west1, us-east1"),
        ({"kind": "region_gone"}, "no location is ''"),
    ):
        answer = requests.post(f"{cloud.url}/localcloud/faults", json=wrong, timeout=10)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert words in message
        assert "pydantic" not in message
    assert cloud.struck() == []


def test_a_page_in_a_browser_turns_no_switch(cloud: Cloud) -> None:
    answer = requests.post(
        f"{cloud.url}/localcloud/faults",
        json={"kind": "drop"},
        headers={"Origin": "https://example.com"},
        timeout=10,
    )
    assert answer.status_code == 403
    assert cloud.struck() == []


def test_a_region_that_is_gone_leaves_the_other(cloud: Cloud) -> None:
    here, there = cloud.bucket("europe-west1"), cloud.bucket("us-east1")
    with cloud.failing("region_gone", location="europe-west1"):
        there.blob("x").upload_from_string(b"data", retry=None)
        answer = cloud.client()._http.get(f"{cloud.url}/storage/v1/b/{here.name}/o")
        assert answer.status_code == 503
    assert list(here.list_blobs()) == []
