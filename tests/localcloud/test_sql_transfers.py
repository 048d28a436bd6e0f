"""Exports and imports of Cloud SQL, to and from Cloud Storage by the instance's own identity."""

from __future__ import annotations

import gzip
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import storage
from googleapiclient.errors import HttpError

from dagster_resil.postgres.programs import client_for
from tests.localcloud.cloudsql import PASSWORD, PROJECT, CloudSql, reason

WRITE = ["storage.objects.create"]
READ = ["storage.objects.get", "storage.objects.list"]
FOLDER = [*WRITE, "storage.objects.list", "storage.objects.delete"]


@pytest.fixture
def bucket(sql: CloudSql) -> storage.Bucket:
    return sql.cloud.bucket()


def grant(sql: CloudSql, instance: str, bucket: storage.Bucket, *permissions: str) -> str:
    email = str(sql.get(instance)["serviceAccountEmailAddress"])
    assert sql.allow(email, places={bucket.name: list(permissions)}) == email
    return email


def export(sql: CloudSql, instance: str, uri: str, database: str = "shop", **options: Any) -> Any:
    context: dict[str, Any] = {"fileType": "SQL", "uri": uri, "databases": [database]}
    if options:
        context["sqlExportOptions"] = options
    return sql.instances.export(project=PROJECT, instance=instance, body={"exportContext": context})


def import_(sql: CloudSql, instance: str, uri: str, database: str = "shop", **options: Any) -> Any:
    context: dict[str, Any] = {"fileType": "SQL", "uri": uri, "database": database}
    user = options.pop("importUser", None)
    if user:
        context["importUser"] = user
    if options:
        context["sqlImportOptions"] = options
    return sql.instances.import_(
        project=PROJECT, instance=instance, body={"importContext": context}
    )


def filled(sql: CloudSql, **fields: Any) -> str:
    """Make an instance with a database that has an owner of its own."""
    name = sql.make(**fields)
    add_database(sql, name)
    sql.execute(
        name,
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "INSERT INTO item SELECT g, 'item ' || g FROM generate_series(1, 500) g",
        "CREATE VIEW cheap AS SELECT * FROM item WHERE id < 10",
        "SELECT lo_from_bytea(0, 'large')",
        database="shop",
        user="app",
    )
    return name


def add_database(sql: CloudSql, name: str) -> None:
    where = {"project": PROJECT, "instance": name}
    user = {"name": "app", "password": PASSWORD}
    sql.done(sql.api().users().insert(**where, body=user))
    sql.done(sql.api().databases().insert(**where, body={"name": "shop"}))


CONTENT = "SELECT count(*), min(name), sum(id) FROM item"
OWNER = "SELECT tableowner FROM pg_tables WHERE tablename = 'item'"


@pytest.mark.parametrize("major", [15, 17])
@pytest.mark.parametrize("form", ["plain", "gz", "folder"])
def test_an_export_comes_back(sql: CloudSql, bucket: storage.Bucket, major: int, form: str) -> None:
    source, target = filled(sql, major=major), sql.make(major=major)
    add_database(sql, target)
    grant(sql, source, bucket, *(FOLDER if form == "folder" else WRITE))
    grant(sql, target, bucket, *READ)
    name = {"plain": "run.sql", "gz": "run.sql.gz", "folder": "run"}[form]
    uri = f"gs://{bucket.name}/exports/{name}"
    options: Any = {"parallel": True, "threads": 2} if form == "folder" else {}
    operation = sql.done(export(sql, source, uri, **options))
    assert operation["operationType"] == "EXPORT"
    assert operation["exportContext"]["uri"] == uri
    operation = sql.done(import_(sql, target, uri, **options))
    assert operation["operationType"] == "IMPORT"
    assert sql.rows(target, CONTENT, database="shop", user="app") == [(500, "item 1", 125250)]
    assert sql.rows(target, "SELECT count(*) FROM cheap", database="shop", user="app") == [(9,)]
    assert sql.rows(target, OWNER, database="shop") == [("app",)]
    names = [each.name for each in bucket.list_blobs()]
    if form != "folder":
        data = bucket.blob(f"exports/{name}").download_as_bytes(raw_download=True)
        text = gzip.decompress(data) if form == "gz" else data
        assert text.startswith(b"--\n-- PostgreSQL database dump")
        assert names == [f"exports/{name}"]
    else:
        assert f"exports/{name}/toc.dat.gz" in names
        assert all(
            re.fullmatch(r"exports/run/(.+\.dat\.gz|toc\.dat|.+\.toc)\.gz", n) for n in names
        )


