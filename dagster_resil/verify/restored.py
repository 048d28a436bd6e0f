"""Comparing a restored backup with what its source held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psycopg

from dagster_resil.errors import (
    CannotProve,
    ResilError,
)
from dagster_resil.postgres.catalogues import MADE_ROW_TYPE, compare_catalogues, parts_left_out
from dagster_resil.postgres.connection import Connection, Endpoint
from dagster_resil.postgres.globals_file import NotAsWritten, read_globals_file
from dagster_resil.postgres.inventory import (
    EXTENSION_VERSION,
    read_sequences,
    take_inventory,
)
from dagster_resil.postgres.load import Loaded, apply_globals
from dagster_resil.postgres.programs import Programs, client_for
from dagster_resil.postgres.quoting import escaped
from dagster_resil.postgres.server_inventory import (
    SERVER_KINDS,
    changed_bootstrap_role,
    compare_server_inventories,
    take_server_inventory,
)
from dagster_resil.postgres.session import prepare_session
from dagster_resil.progress import Progress, Step
from dagster_resil.records.expected import Expected
from dagster_resil.records.inventory import LargeObjects
from dagster_resil.records.manifest import Manifest, Source
from dagster_resil.records.receipt import Check
from dagster_resil.records.verdict import Verdict
from dagster_resil.verify.compare import (
    DETAILS_SHOWN,
    compare_tables,
)
from dagster_resil.verify.contents import read_tables
from dagster_resil.verify.schema import (
    SchemaDifference,
    compare_inventories,
    compare_schemas,
    dump_schema,
    redumper,
)


@dataclass(frozen=True)
class Comparison:
    """What comparing a restored database with its source gave; the checks judge it.

    :param target: the restored database.
    :param tables: the comparison of tables; see :func:`compare_tables`.
    :param differences: what of the rest is not as in the source.
    :param unsettled: why the definitions could not be compared to the end; empty when they were.
    :param money: why values of type money could not be; empty when they were.
    :param not_checked: what was not compared, and why.
    """

    manifest: Manifest
    expected: Expected
    target: Endpoint
    tables: pd.DataFrame
    differences: tuple[SchemaDifference, ...] = ()
    unsettled: str = ""
    money: str = ""
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoredBackup:
    """A backup that was restored, beside what it has to equal.

    :param folder: the fetched backup.
    :param target: the restored database.
    :param programs: where pg_dump is, if the one that made the source's schema is not there.
    :param create_database: makes an empty scratch database like the source's, for schemas whose
        dumps differ in nothing but their wording.
    :param own_server: whether the server holds nothing else; on a shared one the roles of others
        are not compared.
    :param with_settings: whether the database's settings are applied before they are compared.
    """

    manifest: Manifest
    expected: Expected
    folder: Path
    target: Endpoint
    programs: Programs
    create_database: Callable[[str], Endpoint]
    own_server: bool = True
    with_settings: bool = True

    @property
    def _globals_file(self) -> Path:
        return self.folder / "globals.sql"

    def compare(self, *, jobs: int, progress: Progress) -> Comparison:
        """Compare the restored database with what the source held.

        The database's settings are applied on the way, when its data has been looked at: one of
        them may keep anybody from connecting.
        """
        manifest, expected = self.manifest, self.expected
        restored = read_tables(
            self.target,
            form=manifest.expectations.fingerprint,
            jobs=jobs,
            leave_out=frozenset(expected.unreadable_tables),
            progress=progress,
        )
        tables = compare_tables(manifest.tables, restored.tables, moving=restored.moving)
        progress(Step("comparing the schema"))
        with self.target.connect(autocommit=True) as connection:
            prepare_session(connection)
            differences, unsettled = self._compare_schema()
            # Before the settings, which could be in its way.
            with_tablespaces = (
                self.own_server and expected.globals is not None and _in_place(connection)
            )
            applied = self._apply_globals(with_tablespaces)
            differences += [
                SchemaDifference(kind="globals.sql", identity="", what="different", detail=error)
                for each in applied
                for error in each.errors
                if not each.environment
            ]
            lacking = [error for each in applied if each.environment for error in each.errors]
            if lacking:
                unsettled = unsettled or f"globals.sql could not be applied here: {lacking[0]}"
            # What it did not come to is not there, for a reason that is the machine's.
            ignored = _IN_GLOBALS if lacking else frozenset[str]()
            differences += [
                difference
                for difference in [
                    *compare_state(connection, expected, restored.large_objects),
                    *_compare_globals(
                        connection,
                        manifest,
                        expected,
                        self._globals_file if with_tablespaces else None,
                    ),
                ]
                if (self.own_server or not is_about_the_server(difference))
                and difference.kind not in ignored
            ]
            # It is the server that lacks the source's extension, or a function's own affair what
            # it makes of columns in another order: that says nothing about the backup.
            unsure = [
                each for each in differences if each.kind in (EXTENSION_VERSION, MADE_ROW_TYPE)
            ]
            if unsure and len(unsure) == len(differences):
                words = {EXTENSION_VERSION: "extension", MADE_ROW_TYPE: "row type"}[unsure[0].kind]
                unsettled = unsettled or (
                    f"{words} {unsure[0].identity} {unsure[0].detail or unsure[0].what}"
                )
                differences = []
            money = _money_unseen(connection, manifest.source)
        return Comparison(
            manifest=manifest,
            expected=expected,
            target=self.target,
            tables=tables,
            differences=tuple(differences),
            unsettled=unsettled,
            money=money,
            not_checked=(
                *_catalogues_not_compared(expected),
                *_globals_not_compared(
                    manifest,
                    expected,
                    own_server=self.own_server,
                    with_tablespaces=with_tablespaces,
                ),
            ),
        )

    def _compare_schema(self) -> tuple[list[SchemaDifference], str]:
        """Compare the definitions as pg_dump writes them; return why not to the end, if so."""
        manifest = self.manifest
        dumper = _same_dumper(manifest, self.programs)
        restored_dump = dump_schema(dumper, self.target)
        source_dump = (self.folder / manifest.expectations.schema_object).read_text(
            encoding="utf-8", errors="surrogateescape"
        )
        try:
            found = compare_schemas(
                source_dump,
                restored_dump,
                redump=redumper(dumper, self.create_database),
                # By another login than the one that has dumped the source's schema.
                mappings_hidden=not manifest.capabilities.by_own_login,
            )
        except CannotProve as error:
            return [], error.message
        return list(found), ""

    def _apply_globals(self, with_tablespaces: bool) -> list[Loaded]:
        applied = []
        if with_tablespaces:
            applied.append(
                apply_globals(self.target, self._globals_file, part="tablespaces", in_place=True)
            )
        if self.with_settings:
            applied.append(apply_globals(self.target, self._globals_file, part="settings"))
        return applied


def _money_unseen(connection: Connection, source: Source) -> str:
    """Return why values of type money can't be seen as the source shows them; empty if they can.

    The numbers of cents may be equal then; how many decimals they have depends on the locale.
    """
    locale = source.monetary_locale
    if locale is None:
        return ""
    try:
        connection.execute("SELECT pg_catalog.set_config('lc_monetary', %s, true)", [locale])
    except psycopg.errors.InvalidParameterValue:
        return (
            f"the source writes values of type money by locale {locale!r}, which is "
            "not on this machine (Debian: apt install locales; localedef -i "
            f"{locale.split('.')[0]} -f UTF-8 {locale}); the numbers in it are equal"
        )
    return ""


def money_check(check: Check, money: str) -> Check:
    """Make a PASS of ``contents_match`` INCONCLUSIVE where money could not be looked at."""
    if check.verdict is not Verdict.PASS or not money:
        return check
    return check.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "summary": money})


def _in_place(connection: Connection) -> bool:
    """Return whether the server makes tablespaces in its own data folder."""
    setting = "pg_catalog.current_setting('allow_in_place_tablespaces', true)"
    return connection.execute(f"SELECT WHERE {setting} IS NOT NULL").fetchone() is not None


_IN_GLOBALS = SERVER_KINDS | {"ROLE MEMBERSHIP", "ROLE SETTING", "DATABASE SETTING", "DATABASE"}


def _compare_globals(
    connection: Connection, manifest: Manifest, expected: Expected, tablespaces: Path | None
) -> list[SchemaDifference]:
    """Compare what lies around the database with what the source had.

    :param tablespaces: the ``globals.sql`` of which the tablespaces were made; None for none.
    """
    if expected.globals is None:
        return []
    locations = None
    if tablespaces is not None:
        try:
            locations = read_globals_file(tablespaces.read_bytes()).locations
        except NotAsWritten:
            locations = {}  # which was found out before, and is a difference
    return compare_server_inventories(
        expected.globals,
        take_server_inventory(connection),
        bootstrap_role=manifest.source.bootstrap_role,
        locations=locations,
    )


def _catalogues_not_compared(expected: Expected) -> Iterator[str]:
    if missing := parts_left_out(expected.catalogues):
        yield (
            "what pg_dump does not write of PostgreSQL's own objects and extensions (an earlier "
            f"release took the backup, and did not record it): {', '.join(missing)}"
        )


def _globals_not_compared(
    manifest: Manifest, expected: Expected, *, own_server: bool, with_tablespaces: bool
) -> tuple[str, ...]:
    found = []
    if not own_server:
        return ()
    if expected.globals is None:
        found.append(
            "attributes of roles, tablespaces and grants on parameters (an earlier release took "
            "the backup, and did not record them)"
        )
    elif not with_tablespaces:
        found.append("tablespaces (the scratch server makes none in its own folder)")
    role = manifest.source.bootstrap_role
    if changed_bootstrap_role(expected.globals or (), role):
        found.append(f"attributes of role {escaped(role)} (a server has it before a restore)")
    return tuple(found)


def _same_dumper(manifest: Manifest, fallback: Programs) -> Programs:
    with suppress(ResilError):
        found = client_for(int(manifest.tools["pg_dump"].split(".")[0]))
        if found.version == manifest.tools["pg_dump"]:
            return found
    return fallback


def is_about_the_server(difference: SchemaDifference) -> bool:
    """Return whether a difference is of roles and the like, which a server's databases share."""
    return difference.kind in {"ROLE MEMBERSHIP", *SERVER_KINDS} or (
        difference.kind == "ROLE SETTING" and " here " not in difference.identity
    )


