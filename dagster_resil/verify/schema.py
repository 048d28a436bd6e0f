"""Comparing schemas, as pg_dump writes them.

Dumps of equal schemas can differ: a CHECK with IN, and views over it, print with other casts after
one round through a server. So where two texts differ, each is loaded into an empty scratch
database and dumped again; what differs then, differs.
"""

from __future__ import annotations

import difflib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dagster_resil.errors import CannotProve
from dagster_resil.postgres.catalogues import money_settings
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.inventory import SchemaDifference, compare_inventories
from dagster_resil.postgres.load import HARMLESS
from dagster_resil.postgres.programs import Programs
from dagster_resil.postgres.server import dies_with_us
from dagster_resil.postgres.session import FOR_DUMPS, differing
from dagster_resil.postgres.table_of_contents import STATE_OF_MADE_UP_TRIGGER, for_server
from dagster_resil.process import Child

__all__ = [
    "SchemaDifference",
    "compare_dumps",
    "compare_inventories",
    "compare_schemas",
    "dump_schema",
    "parse_dump",
    "redumper",
]

_HEADER = re.compile(
    r"^--\n-- Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>.*); Owner: .*\n--\n",
    re.MULTILINE,
)
# Session state that pg_dump sets between two objects; the inventory compares access methods.
_BETWEEN = re.compile(r"(?:\n+SET default_table(?:space|_access_method) = [^\n]*;)+\s*\Z")
_DIFFERENT_EACH_TIME = re.compile(
    r"^(?:\\(?:un)?restrict .*|-- Dumped (?:from database|by pg_dump) version .*)\n", re.MULTILINE
)
_GRANTS = {"ACL", "DEFAULT ACL"}
_SECRETIVE = {"USER MAPPING", "SUBSCRIPTION", "SERVER"}
"""Kinds of objects whose options may hold a password, which belongs in no report."""
_OPTIONS = re.compile(r" OPTIONS \(\n.*?\n\);", re.DOTALL)
_TIMEOUT_S = 1800
_DETAIL_LINES = 8

Key = tuple[str, str]
"""The kind of object and its name with its schema, as pg_dump's comments have them."""


class RedumpFailed(Exception):
    """A schema's dump could not be loaded again, so the wording of two can't be settled."""


def parse_dump(text: str) -> dict[Key, list[str]]:
    """Split a plain dump of a schema into its objects.

    :return: for each key the whole text of each object that has it, sorted; two dumps with
        equal maps hold the same objects, in whatever order.
    """
    text = STATE_OF_MADE_UP_TRIGGER.sub("", _DIFFERENT_EACH_TIME.sub("", text))
    headers = list(_HEADER.finditer(text))
    objects: dict[Key, list[str]] = {("", ""): [text[: headers[0].start()] if headers else text]}
    for header, following in itertools.zip_longest(headers, headers[1:]):
        block = text[header.start() : following.start() if following else len(text)]
        if following is None:
            block = block.replace("\n--\n-- PostgreSQL database dump complete\n--\n", "\n")
        block = _BETWEEN.sub("", block).rstrip()
        kind, schema = header["kind"], header["schema"]
        if kind == "TRIGGER" and not _HEADER.sub("", block).strip():
            continue  # it was no more than the state of a trigger that the catalogues compare
        if kind in _GRANTS:
            # Grants print in the order in which they were made.
            block = "\n".join(sorted(block.split("\n")))
        name = header["name"] if schema == "-" else f"{schema}.{header['name']}"
        objects.setdefault((kind, name), []).append(block)
    # What stands before the first object is the session's settings.
    objects[("", "")] = [_BETWEEN.sub("", objects[("", "")][0]).rstrip()]
    return {key: sorted(blocks) for key, blocks in objects.items()}


def compare_dumps(
    source: str, restored: str, *, mappings_hidden: bool = False
) -> list[SchemaDifference]:
    """Return what of the source's schema is missing, different or too much.

    :param mappings_hidden: whether options of user mappings may be missing in the source's dump,
        because its login was not shown them, and the archive's was.
    """
    wanted, found = parse_dump(source), parse_dump(restored)
    differences = []
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) == found.get(key):
            continue
        kind, name = key
        if mappings_hidden and kind == "USER MAPPING" and key in wanted and key in found:
            # Where the source's has options both have to have them, equal.
            shown = any(map(_OPTIONS.search, wanted[key]))
            if not shown and wanted[key] == [_OPTIONS.sub(";", text) for text in found[key]]:
                continue
        if key not in found:
            difference = SchemaDifference(kind, name, "missing")
        elif key not in wanted:
            if kind == "ACL" and name.startswith("SCHEMA "):
                # pg_dump takes what was granted on public for granted, also when it has another
                # name now. The inventory compares all privileges on schemas.
                continue
            difference = SchemaDifference(kind, name, "unexpected")
        else:
            detail = (
                "not shown: it may hold a password"
                if kind in _SECRETIVE
                else _excerpt(wanted[key], found[key])
            )
            difference = SchemaDifference(kind or "SETTINGS", name, "different", detail)
        differences.append(difference)
    return differences


