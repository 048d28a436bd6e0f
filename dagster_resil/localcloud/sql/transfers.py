"""Exports to and imports from Cloud Storage: ``sql.instances.export`` and ``.import``.

They are pg_dump, psql and pg_restore, between the instance's server and the local Cloud Storage,
where the instance has an identity of its own that needs rights on the bucket. An export in
parallel is a directory archive, each of its files compressed once more: ``toc.dat.gz``,
``4711.dat.gz.gz``.
"""

from __future__ import annotations

import gzip
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isal import igzip
from psycopg import sql

from dagster_resil.localcloud.protocol import Answer, Request, not_done
from dagster_resil.localcloud.sql.clusters import (
    IMPORTER,
    OWN_DATABASES,
    OWN_ROLES,
)
from dagster_resil.localcloud.sql.context import MethodGroup
from dagster_resil.localcloud.sql.errors import OperationFailed, invalid_request
from dagster_resil.localcloud.sql.instances import check_running, without_nulls
from dagster_resil.localcloud.sql.operation_log import Running
from dagster_resil.localcloud.sql.store import Instance
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.server import hand_over

if TYPE_CHECKING:
    from google.cloud import storage

_URI = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/(.+)")
_PERMISSION = re.compile(r"storage\.\w+\.\w+")
_MOST_THREADS = 64
_REQUEST_TIMEOUT_S = 60
_RETRY_S = 10
_FAILED = "ERROR_RDBMS"
"""The code that failed exports and imports were seen to have."""


class Transfers(MethodGroup):
    """The methods of exports and imports."""

    def handlers(self) -> dict[str, Callable[[Request], Answer]]:
        """Return its methods by their names."""
        return {"sql.instances.export": self._export, "sql.instances.import": self._import}

    def clear(self) -> None:
        """Remove what was under way when a local cloud was killed."""
        shutil.rmtree(self._clusters.root / "work", ignore_errors=True)

    @contextmanager
    def _workspace(self) -> Iterator[Path]:
        root = self._clusters.root / "work"
        root.mkdir(mode=0o711, exist_ok=True)
        place = root / secrets.token_hex(6)
        place.mkdir(mode=0o700)
        hand_over(place)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _bucket(self, instance: Instance, uri: str, base_url: str) -> tuple[Any, str]:
        """Return a bucket as the instance itself sees it, and the object's name."""
        # Loaded only now: a cloud without exports does without its memory.
        from google.api_core.client_options import ClientOptions
        from google.cloud import storage
        from google.oauth2.credentials import Credentials

        bucket, name = _place(uri)
        token = self._identities.token(instance.service_account)
        client = storage.Client(
            project=instance.project,
            credentials=Credentials(token=token),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=base_url),
        )
        return client.bucket(bucket), name

    # -- export

    def _export(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.export")
        check_running(instance)
        context = without_nulls(request.given.get("exportContext") or {})
        options = context.get("sqlExportOptions", {})
        _check_context(context, options)
        databases = context.get("databases", [])
        if len(databases) != 1:
            raise invalid_request("An export of PostgreSQL is of one database: databases.")
        if len(options.get("tables", ())) > 1:
            raise invalid_request("Only one table can be named.")
        arguments = _export_arguments(options)
        base_url = request.base_url

        def work(running: Running) -> None:
            with _storage_errors(instance), self._workspace() as place:
                bucket, name = self._bucket(instance, context["uri"], base_url)
                try:
                    if options.get("parallel"):
                        name = name.rstrip("/")
                        _check_folder(instance, bucket, name)
                    dumped = place / "dump"
                    self._dump(instance, databases[0], dumped, arguments, running)
                    files = _files_of(dumped, name, compress=_is_compressed(name))
                    _spoil([file for file, _ in files], running.faults)
                    for file, target in files:
                        running.check()
                        _upload(bucket, file, target)
                finally:
                    bucket.client.close()

        return self._operations.begin(
            request,
            "EXPORT",
            instance,
            work,
            exportContext={"kind": "sql#exportContext", **context},
        )

    def _dump(
        self,
        instance: Instance,
        database: str,
        target: Path,
        arguments: list[str],
        running: Running,
    ) -> None:
        if database in OWN_DATABASES:
            raise OperationFailed(_FAILED, f'database "{database}" does not exist')
        endpoint = self._clusters.endpoint(instance, database)
        done = self._clusters.run(
            instance.major,
            "pg_dump",
            *endpoint.child_arguments(),
            f"--file={target}",
            *arguments,
            database=endpoint,
            watch=running.check,
        )
        if not done.ok:
            raise OperationFailed(_FAILED, done.complaint)

    # -- import

    def _import(self, request: Request) -> Answer:
        instance = self._access.instance(request, "cloudsql.instances.import")
        check_running(instance)
        if instance.primary is not None:
            raise invalid_request("Nothing can be imported into a read replica.")
        context = without_nulls(request.given.get("importContext") or {})
        options = context.get("sqlImportOptions", {})
        _check_context(context, options)
        database = context.get("database")
        if not database:
            raise invalid_request("Missing parameter: importContext.database.")
        user = context.get("importUser", IMPORTER)
        base_url = request.base_url

        def work(running: Running) -> None:
            with _storage_errors(instance), self._workspace() as place:
                bucket, name = self._bucket(instance, context["uri"], base_url)
                try:
                    found = place / "dump"
                    if options.get("parallel"):
                        _download_folder(bucket, name.rstrip("/") + "/", found)
                    else:
                        _download(bucket.blob(name), found, decompress=_is_compressed(name))
                finally:
                    bucket.client.close()
                running.check()
                for each in (found, *found.glob("*")):
                    hand_over(each)
                self._load(instance, database, user, found, options, running)

        return self._operations.begin(
            request,
            "IMPORT",
            instance,
            work,
            importContext={"kind": "sql#importContext", **context},
        )

    def _load(
        self,
        instance: Instance,
        database: str,
        user: str,
        source: Path,
        options: Mapping[str, Any],
        running: Running,
    ) -> None:
        if database in OWN_DATABASES:
            raise OperationFailed(_FAILED, f'database "{database}" does not exist')
        self._adopt(instance)
        endpoint = _as_role(self._clusters.endpoint(instance, database), user)
        if source.is_dir():
            program = "pg_restore"
            arguments = [
                "--exit-on-error",
                f"--jobs={_threads(options)}",
                *_clean(options.get("postgresImportOptions", {})),
                str(source),
            ]
        else:
            program = "psql"
            arguments = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={source}"]
        done = self._clusters.run(
            instance.major,
            program,
            *endpoint.child_arguments(),
            *arguments,
            database=endpoint,
            # A script may start programs: not as root.
            as_server=True,
            watch=running.check,
        )
        if not done.ok:
            raise OperationFailed(_FAILED, done.complaint)

    def _adopt(self, instance: Instance) -> None:
        """Let the importing role give what it makes to any role that is there."""
        with self._clusters.admin(instance) as connection:
            roles = connection.execute(
                "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' "
                "AND rolname <> ALL (%s) AND NOT pg_has_role(%s, oid, 'MEMBER')",
                [list(OWN_ROLES), IMPORTER],
            ).fetchall()
            for (role,) in roles:
                connection.execute(
                    sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(IMPORTER))
                )


