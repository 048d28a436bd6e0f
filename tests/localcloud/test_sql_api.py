"""The Admin API's contract: what Google's discovery document says, and what was seen of Google."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from googleapiclient.errors import HttpError

from dagster_resil.localcloud.sql.discovery import Document, Method, document
from tests.localcloud.cloudsql import PASSWORD, PROJECT, CloudSql, fits, reason

DONE = {
    "sql.backupRuns.delete": "cloudsql.backupRuns.delete",
    "sql.backupRuns.get": "cloudsql.backupRuns.get",
    "sql.backupRuns.insert": "cloudsql.backupRuns.create",
    "sql.backupRuns.list": "cloudsql.backupRuns.list",
    "sql.connect.get": "cloudsql.instances.get",
    "sql.databases.delete": "cloudsql.databases.delete",
    "sql.databases.get": "cloudsql.databases.get",
    "sql.databases.insert": "cloudsql.databases.create",
    "sql.databases.list": "cloudsql.databases.list",
    "sql.instances.clone": "cloudsql.instances.clone",
    "sql.instances.delete": "cloudsql.instances.delete",
    "sql.instances.export": "cloudsql.instances.export",
    "sql.instances.failover": "cloudsql.instances.failover",
    "sql.instances.get": "cloudsql.instances.get",
    "sql.instances.import": "cloudsql.instances.import",
    "sql.instances.insert": "cloudsql.instances.create",
    "sql.instances.list": "cloudsql.instances.list",
    "sql.instances.patch": "cloudsql.instances.update",
    "sql.instances.promoteReplica": "cloudsql.instances.promoteReplica",
    "sql.instances.restart": "cloudsql.instances.restart",
    "sql.instances.restoreBackup": "cloudsql.instances.restoreBackup",
    "sql.instances.update": "cloudsql.instances.update",
    "sql.operations.cancel": "cloudsql.instances.get",
    "sql.operations.get": "cloudsql.instances.get",
    "sql.operations.list": "cloudsql.instances.get",
    "sql.projects.instances.getLatestRecoveryTime": "cloudsql.instances.get",
    "sql.users.delete": "cloudsql.users.delete",
    "sql.users.get": "cloudsql.users.get",
    "sql.users.insert": "cloudsql.users.create",
    "sql.users.list": "cloudsql.users.list",
    "sql.users.update": "cloudsql.users.update",
}
"""The methods that are done, and the permission that each takes."""

METHODS = {method.id: method for method in document().methods}
WRONG: Mapping[str, Any] = {
    "string": True,  # a number would do for 64 bits
    "boolean": "true",
    "integer": "1",
    "number": "1",
    "array": {},
    "object": [],
}


class Wire:
    """Requests as they are sent, with nothing of Google's client between."""

    def __init__(self, sql: CloudSql) -> None:
        self.url = sql.cloud.url
        self.session = requests.Session()
        credentials = sql.cloud.client()._http.credentials
        if not credentials.valid:
            sql.cloud.client()._http.get(f"{self.url}/storage/v1/b")
        self.token = credentials.token

    def __call__(
        self, verb: str, path: str, body: Any = None, *, token: str | None = None, **query: str
    ) -> requests.Response:
        return self.session.request(
            verb,
            f"{self.url}{path}",
            params=query,
            data=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {token or self.token}"},
            timeout=30,
        )


@pytest.fixture
def wire(sql: CloudSql) -> Iterator[Wire]:
    wire = Wire(sql)
    yield wire
    wire.session.close()


def path_of(method: Method) -> str:
    """Return a path that a method matches; nothing of its names is there."""
    path = re.sub(r"\(\?P<project>.*?\)", PROJECT, method.path.pattern)
    path = re.sub(r"\(\?P<id>.*?\)", "17", path)
    path = path.replace("[^/]+", "none")
    path = re.sub(r"\(\?P<\w+>(.*?)\)", r"\1", path)
    return path.replace("\\", "")


def test_the_document_is_googles_own(sql: CloudSql) -> None:
    import googleapiclient.discovery_cache as cache

    own = Document(json.loads(cache.get_static_doc("sqladmin", "v1")))
    assert own.revision == document().revision
    assert {each.id for each in own.methods} == METHODS.keys()


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.id)
def test_a_path_is_its_own_methods(method: Method) -> None:
    path = path_of(method)
    fitting = [
        each.id
        for each in document().methods
        if each.verb == method.verb and each.path.fullmatch(path)
    ]
    assert fitting[0] == method.id