def compare_state(
    connection: Connection, expected: Expected, large_objects: LargeObjects
) -> list[SchemaDifference]:
    """Compare what a schema's dump does not show: inventory, sequences, large objects."""
    differences = compare_inventories(expected.inventory, take_inventory(connection))
    differences += compare_catalogues(expected.catalogues, connection)
    found = {
        (s.schema_name, s.name): (s.last_value, s.is_called) for s in read_sequences(connection)
    }
    for sequence in expected.sequences:
        name = f"{sequence.schema_name}.{sequence.name}"
        wanted = (sequence.last_value, sequence.is_called)
        have = found.get((sequence.schema_name, sequence.name))
        if have is None:
            differences.append(SchemaDifference(kind="SEQUENCE", identity=name, what="missing"))
        elif have != wanted:
            differences.append(
                SchemaDifference(
                    kind="SEQUENCE SET",
                    identity=name,
                    what="different",
                    detail=f"stands at {have[0]}, the backup's at {wanted[0]}",
                )
            )
    sizes = dict(expected.large_objects.sizes)
    restored = dict(large_objects.sizes)
    for oid in sorted(sizes.keys() | restored.keys()):
        if sizes.get(oid) == restored.get(oid):
            continue
        what = (
            "missing"
            if oid not in restored
            else ("unexpected" if oid not in sizes else "different")
        )
        differences.append(
            SchemaDifference(
                kind="LARGE OBJECT",
                identity=str(oid),
                what=what,
                detail=f"{restored.get(oid)} bytes, the source's {sizes.get(oid)}",
            )
        )
    return differences


def schema_check(
    differences: Sequence[SchemaDifference], expected: Expected, *, unsettled: str = ""
) -> Check:
    """Return ``schema_matches``.

    :param unsettled: why the definitions could not be compared to the end; empty when they were.
    """
    if unsettled and not differences:
        return Check(
            name="schema_matches", verdict=Verdict.INCONCLUSIVE, summary=unsettled.split("\n", 1)[0]
        )
    if not differences:
        definitions = len(expected.inventory.items) + len(expected.globals or ())
        return Check(
            name="schema_matches",
            verdict=Verdict.PASS,
            summary=f"{definitions:,} definitions, grants and settings and "
            f"{len(expected.sequences):,} sequences' values as in the source",
        )
    lines = [str(difference) for difference in differences]
    more = f" (and {len(lines) - 1:,} more)" if len(lines) > 1 else ""
    return Check(
        name="schema_matches",
        verdict=Verdict.FAIL,
        summary=lines[0].split("\n", 1)[0] + more,
        details=tuple(lines[:DETAILS_SHOWN]),
    )