def test_a_folder_is_compressed_twice(
    sql: CloudSql, bucket: storage.Bucket, tmp_path: Path
) -> None:
    source = filled(sql)
    grant(sql, source, bucket, *FOLDER)
    sql.done(export(sql, source, f"gs://{bucket.name}/run", parallel=True))
    restore = client_for(15).path("pg_restore")
    for blob in bucket.list_blobs():
        data = gzip.decompress(blob.download_as_bytes(raw_download=True))
        (tmp_path / blob.name.split("/")[1].removesuffix(".gz")).write_bytes(data)
    listed = subprocess.run(
        [restore, "--list", tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert "TABLE DATA public item app" in listed
    script = subprocess.run(
        [restore, "--file=-", tmp_path], capture_output=True, text=True, check=True
    ).stdout
    assert "500\titem 500" in script
    assert "ALTER TABLE public.item OWNER TO app" in script


def test_what_is_there_is_not_replaced(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    grant(sql, source, bucket, *FOLDER)
    forms: tuple[tuple[str, Any], ...] = (("x.sql.gz", {}), ("folder/", {"parallel": True}))
    for name, options in forms:
        uri = f"gs://{bucket.name}/{name}"
        sql.done(export(sql, source, uri, **options))
        before = [(each.name, each.generation) for each in bucket.list_blobs()]
        assert "already exists" in sql.failed(export(sql, source, uri, **options))["message"]
        assert [(each.name, each.generation) for each in bucket.list_blobs()] == before


def test_rights_on_the_bucket(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    email = str(sql.get(source)["serviceAccountEmailAddress"])
    uri = f"gs://{bucket.name}/x.sql"
    missing = f"Access denied for service account {email}, permissions missing are: "
    error = sql.failed(export(sql, source, uri))
    assert error["message"] == f"{missing}[storage.objects.create]"
    grant(sql, source, bucket, *WRITE)
    for wanted, had in (
        ("storage.objects.list", WRITE),
        ("storage.objects.delete", [*WRITE, "storage.objects.list"]),
    ):
        grant(sql, source, bucket, *had)
        error = sql.failed(export(sql, source, f"gs://{bucket.name}/folder", parallel=True))
        assert error["message"] == f"{missing}[{wanted}]"
    error = sql.failed(import_(sql, source, uri))
    assert error["message"] == f"{missing}[storage.objects.get]"
    assert list(bucket.list_blobs()) == []
    grant(sql, source, bucket, "storage.*")
    sql.cloud.fault("denied", permission="storage.objects.create", caller="*gcp-sa-cloud-sql*")
    assert sql.failed(export(sql, source, uri))["message"].startswith(missing)
    nowhere = f"gs://{secrets.token_hex(8)}/x"
    sql.allow(email, places={"*": ["storage.*"]})
    sql.cloud.mend()
    assert "does not exist" in sql.failed(export(sql, source, nowhere))["message"]
    assert "No such object" in sql.failed(import_(sql, source, f"{uri}.none"))["message"]


def test_rights_by_the_buckets_policy(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    email = str(sql.get(source)["serviceAccountEmailAddress"])
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append(
        {"role": "roles/storage.objectCreator", "members": {f"serviceAccount:{email}"}}
    )
    bucket.set_iam_policy(policy)
    sql.done(export(sql, source, f"gs://{bucket.name}/x.sql"))
    error = sql.failed(import_(sql, source, f"gs://{bucket.name}/x.sql"))
    assert "[storage.objects.get]" in error["message"]
    other = sql.cloud.bucket()
    error = sql.failed(export(sql, source, f"gs://{other.name}/x.sql"))
    assert "[storage.objects.create]" in error["message"]
    # What was read before somebody else changed it changes nothing.
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.set_iam_policy(policy)
    again = bucket.get_iam_policy()
    assert [each["role"] for each in again.bindings] == ["roles/storage.objectCreator"]
    bucket.reload()
    assert "iamPolicy" not in bucket._properties
    for members, role in (({"allUsers"}, "roles/storage.objectViewer"), ({"x:y"}, "roles/owner")):
        again.bindings = [{"role": role, "members": members}]
        with pytest.raises(exceptions.GoogleAPICallError):
            bucket.set_iam_policy(again)
    again.bindings = []
    bucket.set_iam_policy(again)
    error = sql.failed(export(sql, source, f"gs://{bucket.name}/y.sql"))
    assert "[storage.objects.create]" in error["message"]


def test_an_import_that_fails_leaves_a_part(sql: CloudSql, bucket: storage.Bucket) -> None:
    target = sql.make()
    add_database(sql, target)
    grant(sql, target, bucket, *READ)
    bucket.blob("bad.sql").upload_from_string(
        "CREATE TABLE first (x int);\nCREATE TABLE second (x no_such_type);\nCREATE TABLE third ();"
    )
    error = sql.failed(import_(sql, target, f"gs://{bucket.name}/bad.sql"))
    assert 'type "no_such_type" does not exist' in error["message"]
    assert error["code"] == "ERROR_RDBMS"
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert sql.rows(target, tables, database="shop") == [("first",)]

    bucket.blob("cut.sql.gz").upload_from_string(gzip.compress(b"SELECT 1;\n" * 9999)[:50])
    assert sql.failed(import_(sql, target, f"gs://{bucket.name}/cut.sql.gz"))["code"]


def test_an_import_has_no_superuser(sql: CloudSql, bucket: storage.Bucket) -> None:
    target = sql.make()
    add_database(sql, target)
    grant(sql, target, bucket, *READ)
    uri = f"gs://{bucket.name}/x.sql"
    for text in ("CREATE ROLE evil SUPERUSER;", "SELECT * FROM pg_authid;"):
        bucket.blob("x.sql").upload_from_string(text)
        assert sql.failed(import_(sql, target, uri))["code"] == "ERROR_RDBMS"
    bucket.blob("x.sql").upload_from_string("CREATE TABLE mine (); SELECT 1;")
    sql.done(import_(sql, target, uri, importUser="app"))
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'mine'"
    assert sql.rows(target, owner, database="shop") == [("app",)]


def test_parts_of_a_database(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    grant(sql, source, bucket, *WRITE)

    def text(**options: Any) -> str:
        name = f"{secrets.token_hex(4)}.sql"
        sql.done(export(sql, source, f"gs://{bucket.name}/{name}", **options))
        return str(bucket.blob(name).download_as_bytes().decode())

    assert "COPY public.item" not in text(schemaOnly=True)
    assert "cheap" not in text(tables=["item"])
    assert "DROP VIEW IF EXISTS" in text(postgresExportOptions={"clean": True, "ifExists": True})
    for database in ("cloudsqladmin", "template1", "none"):
        uri = f"gs://{bucket.name}/{secrets.token_hex(4)}"
        error = sql.failed(export(sql, source, uri, database))
        assert "does not exist" in error["message"]
    for wrong in (
        {"fileType": "SQL", "uri": "file:///x", "databases": ["shop"]},
        {"fileType": "SQL", "uri": "gs://bucket/x"},
        {"fileType": "SQL", "uri": "gs://bucket/x", "databases": ["a", "b"]},
        {"fileType": "BAK", "uri": "gs://bucket/x", "databases": ["shop"]},
        {"uri": "gs://bucket/x", "databases": ["shop"]},
        {},
    ):
        with pytest.raises(HttpError) as refused:
            sql.instances.export(
                project=PROJECT, instance=source, body={"exportContext": wrong}
            ).execute()
        assert reason(refused) == (400, "invalidRequest")


def test_exports_that_are_damaged_on_purpose(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    grant(sql, source, bucket, *WRITE)
    sql.done(export(sql, source, f"gs://{bucket.name}/whole.sql"))
    whole = bucket.blob("whole.sql").download_as_bytes()
    for kind, name in (("export_truncated", "short.sql"), ("export_corrupted", "bad.sql")):
        with sql.cloud.failing(kind, at_byte=1000, instance=source):
            sql.done(export(sql, source, f"gs://{bucket.name}/{name}"))
    assert len(bucket.blob("short.sql").download_as_bytes()) == 1000
    bad = bucket.blob("bad.sql").download_as_bytes()
    # Each dump has a token of its own, behind the first lines; the bit is not there.
    assert len(bad) == len(whole)
    assert bad[1000] == whole[1000] ^ 1


def test_an_export_of_a_replica(sql: CloudSql, bucket: storage.Bucket) -> None:
    source = filled(sql)
    replica = sql.make_replica(source)
    grant(sql, replica, bucket, *WRITE)
    sql.done(export(sql, replica, f"gs://{bucket.name}/x.sql"))
    assert b"item 500" in bucket.blob("x.sql").download_as_bytes()
    with pytest.raises(HttpError, match="read replica"):
        import_(sql, replica, f"gs://{bucket.name}/x.sql").execute()
    with pytest.raises(HttpError, match="read replica"):
        sql.api().users().insert(
            project=PROJECT, instance=replica, body={"name": "x", "password": "y"}
        ).execute()