def test_what_is_not_done_says_so(wire: Wire) -> None:
    for method in METHODS.values():
        answer = wire(method.verb, path_of(method))
        error = answer.json().get("error", {})
        if method.id in DONE:
            assert answer.status_code != 501, method.id
        else:
            assert answer.status_code == 501, method.id
            assert error["errors"][0]["reason"] == "notImplemented"
    for path in ("/v1/projects/local/nothing", "/v2/projects/local/instances", "/v1"):
        assert wire("GET", path).status_code in (404, 501)
    assert wire("PUT", f"/v1/projects/{PROJECT}/operations/x").status_code == 405


def test_the_older_version_is_the_same(sql: CloudSql, wire: Wire) -> None:
    name = sql.make()
    older = wire("GET", f"/sql/v1beta4/projects/{PROJECT}/instances/{name}").json()
    assert older == sql.get(name)
    assert wire("POST", f"/sql/v1beta4/projects/{PROJECT}/instances", {"x": 1}).status_code == 400
    assert wire("GET", "/sql/v1beta4/flags").status_code == 501


def bodies(schema: str) -> Iterator[tuple[str, Any]]:
    """Yield bodies with one wrong thing each, and where it is."""
    yield from _bodies({"$ref": schema}, 0)


def _bodies(schema: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if "$ref" in schema:
        schema = document()._schemas[schema["$ref"]]
    if depth:
        kind = schema.get("type", "any")
        if kind in WRONG:
            yield "", WRONG[kind]
        if "enum" in schema:
            yield "", "NO_SUCH_WORD"
        if schema.get("format") == "google-datetime":
            yield "", "tomorrow"
        if schema.get("format") == "int64":
            yield "", "many"
    if schema.get("type") == "object" and "properties" in schema and depth < 3:
        yield "unheardOf", {"unheardOf": 1}
        for name, below in schema["properties"].items():
            for place, body in _bodies(below, depth + 1):
                if below.get("type") == "integer" and body == "1":
                    body = "one"
                yield f"{name}.{place}" if place else name, {name: body}


@pytest.mark.parametrize("name", sorted(each for each in DONE if METHODS[each].request))
def test_a_wrong_body_is_refused(wire: Wire, name: str) -> None:
    method = METHODS[name]
    assert method.request is not None
    tried = 0
    for place, body in bodies(method.request):
        answer = wire(method.verb, path_of(method), body)
        assert answer.status_code == 400, (place, body, answer.text)
        error = answer.json()["error"]
        assert error["errors"][0]["reason"] == "badRequest", (place, body, answer.text)
        assert error["status"] == "INVALID_ARGUMENT"
        fields = [each["field"] for each in error["details"][0]["fieldViolations"]]
        assert fields == [place.removesuffix("unheardOf").removesuffix(".")], body
        tried += 1
    assert tried > 3
    for text in (b"{", b"[]", b"1"):
        answer = wire.session.request(
            method.verb,
            f"{wire.url}{path_of(method)}",
            data=text,
            headers={"Authorization": f"Bearer {wire.token}"},
            timeout=10,
        )
        assert answer.status_code == 400


def test_wrong_parameters_are_refused(wire: Wire) -> None:
    listing = f"/v1/projects/{PROJECT}/instances"
    assert wire("GET", listing, maxResults="many").status_code == 400
    assert wire("GET", listing, maxResult="1").status_code == 400
    assert wire("GET", listing, maxResults="1", alt="json", prettyPrint="false").status_code == 200
    assert wire("GET", listing, pageToken="x").status_code == 400
    promote = f"{listing}/x/promoteReplica"
    assert wire("POST", promote, failover="perhaps").status_code == 400
    assert wire("POST", promote, {"unheardOf": 1}).status_code == 400


# -- who may do what


def test_nobody_and_somebody(sql: CloudSql, wire: Wire) -> None:
    sql.allow("nobody", places={})
    token = sql.cloud.running.client("nobody")._http
    token.get(f"{wire.url}/storage/v1/b")
    for name in DONE:
        method = METHODS[name]
        body: dict[str, Any] | None = {} if method.request else None
        answer = wire.session.request(
            method.verb, f"{wire.url}{path_of(method)}", json=body, timeout=10
        )
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, "Login Required.")
        query = {"instance": "none"} if name == "sql.operations.list" else {}
        answer = wire(method.verb, path_of(method), body, token=token.credentials.token, **query)
        assert answer.status_code == 403, (name, answer.text)
        assert answer.json()["error"] == {
            "code": 403,
            "message": "The client is not authorized to make this request.",
            "errors": [
                {
                    "message": "The client is not authorized to make this request.",
                    "domain": "global",
                    "reason": "notAuthorized",
                }
            ],
        }


