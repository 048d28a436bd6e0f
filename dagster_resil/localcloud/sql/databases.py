"""Databases and users of instances: the methods ``sql.databases.*`` and ``sql.users.*``.

They are done at once, and their operations with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, not_done
from dagster_resil.localcloud.sql.clusters import (
    OWN_DATABASES,
    OWN_ROLES,
    SUPERUSER,
)
from dagster_resil.localcloud.sql.context import MethodGroup
from dagster_resil.localcloud.sql.errors import invalid_request
from dagster_resil.localcloud.sql.instances import check_running
from dagster_resil.localcloud.sql.store import Instance
from dagster_resil.postgres.connection import Connection

_DATABASES = """
SELECT datname, pg_encoding_to_char(encoding), datcollate FROM pg_database
WHERE datname <> ALL (%s) AND NOT datistemplate ORDER BY datname
"""


class Databases(MethodGroup):
    """The methods of databases."""

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.databases.insert": self._insert,
            "sql.databases.list": self._list,
            "sql.databases.get": self._get,
            "sql.databases.delete": self._delete,
        }

    def _resources(self, request: Request, instance: Instance) -> list[dict[str, Any]]:
        check_running(instance)
        with self._clusters.admin(instance) as connection:
            rows = connection.execute(_DATABASES, [list(OWN_DATABASES)]).fetchall()
        where = f"{request.base_url}/v1/projects/{instance.project}/instances/{instance.name}"
        return [
            {
                "kind": "sql#database",
                "name": name,
                "charset": encoding,
                "collation": collation,
                "instance": instance.name,
                "project": instance.project,
                "selfLink": f"{where}/databases/{name}",
            }
            for name, encoding, collation in rows
        ]

    def _list(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.databases.list")
        found = self._resources(request, instance)
        return Answer.of({"kind": "sql#databasesList", **({"items": found} if found else {})})

    def _get(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.databases.get")
        for each in self._resources(request, instance):
            if each["name"] == request.names["database"]:
                return Answer.of(each)
        raise _no_database(request.names["database"])

    def _insert(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.databases.create")
        _check_writable(instance)
        name = str(request.given.get("name") or "")
        if not name or len(name.encode()) > 63 or name in OWN_DATABASES:
            raise invalid_request(f"Invalid database name ({name}).")
        encoding = request.given.get("charset") or "UTF8"
        options = sql.SQL("ENCODING {} ").format(sql.Literal(encoding))
        if collation := request.given.get("collation"):
            options += sql.SQL("LOCALE {} ").format(sql.Literal(collation))
        with self._operations.alone(instance.key), self._clusters.admin(instance) as connection:
            try:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} {}").format(
                        sql.Identifier(name), sql.Identifier(SUPERUSER), options
                    )
                )
            except psycopg.errors.DuplicateDatabase as error:
                raise invalid_request(
                    f"failed to create database {name}. Detail: {error}"
                ) from None
            except psycopg.Error as error:
                raise invalid_request(
                    f"failed to create database {name}. Detail: {error} (the local cloud has the "
                    "locales of this machine)"
                ) from None
            return self._operations.done(request, "CREATE_DATABASE", instance)

    def _delete(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.databases.delete")
        _check_writable(instance)
        name = request.names["database"]
        if name in OWN_DATABASES:
            raise _no_database(name)
        with self._operations.alone(instance.key), self._clusters.admin(instance) as connection:
            try:
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            except psycopg.errors.InvalidCatalogName:
                raise _no_database(name) from None
            except psycopg.Error as error:
                raise invalid_request(
                    f"failed to delete database {name}. Detail: {error}"
                ) from None
            return self._operations.done(request, "DELETE_DATABASE", instance)


class Users(MethodGroup):
    """The methods of users: those with passwords."""

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {
            "sql.users.insert": self._insert,
            "sql.users.list": self._list,
            "sql.users.get": self._get,
            "sql.users.update": self._update,
            "sql.users.delete": self._delete,
        }

    def _resources(self, instance: Instance) -> list[dict[str, Any]]:
        check_running(instance)
        with self._clusters.admin(instance) as connection:
            rows = connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname <> ALL (%s) "
                "ORDER BY rolname",
                [list(OWN_ROLES)],
            ).fetchall()
        return [
            {
                "kind": "sql#user",
                "name": name,
                "host": "",
                "type": "BUILT_IN",
                "instance": instance.name,
                "project": instance.project,
            }
            for (name,) in rows
        ]

    def _list(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.users.list")
        found = self._resources(instance)
        return Answer.of({"kind": "sql#usersList", **({"items": found} if found else {})})

    def _get(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.users.get")
        for each in self._resources(instance):
            if each["name"] == request.names["name"]:
                return Answer.of(each)
        raise _no_user()

    def _insert(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.users.create")
        _check_writable(instance)
        given = request.given
        if given.get("type") not in (None, "BUILT_IN"):
            raise not_done(f"users of type {given['type']}")
        name, password = str(given.get("name") or ""), given.get("password")
        if not name or name in OWN_ROLES or name.startswith("pg_"):
            raise invalid_request(f"Invalid user name ({name}).")
        if not password:
            raise invalid_request("Missing parameter: password.")
        with self._operations.alone(instance.key), self._clusters.admin(instance) as connection:
            try:
                _make_user(connection, name, password)
            except psycopg.Error as error:
                raise invalid_request(f"failed to create user {name}: {error}") from None
            return self._operations.done(request, "CREATE_USER", instance)

    def _update(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.users.update")
        _check_writable(instance)
        name = request.query.get("name") or str(request.given.get("name") or "")
        password = request.given.get("password")
        if name in OWN_ROLES:
            raise _no_user()
        if not password:
            raise invalid_request("Missing parameter: password.")
        with self._operations.alone(instance.key):
            try:
                self._clusters.set_password(instance, name, password)
            except psycopg.errors.UndefinedObject:
                raise _no_user() from None
            return self._operations.done(request, "UPDATE_USER", instance)

    def _delete(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.users.delete")
        _check_writable(instance)
        name = request.query.get("name", "")
        if name in OWN_ROLES:
            raise _no_user()
        with self._operations.alone(instance.key), self._clusters.admin(instance) as connection:
            try:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
            except psycopg.errors.UndefinedObject:
                raise _no_user() from None
            except psycopg.Error as error:
                raise invalid_request(f"failed to delete user {name}: {error}") from None
            return self._operations.done(request, "DELETE_USER", instance)


def _make_user(connection: Connection, name: str, password: str) -> None:
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN CREATEDB CREATEROLE PASSWORD {} IN ROLE {}").format(
            sql.Identifier(name), sql.Literal(password), sql.Identifier(SUPERUSER)
        )
    )
    if connection.info.server_version >= 160_000:
        # So that postgres can manage it, which CREATEROLE alone does not give any more.
        connection.execute(
            sql.SQL("GRANT {} TO postgres WITH ADMIN TRUE, INHERIT FALSE").format(
                sql.Identifier(name)
            )
        )


def _check_writable(instance: Instance) -> None:
    check_running(instance)
    if instance.primary is not None:
        raise ApiError(400, "invalidOperation", "The operation is not possible on a read replica.")


def _no_database(name: str) -> ApiError:
    return ApiError(404, "databaseDoesNotExist", f"Database {name} does not exist.")


def _no_user() -> ApiError:
    return ApiError(404, "userDoesNotExist", "The Cloud SQL user does not exist.")