# -- what a request says


def _place(uri: str) -> tuple[str, str]:
    found = _URI.fullmatch(uri)
    if not found:
        raise invalid_request(f"The URI {uri!r} is not gs://bucket/name.")
    return found[1], found[2]


def _is_compressed(name: str) -> bool:
    return name.endswith(".gz")


def _check_context(context: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse what can't be, or is not done here.

    :raises ApiError: it is so.
    """
    if context.get("fileType") != "SQL":
        if context.get("fileType") == "CSV":
            raise not_done("files of type CSV")
        raise invalid_request(f"fileType {context.get('fileType')!r} is not for PostgreSQL.")
    _place(context.get("uri", ""))
    if "mysqlExportOptions" in options:
        raise invalid_request("mysqlExportOptions are not for PostgreSQL.")
    if "threads" in options and not options.get("parallel"):
        raise invalid_request("threads are for parallel transfers.")
    if not 1 <= _threads(options) <= _MOST_THREADS:
        raise invalid_request(f"threads has to be from 1 to {_MOST_THREADS}.")


def _threads(options: Mapping[str, Any]) -> int:
    return int(options.get("threads", 2))


def _clean(options: Mapping[str, Any]) -> list[str]:
    words = ["--clean"] if options.get("clean") else []
    return words + (["--if-exists"] if options.get("ifExists") else [])


def _export_arguments(options: Mapping[str, Any]) -> list[str]:
    words = _clean(options.get("postgresExportOptions", {}))
    if options.get("schemaOnly"):
        words.append("--schema-only")
    words += [f"--table={table}" for table in options.get("tables", ())]
    if options.get("parallel"):
        return [*words, "--format=directory", "--compress=1", f"--jobs={_threads(options)}"]
    return [*words, "--format=plain"]


def _as_role(endpoint: Endpoint, role: str) -> Endpoint:
    quoted = role.replace("\\", "\\\\").replace(" ", "\\ ")
    return replace(endpoint, parameters={**endpoint.parameters, "options": f"-c role={quoted}"})


# -- files


def _files_of(dumped: Path, name: str, *, compress: bool) -> list[tuple[Path, str]]:
    """Return the files to upload, each with the name of its object."""
    if not dumped.is_dir():
        return [(_compressed(dumped) if compress else dumped, name)]
    return [
        (_compressed(file), f"{name}/{file.name}.gz")
        for file in sorted(dumped.iterdir(), key=lambda file: file.name)
    ]


def _compressed(file: Path) -> Path:
    target = file.with_name(f"{file.name}.gz~")
    opened = igzip.open(target, "wb", compresslevel=1)  # type: ignore[no-untyped-call]
    with file.open("rb") as source, opened as out:
        shutil.copyfileobj(source, out, 1 << 20)
    file.unlink()
    return target


def _spoil(files: list[Path], faults: Mapping[str, Any]) -> None:
    """Damage an export on purpose: the largest of its files."""
    file = max(files, key=lambda each: each.stat().st_size)
    size = file.stat().st_size
    if "truncated" in faults:
        with file.open("r+b") as stream:
            stream.truncate(min(faults["truncated"], max(0, size - 1)))
    if "corrupted" in faults and size:
        with file.open("r+b") as stream:
            place = min(faults["corrupted"], size - 1)
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 0x01]))


def _download(blob: storage.Blob, target: Path, *, decompress: bool) -> None:
    raw = target.with_name(f"{target.name}~")
    try:
        blob.download_to_filename(str(raw), raw_download=True, timeout=_REQUEST_TIMEOUT_S)
        if not decompress:
            raw.rename(target)
            return
        with gzip.open(raw, "rb") as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise OperationFailed(_FAILED, f"{blob.name}: {error}") from None
    finally:
        raw.unlink(missing_ok=True)


def _download_folder(bucket: storage.Bucket, prefix: str, target: Path) -> None:
    target.mkdir(mode=0o700)
    for blob in bucket.list_blobs(prefix=prefix, timeout=_REQUEST_TIMEOUT_S):
        name = blob.name.removeprefix(prefix)
        if not re.fullmatch(r"[\w.-]+", name):
            raise OperationFailed(_FAILED, f"{blob.name} is no file of a directory archive")
        # Google's own are compressed once more than pg_dump's.
        more = bool(re.fullmatch(r"(.*\.gz|toc\.dat|.*\.toc)\.gz", name))
        _download(blob, target / (name.removesuffix(".gz") if more else name), decompress=more)
    if not any(target.iterdir()):
        raise OperationFailed(_FAILED, f"nothing is at gs://{bucket.name}/{prefix}")


def _upload(bucket: storage.Bucket, file: Path, name: str) -> None:
    from google.cloud.storage.retry import DEFAULT_RETRY

    bucket.blob(name).upload_from_filename(
        str(file),
        content_type="application/octet-stream",
        checksum="crc32c",
        if_generation_match=0,
        timeout=_REQUEST_TIMEOUT_S,
        retry=DEFAULT_RETRY.with_timeout(_RETRY_S),
    )


def _check_folder(instance: Instance, bucket: storage.Bucket, name: str) -> None:
    """See that a folder is empty, and that the instance may do there what Google asks for."""
    if any(True for _ in bucket.list_blobs(prefix=f"{name}/", max_results=1)):
        raise _exists(f"gs://{bucket.name}/{name}/")
    if not bucket.test_iam_permissions(["storage.objects.delete"]):
        raise _denied(instance, "storage.objects.delete")


# -- errors


def _exists(uri: str) -> OperationFailed:
    return OperationFailed(_FAILED, f"{uri}: the file already exists; name another one.")


def _denied(instance: Instance, permission: str) -> OperationFailed:
    return OperationFailed(
        _FAILED,
        f"Access denied for service account {instance.service_account}, permissions missing are: "
        f"[{permission}]",
    )


@contextmanager
def _storage_errors(instance: Instance) -> Iterator[None]:
    """Turn what Cloud Storage answers into how the operation ends."""
    from google.api_core import exceptions

    try:
        yield
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        found = _PERMISSION.search(str(error))
        raise _denied(instance, found[0] if found else "storage.objects.get") from None
    except exceptions.PreconditionFailed as error:
        raise _exists(str(error).partition("?")[0].rpartition(" ")[2]) from None
    except exceptions.NotFound as error:
        raise OperationFailed(_FAILED, f"Not found: {error.message}") from None
    except exceptions.GoogleAPIError as error:
        raise OperationFailed("INTERNAL_ERROR", f"Cloud Storage: {error}") from None