def test_each_method_takes_its_permission(sql: CloudSql, wire: Wire) -> None:
    sql.allow("one", places={})
    client = sql.cloud.running.client("one")
    client._http.get(f"{wire.url}/storage/v1/b")
    token = client._http.credentials.token
    for name, permission in DONE.items():
        method = METHODS[name]
        sql.allow("one", places={f"projects/{PROJECT}": [permission]})
        answer = wire(method.verb, path_of(method), {} if method.request else None, token=token)
        assert answer.status_code in (200, 400, 404), (name, answer.text)
        sql.allow("one", places={"projects/other": ["*"], "projects/local/instances/no": ["*"]})
        answer = wire(method.verb, path_of(method), {} if method.request else None, token=token)
        assert answer.status_code == 403, (name, answer.text)
    client.close()


def test_permission_sets(sql: CloudSql) -> None:
    name = sql.make_recoverable()
    get = {"project": PROJECT, "instance": name}
    backup, cloner, failover = (
        sql.api(each).instances() for each in ("backup", "cloner", "failover")
    )
    assert backup.get(**get).execute()["name"] == name
    for refused_request in (
        backup.delete(**get),
        backup.clone(**get, body={"cloneContext": {"destinationInstanceName": "x"}}),
        cloner.delete(**get),
        cloner.insert(project=PROJECT, body=sql.body()),
        failover.patch(**get, body={"settings": {"deletionProtectionEnabled": False}}),
        sql.api("verifier").instances().get(**get),
        sql.api("retention").backupRuns().insert(**get, body={}),
    ):
        with pytest.raises(HttpError) as refused:
            refused_request.execute()
        assert reason(refused) == (403, "notAuthorized")
    body = {"cloneContext": {"destinationInstanceName": "x", "destinationProject": "scratch"}}
    sql.done(cloner.clone(**get, body=body))
    there = {"project": "scratch", "instance": "x"}
    labels = {"settings": {"userLabels": {"made-by": "resil"}}}
    sql.done(cloner.patch(**there, body=labels))
    assert cloner.get(**there).execute()["settings"]["userLabels"] == {"made-by": "resil"}
    sql.done(cloner.delete(**there))
    body["cloneContext"]["destinationProject"] = "elsewhere"
    with pytest.raises(HttpError) as refused:
        cloner.clone(**get, body=body).execute()
    assert reason(refused) == (403, "notAuthorized")
    # One instance, and no other.
    sql.allow("narrow", places={f"projects/{PROJECT}/instances/{name}": ["cloudsql.instances.get"]})
    assert sql.api("narrow").instances().get(**get).execute()["name"] == name
    with pytest.raises(HttpError):
        sql.api("narrow").instances().get(project=PROJECT, instance="other").execute()
    mine = sql.operations.list(project=PROJECT, instance=name).execute()["items"][0]
    followed = sql.api("narrow").operations().get(project=PROJECT, operation=mine["name"])
    assert followed.execute()["name"] == mine["name"]
    sql.cloud.fault("denied", permission="cloudsql.*", caller="backup@*")
    with pytest.raises(HttpError) as refused:
        backup.get(**get).execute()
    assert reason(refused) == (403, "notAuthorized")


# -- instances


