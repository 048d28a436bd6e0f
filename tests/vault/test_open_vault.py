from __future__ import annotations

from pathlib import Path

import pytest

from dagster_resil.errors import ConfigurationError
from dagster_resil.vault import open_vault
from dagster_resil.vault.gcs import GcsVault
from dagster_resil.vault.local import LocalVault


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/backups", "/srv/backups"),
        ("file:///srv/backups/", "/srv/backups"),
        ("FILE:///srv/backups", "/srv/backups"),
        ("file:/srv/backups", "/srv/backups"),
        ("file://localhost/srv", "/srv"),
        ("file:///srv/a%20b%23%3Fc", "/srv/a b#?c"),
        ("file:///srv/a b", "/srv/a b"),
        ("file:///srv/%C3%A4", "/srv/ä"),
    ],
)
def test_a_file_url_names_a_folder(url: str, path: str) -> None:
    vault = open_vault(url)

    assert isinstance(vault, LocalVault)
    assert vault.path == Path(path)
    again = open_vault(vault.url)
    assert isinstance(again, LocalVault)
    assert again.path == vault.path


@pytest.mark.parametrize(
    ("url", "bucket", "prefix", "shown"),
    [
        ("gs://backups", "backups", "", "gs://backups"),
        ("gs://backups/", "backups", "", "gs://backups"),
        ("GS://my.backups_1/a/b/", "my.backups_1", "a/b/", "gs://my.backups_1/a/b"),
        ("gs://backups/a%20b%23", "backups", "a b#/", "gs://backups/a%20b%23"),
    ],
)
def test_a_gs_url_names_a_bucket_and_a_prefix(
    url: str, bucket: str, prefix: str, shown: str
) -> None:
    vault = open_vault(url)

    assert isinstance(vault, GcsVault)
    assert (vault.bucket_name, vault.prefix, vault.url) == (bucket, prefix, shown)


def test_bytes_that_are_no_text_survive() -> None:
    vault = open_vault("file:///srv/%FF")

    assert vault.url == "file:///srv/%FF"


def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_vault((tmp_path / "vault").as_uri())
    assert not (tmp_path / "vault").exists()


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("./vault", "is a URL", f"use {(Path.cwd() / 'vault').as_uri()}"),
        ("vault", "is a URL", f"use {(Path.cwd() / 'vault').as_uri()}"),
        ("/srv/my backups", "is a URL", "use file:///srv/my%20backups"),
        ("~/vault", "is a URL", f"use {(Path.home() / 'vault').as_uri()}"),
        ("", "is a URL", "use file:///srv/backups"),
        ("file:vault", "relative path", f"{(Path.cwd() / 'vault').as_uri()}"),
        ("file://vault", "relative path", f"{(Path.cwd() / 'vault').as_uri()}"),
        ("file://srv/backups", "relative path", f"{(Path.cwd() / 'srv/backups').as_uri()}"),
        ("file://", "relative path", "file:///"),
        ("file:///", "names no folder", "file:///srv/backups"),
        ("file:///srv/a#b", "has a ? or #", "%23"),
        ("file:///srv/a?b", "has a ? or #", "%3F"),
        ("file:///srv/a#", "has a ? or #", "%23"),
        ("file:///srv/a%00b", "names no folder", "file:///"),
        ("file:///srv/a\tb", "control character", "file:///"),
        ("file:///srv/a\n", "control character", "file:///"),
        ("file://[/x", "is no URL", "file:///"),
        ("gs://", "names no bucket", "gs://bucket/prefix"),
        ("gs:///prefix", "names no bucket", "gs://bucket/prefix"),
        ("gs://My-Bucket/Prefix", "capitals in its bucket's name", "gs://my-bucket/Prefix?"),
        ("gs://b/prefix", "names what can't be a bucket", "gs://bucket/prefix"),
        ("gs://user:secret-word@bucket/prefix", "names no bucket", "gs://bucket/prefix"),
        ("gs://bucket/a//b", "has a prefix", "gs://bucket/prefix"),
        ("gs://bucket/.hidden", "has a prefix", "gs://bucket/prefix"),
        ("gs://bucket/a#b", "has a ? or #", "%23"),
        ("s3://bucket", "can't begin with 's3'", "file:///path"),
        ("postgresql://u:secret-word@h/db", "can't begin with 'postgresql'", "file:///path"),
    ],
)
def test_what_is_no_vault_is_refused_with_the_right_form(url: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        open_vault(url)
    assert message in error.value.message
    assert hint in error.value.hint
    assert "secret-word" not in str(error.value)


def test_a_password_in_a_vaults_address_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as error:
        open_vault("file://user:secret-word@host/srv")
    assert "secret-word" not in str(error.value)