def _excerpt(wanted: list[str], found: list[str]) -> str:
    only_wanted = list((Counter(wanted) - Counter(found)).elements())
    only_found = list((Counter(found) - Counter(wanted)).elements())
    lines = [
        line
        for line in difflib.unified_diff(
            "\n".join(only_wanted).split("\n"), "\n".join(only_found).split("\n"), "", "", "", "", 0
        )
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    more = len(lines) - _DETAIL_LINES
    return "\n".join(
        [
            "(- source, + restored)",
            *lines[:_DETAIL_LINES],
            *([f"… {more} more"] if more > 0 else []),
        ]
    )


def compare_schemas(
    source_dump: str,
    restored_dump: str,
    *,
    redump: Callable[[str], str],
    mappings_hidden: bool = False,
) -> list[SchemaDifference]:
    """Compare two dumps of schemas; resolve a mere difference of wording.

    :param redump: loads a dump into an empty database and returns that one's dump.
    :param mappings_hidden: as :func:`compare_dumps` has it.
    :raises CannotProve: the two differ, and it can't be settled in what.
    """
    compare = partial(compare_dumps, mappings_hidden=mappings_hidden)
    differences = compare(source_dump, restored_dump)
    if not differences:
        return []
    try:
        return compare(redump(source_dump), redump(restored_dump))
    except RedumpFailed as error:
        raise CannotProve(
            f"the schemas' dumps differ ({differences[0]}), and it could not be determined whether "
            f"in more than their wording, because loading them again failed: {error}",
            hint="the words above are psql's",
        ) from None


def dump_schema(programs: Programs, endpoint: Endpoint) -> str:
    """Return ``pg_dump --schema-only`` of a database, as the backup of its source made it.

    :raises CannotProve: pg_dump failed.
    """
    with endpoint.connect(autocommit=True) as connection:
        row = connection.execute("SELECT pg_catalog.current_setting('server_encoding')").fetchone()
        encoding = str(row[0]) if row else "UTF8"
        wanted = FOR_DUMPS | money_settings(connection)
        endpoint = endpoint.with_settings(connection, differing(connection, wanted))
    with tempfile.TemporaryDirectory(prefix="resil-schema-") as folder:
        file = Path(folder) / "schema.sql"
        with Child(
            [
                *dies_with_us("TERM"),
                programs.path("pg_dump"),
                "--no-password",
                "--schema-only",
                "--no-tablespaces",
                f"--file={file}",
                *endpoint.child_arguments(),
            ],
            env=endpoint.child_environment() | {"PGTZ": "UTC", "PGCLIENTENCODING": encoding},
            name="pg_dump",
        ) as child:
            done = child.wait(timeout_s=_TIMEOUT_S)
        if not done.ok:
            raise CannotProve(
                f"pg_dump could not read the restored schema: {done.complaint}",
                hint="the words above are pg_dump's",
            )
        return file.read_text(encoding="utf-8", errors="surrogateescape")


def redumper(
    programs: Programs, create_database: Callable[[str], Endpoint]
) -> Callable[[str], str]:
    """Return what loads a schema's dump into an empty scratch database and dumps it again.

    :param create_database: makes an empty database like the source's.
    """
    numbers = itertools.count(1)

    def redump(text: str) -> str:
        endpoint = create_database(f"resil_wording_{next(numbers)}")
        with endpoint.connect(autocommit=True) as connection:
            server_version = connection.info.server_version
        with tempfile.TemporaryDirectory(prefix="resil-schema-") as folder:
            file = Path(folder) / "schema.sql"
            text = for_server(STATE_OF_MADE_UP_TRIGGER.sub("", text), server_version)
            file.write_text(text, encoding="utf-8", errors="surrogateescape")
            with Child(
                [
                    *dies_with_us("TERM"),
                    programs.path("psql"),
                    "--no-psqlrc",
                    "--quiet",
                    "--no-password",
                    "--output=/dev/null",
                    f"--file={file}",
                    *endpoint.child_arguments(),
                ],
                env=endpoint.child_environment() | {"PGTZ": "UTC"},
                name="psql",
            ) as child:
                done = child.wait(timeout_s=_TIMEOUT_S)
        errors = [
            line
            for line in done.stderr.splitlines()
            if ("ERROR:" in line or "FATAL:" in line) and not _is_harmless(line)
        ]
        if errors or not done.ok:
            raise RedumpFailed(errors[0] if errors else done.complaint)
        return dump_schema(programs, endpoint)

    return redump


def _is_harmless(line: str) -> bool:
    # template0 has public already; a dump names it when its owner or comment is not the default.
    return 'schema "public" already exists' in line or HARMLESS in line