def test_an_instance_is_as_google_shows_it(sql: CloudSql) -> None:
    name = sql.make(settings={"userLabels": {"team": "x"}, "dataDiskSizeGb": 20})
    found = sql.get(name)
    assert found["settings"]["dataDiskSizeGb"] == "20"
    assert found["kind"] == "sql#instance"
    assert found["state"] == "RUNNABLE"
    assert found["connectionName"] == f"{PROJECT}:europe-west1:{name}"
    assert found["ipAddresses"] == [{"type": "PRIMARY", "ipAddress": "127.0.0.1"}]
    assert re.fullmatch(r"localhost:\d+", found["dnsName"])
    assert "rootPassword" not in found
    assert found["serviceAccountEmailAddress"].endswith("gcp-sa-cloud-sql.iam.gserviceaccount.com")
    settings = found["settings"]
    assert settings["backupConfiguration"]["enabled"] is False
    assert settings["backupConfiguration"]["pointInTimeRecoveryEnabled"] is False
    assert settings["userLabels"] == {"team": "x"}
    shown = sql.api().connect().get(project=PROJECT, instance=name).execute()
    fits("ConnectSettings", shown)
    assert (shown["dnsName"], shown["region"]) == (found["dnsName"], "europe-west1")
    part = sql.instances.get(project=PROJECT, instance=name, fields="name,settings(tier)").execute()
    assert part == {"name": name, "settings": {"tier": "db-custom-1-3840"}}


def test_instances_have_names_of_their_own(sql: CloudSql) -> None:
    name = sql.make()
    with pytest.raises(HttpError) as refused:
        sql.instances.insert(project=PROJECT, body=sql.body(name)).execute()
    assert reason(refused) == (409, "instanceAlreadyExists")
    with pytest.raises(HttpError) as refused:
        sql.clone(name, name).execute()
    assert reason(refused) == (409, "instanceAlreadyExists")
    identifier = "SELECT system_identifier FROM pg_control_system()"
    before = sql.rows(name, identifier)
    sql.delete(name)
    with pytest.raises(HttpError) as refused:
        sql.get(name)
    assert reason(refused) == (404, "instanceDoesNotExist")
    sql.make(name)  # at once
    assert sql.rows(name, identifier) != before
    for wrong in ("Upper", "1st", "", "a_b", "a" * 98, "end-"):
        with pytest.raises(HttpError) as refused:
            sql.instances.insert(project=PROJECT, body=sql.body() | {"name": wrong}).execute()
        assert reason(refused) == (400, "invalidRequest")


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "us-central1"},
        {"databaseVersion": "MYSQL_8_0"},
        {"databaseVersion": "POSTGRES_9_6"},
        {"settings": {}},
        {"settings": {"tier": "x", "backupConfiguration": {"pointInTimeRecoveryEnabled": True}}},
        {"settings": {"tier": "x", "databaseFlags": [{"name": "archive_command", "value": "rm"}]}},
        {"masterInstanceName": "none"},
        {"project": "other"},
    ],
    ids=str,
)
def test_instances_that_can_not_be(sql: CloudSql, wrong: dict[str, Any]) -> None:
    with pytest.raises(HttpError) as refused:
        sql.instances.insert(project=PROJECT, body=sql.body() | wrong).execute()
    assert reason(refused) == (400, "invalidRequest")
    assert "items" not in sql.instances.list(project=PROJECT).execute()


def test_deletion_protection(sql: CloudSql) -> None:
    name = sql.make(settings={"deletionProtectionEnabled": True})
    with pytest.raises(HttpError, match="The instance is protected") as refused:
        sql.instances.delete(project=PROJECT, instance=name).execute()
    assert refused.value.resp.status == 400
    sql.patch(name, deletionProtectionEnabled=False)
    sql.patch(name, deletionProtectionEnabled=True)
    with pytest.raises(HttpError, match="The instance is protected"):
        sql.instances.delete(project=PROJECT, instance=name).execute()
    sql.patch(name, deletionProtectionEnabled=False)
    assert sql.delete(name)["operationType"] == "DELETE"


def test_settings_change(sql: CloudSql) -> None:
    name = sql.make(settings={"userLabels": {"a": "1", "b": "2"}})
    version = sql.get(name)["settings"]["settingsVersion"]
    operation = sql.patch(name, userLabels={"b": None, "c": "3"}, settingsVersion=version)
    assert operation["operationType"] == "UPDATE"
    settings = sql.get(name)["settings"]
    assert settings["userLabels"] == {"a": "1", "c": "3"}
    assert settings["settingsVersion"] != version
    with pytest.raises(HttpError) as refused:
        sql.patch(name, settingsVersion=version, userLabels={})
    assert reason(refused) == (412, "staleData")
    sql.patch(name, databaseFlags=[{"name": "work_mem", "value": "7MB"}])
    assert sql.rows(name, "SHOW work_mem") == [("7MB",)]
    body = {"settings": {"tier": "db-f1-micro"}}
    sql.done(sql.instances.update(project=PROJECT, instance=name, body=body))
    settings = sql.get(name)["settings"]
    assert settings["tier"] == "db-f1-micro"
    assert "userLabels" not in settings
    assert sql.rows(name, "SHOW work_mem") == [("4MB",)]
    with pytest.raises(HttpError, match="region can't be changed"):
        sql.instances.patch(project=PROJECT, instance=name, body={"region": "us-east1"}).execute()


def test_lists_have_pages(sql: CloudSql) -> None:
    names = sorted(sql.make() for _ in range(3))
    request = sql.instances.list(project=PROJECT, maxResults=2)
    found, pages = [], 0
    while request is not None:
        answer = request.execute()
        fits("InstancesListResponse", answer)
        found += [each["name"] for each in answer["items"]]
        request = sql.instances.list_next(request, answer)
        pages += 1
    assert (found, pages) == (names, 2)
    request = sql.operations.list(project=PROJECT, instance=names[0], maxResults=1)
    assert [each["operationType"] for each in request.execute()["items"]] == ["CREATE"]
    answer = sql.operations.list(project=PROJECT, maxResults=2).execute()
    fits("OperationsListResponse", answer)
    assert "nextPageToken" in answer
    times = [each["insertTime"] for each in answer["items"]]
    assert times == sorted(times, reverse=True)


def test_lists_are_filtered(sql: CloudSql) -> None:
    mine = sql.make(settings={"userLabels": {"made-by": "resil", "run": "1"}})
    sql.make(settings={"userLabels": {"made-by": "somebody"}})

    def listed(expression: str) -> list[str]:
        answer = sql.instances.list(project=PROJECT, filter=expression).execute()
        return [each["name"] for each in answer.get("items", [])]

    assert listed("settings.userLabels.made-by:resil") == [mine]
    assert listed("settings.userLabels.made-by:resil AND state:RUNNABLE") == [mine]
    assert listed(f"name:{mine} settings.userLabels.run:2") == []
    assert len(listed("settings.deletionProtectionEnabled:false")) == 2
    with pytest.raises(HttpError) as refused:
        listed("name:a OR name:b")
    assert reason(refused) == (501, "notImplemented")


# -- databases and users


@pytest.mark.parametrize("major", [15, 17])
def test_postgres_is_no_superuser(sql: CloudSql, major: int) -> None:
    name = sql.make(major=major)
    assert sql.rows(name, "SHOW server_version_num")[0][0].startswith(str(major))
    roles = sql.rows(name, "SELECT rolname FROM pg_roles WHERE rolsuper")
    assert roles == [("cloudsqladmin",)]
    member = "SELECT pg_has_role('postgres', 'cloudsqlsuperuser', 'MEMBER')"
    assert sql.rows(name, member) == [(True,)]
    for denied in (
        "SELECT * FROM pg_authid",
        "CREATE ROLE x SUPERUSER",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "ALTER SYSTEM SET work_mem = '1MB'",
    ):
        with pytest.raises(Exception, match=r"denied|must be|Only roles"):
            sql.execute(name, denied)
    sql.execute(
        name,
        "CREATE ROLE app LOGIN PASSWORD 'x'",
        "CREATE DATABASE mine",
        "GRANT pg_read_all_data TO app",
        "CREATE EXTENSION pgcrypto",
        "DROP ROLE app",
    )
    with pytest.raises(Exception, match="permission denied for database"):
        sql.execute(name, "SELECT 1", database="cloudsqladmin")


def test_databases_and_users(sql: CloudSql) -> None:
    name = sql.make()
    where = {"project": PROJECT, "instance": name}
    databases, users = sql.api().databases(), sql.api().users()
    operation = databases.insert(**where, body={"name": "shop", "charset": "UTF8"}).execute()
    assert (operation["status"], operation["operationType"]) == ("DONE", "CREATE_DATABASE")
    listed = databases.list(**where).execute()
    fits("DatabasesListResponse", listed)
    assert [each["name"] for each in listed["items"]] == ["postgres", "shop"]
    assert databases.get(**where, database="shop").execute()["charset"] == "UTF8"
    with pytest.raises(HttpError) as refused:
        databases.get(**where, database="cloudsqladmin").execute()
    assert reason(refused) == (404, "databaseDoesNotExist")
    with pytest.raises(HttpError, match="already exists"):
        databases.insert(**where, body={"name": "shop"}).execute()
    with pytest.raises(HttpError, match="locales of this machine"):
        databases.insert(**where, body={"name": "x", "collation": "xx_XX.UTF8"}).execute()

    assert sql.done(users.insert(**where, body={"name": "app", "password": PASSWORD}))
    listed = users.list(**where).execute()
    fits("UsersListResponse", listed)
    assert [each["name"] for each in listed["items"]] == ["app", "postgres"]
    assert users.get(**where, name="app").execute()["type"] == "BUILT_IN"
    sql.execute(name, "CREATE TABLE t ()", database="shop", user="app")
    sql.done(users.update(**where, name="app", body={"password": "another"}))
    assert sql.rows(name, "SELECT 1", user="app", password="another") == [(1,)]
    with pytest.raises(HttpError, match="failed to delete user"):
        users.delete(**where, name="app").execute()
    sql.execute(name, "DROP TABLE t", database="shop", user="app", password="another")
    sql.done(users.delete(**where, name="app"))
    sql.done(databases.delete(**where, database="shop"))
    for gone in (
        users.get(**where, name="app"),
        users.delete(**where, name="app"),
        users.update(**where, name="app", body={"password": "x"}),
        databases.delete(**where, database="shop"),
    ):
        with pytest.raises(HttpError) as refused:
            gone.execute()
        assert refused.value.resp.status == 404


# -- operations


def test_one_operation_at_a_time(sql: CloudSql) -> None:
    name, other = sql.make(), sql.make()
    sql.cloud.fault("operation_slow", seconds=0.8, pending_s=0.2, instance=name, times=1)
    operation = sql.instances.restart(project=PROJECT, instance=name).execute()
    fits("Operation", operation)
    assert operation["status"] == "PENDING"
    assert "startTime" not in operation
    for refused_request in (
        sql.instances.delete(project=PROJECT, instance=name),
        sql.clone(name),
        sql.api().databases().insert(project=PROJECT, instance=name, body={"name": "x"}),
        sql.api().backupRuns().insert(project=PROJECT, instance=name, body={}),
        sql.instances.insert(project=PROJECT, body=sql.body(masterInstanceName=name)),
    ):
        with pytest.raises(HttpError) as refused:
            refused_request.execute()
        assert reason(refused) == (409, "operationInProgress")
    running = sql.wait(operation, status="RUNNING")
    assert running["startTime"] >= running["insertTime"]
    sql.done(sql.instances.restart(project=PROJECT, instance=other))
    assert sql.get(name)["state"] == "RUNNABLE"
    done = sql.wait(operation)
    assert done["endTime"] >= done["startTime"]
    sql.done(sql.instances.restart(project=PROJECT, instance=name))
    with pytest.raises(HttpError) as refused:
        sql.operations.get(project=PROJECT, operation="none").execute()
    assert reason(refused) == (404, "operationDoesNotExist")
    names = {each["name"] for each in sql.instances.list(project=PROJECT).execute()["items"]}
    assert names == {name, other}


def test_operations_that_fail_or_hang(sql: CloudSql) -> None:
    name = sql.make()
    bucket = sql.cloud.bucket()
    email = sql.get(name)["serviceAccountEmailAddress"]
    sql.allow(email, places={bucket.name: ["storage.objects.create"]})

    def export(file: str) -> Any:
        context = {
            "fileType": "SQL",
            "uri": f"gs://{bucket.name}/{file}",
            "databases": ["postgres"],
        }
        return sql.instances.export(project=PROJECT, instance=name, body={"exportContext": context})

    for when, objects in (("before", []), ("after", ["after"])):
        with sql.cloud.failing("operation_failed", code="MADE_UP", message="as told", when=when):
            error = sql.failed(export(when))
        assert (error["code"], error["message"]) == ("MADE_UP", "as told")
        assert [each.name for each in bucket.list_blobs()] == objects

    sql.cloud.fault("operation_stuck", method="sql.instances.*")
    operation = sql.wait(export("stuck").execute(), status="RUNNING")
    cancel = sql.operations.cancel(project=PROJECT, operation=operation["name"])
    assert cancel.execute() == {}
    assert sql.wait(operation)["error"]["errors"][0]["code"] == "CANCELLED"
    with pytest.raises(HttpError, match="done already"):
        cancel.execute()
    restart = sql.instances.restart(project=PROJECT, instance=name).execute()
    with pytest.raises(HttpError, match="can't be cancelled"):
        sql.operations.cancel(project=PROJECT, operation=restart["name"]).execute()
    sql.wait(restart, status="RUNNING")
    sql.cloud.mend()
    assert "error" not in sql.wait(restart)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_that_is_lost(sql: CloudSql, when: str) -> None:
    name = sql.make()
    with (
        sql.cloud.failing("error", method="sql.instances.restart", when=when, status=503),
        pytest.raises(HttpError) as refused,
    ):
        sql.instances.restart(project=PROJECT, instance=name).execute()
    assert refused.value.resp.status == 503
    kinds = [
        each["operationType"]
        for each in sql.operations.list(project=PROJECT, instance=name).execute()["items"]
    ]
    # It was accepted all the same: whoever tries again blindly does it twice.
    assert kinds == (["RESTART", "CREATE"] if when == "after" else ["CREATE"])


def test_a_server_that_is_down(sql: CloudSql) -> None:
    name = sql.make()
    os.kill(sql.state(name)["pid"], signal.SIGQUIT)
    while sql.state(name)["pid"] is not None:
        time.sleep(0.02)
    with pytest.raises(HttpError) as refused:
        sql.api().databases().list(project=PROJECT, instance=name).execute()
    assert reason(refused) == (503, "backendError")
    error = sql.failed(sql.clone(name, "c"))
    assert "does not run" in error["message"]
    sql.done(sql.instances.restart(project=PROJECT, instance=name))
    assert sql.rows(name, "SELECT 1") == [(1,)]


def test_an_instance_that_could_not_be_made(sql: CloudSql) -> None:
    body = sql.body()
    with sql.cloud.failing("operation_failed", method="sql.instances.insert", when="after"):
        assert sql.failed(sql.instances.insert(project=PROJECT, body=body))
    assert sql.get(body["name"])["state"] == "FAILED"
    with pytest.raises(HttpError) as refused:
        sql.clone(body["name"]).execute()
    assert reason(refused) == (400, "invalidState")
    sql.delete(body["name"])


def test_gcloud_itself(sql: CloudSql, tmp_path: Path) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud can't be had on this machine: UNTESTED with it")

    def gcloud(*words: str) -> Any:
        script = f'. "{sql.cloud.running.environment_file("owner")}"; exec gcloud sql "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *words, "--format=json", "--quiet"],
            capture_output=True,
            env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config")},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout or "null")

    name = sql.make_recoverable()
    assert name in [each["name"] for each in gcloud("instances", "list")]
    assert gcloud("instances", "describe", name)["state"] == "RUNNABLE"
    gcloud("databases", "create", "orders", f"--instance={name}")
    assert "orders" in [each["name"] for each in gcloud("databases", "list", f"--instance={name}")]
    gcloud("instances", "clone", name, f"{name}-copy")
    assert sql.get(f"{name}-copy")["state"] == "RUNNABLE"
    kinds = [each["operationType"] for each in gcloud("operations", "list", f"--instance={name}")]
    assert "CREATE_DATABASE" in kinds
    gcloud("instances", "patch", f"{name}-copy", "--no-deletion-protection")
    gcloud("instances", "delete", f"{name}-copy")
    assert f"{name}-copy" not in [each["name"] for each in gcloud("instances", "list")]
