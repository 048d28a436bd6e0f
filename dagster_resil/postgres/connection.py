"""Addresses of databases, and connections to them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow

from dagster_resil.errors import ConfigurationError, SourceUnreachable

Connection = psycopg.Connection[TupleRow]

# What psycopg passes over on the way out of a failed statement, whose own failure is raised. It
# quotes rows, which belong in no log.
logging.getLogger("psycopg").addFilter(
    lambda record: not str(record.msg).startswith("error ignored")
)

CONNECT_TIMEOUT_S = 15
"""A dead host otherwise holds a backup for the kernel's two minutes of SYN retries."""

_SCHEMES = ("postgresql://", "postgres://")
_ENCODE_HINT = (
    "use postgresql://user@host:5432/name; in a password write %40 for @, %2F for /, %3A for :, "
    "%3F for ?, %23 for #, %25 for %"
)
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "KRB5CCNAME")
_SECRETS = (
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
)


@dataclass(frozen=True)
class Endpoint:
    """A database to connect to. The password is in no repr, argv, log or message.

    :param parameters: libpq's parameters without a password.
    :param password: the password, when the address or ``--url-env`` brought one; otherwise
        libpq finds it in PGPASSWORD, the passfile or the service file.
    :param password_in_url: whether it was typed in the URL, which deserves a warning.
    :param private: a server of our own: nothing of the environment's PG* belongs to it.
    :param server: what its server is called, for messages: "instance orders".
    :param login_hint: what to do where the login is refused.
    """

    parameters: Mapping[str, str]
    password: str | None = field(default=None, repr=False)
    password_in_url: bool = False
    private: bool = False
    server: str = ""
    login_hint: str = "check the user and PGPASSWORD (or the passfile, or --url-env VARIABLE)"

    @classmethod
    def parse(cls, url: str, *, env: Mapping[str, str] | None = None) -> Endpoint:
        """Read a PostgreSQL URL (or libpq's ``key=value`` form).

        :param env: where PG* defaults come from; the process's own by default.
        :raises ConfigurationError: it is no such address.
        """
        del env  # libpq reads the process's environment by itself
        text = url.strip()
        if not text:
            raise ConfigurationError(
                "the database's address is empty", hint="give a URL, postgresql://user@host/name"
            )
        if "://" in text and not text.startswith(_SCHEMES):
            scheme = text.split("://", 1)[0]
            raise ConfigurationError(
                f"a database's address can't begin with {scheme[:20]!r}",
                hint="use postgresql://user@host:5432/name",
            )
        if "://" not in text and "=" not in text:
            raise ConfigurationError(
                "that is no database address: it is neither a URL nor key=value pairs",
                hint="use postgresql://user@host:5432/name",
            )
        if "://" in text and _ends_in_the_password(text):
            # libpq would take pieces of a password for a host or a name, which messages tell.
            raise ConfigurationError(
                "the database's address can't be right: its port is no number, or an @ or / in it "
                "has to be percent-encoded",
                hint=_ENCODE_HINT,
            )
        try:
            found = conninfo.conninfo_to_dict(text)
        except psycopg.Error as error:
            # libpq quotes the piece that it could not read, which may be a piece of a password.
            words = re.sub(r'"[^"]*"', '"…"', str(error).strip())
            raise ConfigurationError(
                f"the database's address can't be read: {_without_secrets(words, text)}",
                hint=_ENCODE_HINT,
            ) from None
        password = found.pop("password", None)
        for name in _SECRETS[1:]:
            if name in found:
                raise ConfigurationError(
                    f"{name} can't be given in a database's address",
                    hint="it would show in a child's argument list; use an unencrypted key file "
                    "of mode 600, or a service file",
                )
        parameters = {key: str(value) for key, value in found.items() if value is not None}
        return cls(
            parameters,
            None if password is None else str(password),
            password_in_url=password is not None,
        )

    def with_database(self, name: str) -> Endpoint:
        """Return the same server's address with another database."""
        return replace(self, parameters={**self.parameters, "dbname": name})

    def pinned_to(self, connection: Connection) -> Endpoint:
        """Return the address of the one server that ``connection`` reached.

        With several hosts in the address another session could meet another server, where
        the exported snapshot means nothing.
        """
        info = connection.info
        pinned = {
            key: value
            for key, value in self.parameters.items()
            if key not in ("hostaddr", "target_session_attrs", "load_balance_hosts", "service")
        }
        if "service" in self.parameters:
            pinned["service"] = self.parameters["service"]
        pinned |= {"host": info.host, "port": str(info.port), "dbname": info.dbname}
        pinned["user"] = info.user
        if info.hostaddr and not info.host.startswith("/"):
            pinned["hostaddr"] = info.hostaddr
        # A service file or PGPASSWORD may have brought it; libpq would find it again.
        return replace(self, parameters=pinned)

    def connect(
        self, *, autocommit: bool = False, application_name: str = "dagster_resil"
    ) -> Connection:
        """Open a connection.

        :raises SourceUnreachable: the server can't be reached or refuses the login.
        """
        arguments: dict[str, str | int] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            # A peer that vanished without a word is noticed within about a minute.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "application_name": application_name,
            "client_encoding": "UTF8",
        }
        arguments |= self.parameters
        if self.password is not None:
            arguments["password"] = self.password
        try:
            return psycopg.connect(autocommit=autocommit, **arguments)  # type: ignore[arg-type]
        except psycopg.Error as error:
            text = _without_secrets(str(error).strip(), self.password or "")
            raise SourceUnreachable(
                f"can't connect to {self.describe()}: {text}",
                hint=_connection_hint(text, self.login_hint),
            ) from None

    def describe(self) -> str:
        """Return ``host:port/name`` for messages, with its server's name; it holds no secret."""
        service = self.parameters.get("service")
        host = self.parameters.get("host") or os.environ.get("PGHOST") or "localhost"
        port = self.parameters.get("port") or os.environ.get("PGPORT") or "5432"
        name = self.parameters.get("dbname") or os.environ.get("PGDATABASE") or ""
        place = (
            f"service {service}"
            if service and "host" not in self.parameters
            else (f"{host}:{port}")
        )
        if self.server:
            return f"{name} of {self.server} ({place})"
        return f"{place}/{name}"

    def child_arguments(self) -> list[str]:
        """Return the argument that names the database to a client program."""
        return ["--dbname=" + conninfo.make_conninfo("", **self.parameters)]

    def child_environment(self) -> dict[str, str]:
        """Return the small environment that a client program needs, with the password."""
        env = child_environment()
        if not self.private:
            env |= {key: value for key, value in os.environ.items() if key.startswith("PG")}
        if self.password is not None:
            env["PGPASSWORD"] = self.password
        env["PGCONNECT_TIMEOUT"] = str(CONNECT_TIMEOUT_S)
        return env


def child_environment() -> dict[str, str]:
    """Return the part of our environment that holds no credentials."""
    env = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    env["LC_MESSAGES"] = "C"  # messages are read by people who search the web for them
    return env


def _ends_in_the_password(url: str) -> bool:
    """Return whether libpq's reading of a URL ends the password too early.

    The login ends at the only @, before the path begins; a port is a number.
    """
    place, _, path = url.split("://", 1)[1].partition("?")[0].partition("/")
    login, _, hosts = place.rpartition("@")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts.split(",")]
    return "@" in login or "@" in path or not all(port.isdigit() for port in ports if port)


def _without_secrets(message: str, *sources: str) -> str:
    """Take out of a library's message what may be a password."""
    for text in sources:
        if not text:
            continue
        message = message.replace(text, "…")
        if "://" in text:
            try:
                password = urlsplit(text).password
            except ValueError:
                password = None
            # libpq quotes the piece that it could not read, which may be a piece of a password.
            return re.sub(r'"[^"]*"', '"…"', message.replace(password or "\0", "…"))
    return message


def _connection_hint(message: str, login: str) -> str:
    lower = message.lower()
    for sign, hint in (
        ("could not translate host name", "check the host's name, or your DNS"),
        ("failed to resolve host", "check the host's name, or your DNS"),
        ("name or service not known", "check the host's name, or your DNS"),
        ("no password supplied", login),
        ("password authentication failed", login),
        ("iam principal", login),
        (' role "', "list the roles there with: psql -c '\\du'"),
        ("does not exist", "list what there is with: psql -l"),
        ("permission denied for database", "GRANT CONNECT ON DATABASE … TO the login"),
        ("connection refused", "is the server running there, and listening on that port?"),
        ("no such file or directory", "is the server running, with its socket in that folder?"),
        ("timeout", "is there a firewall or VPN between here and the server?"),
        ("too many clients", "free a connection, or raise max_connections"),
        ("remaining connection slots", "free a connection, or raise max_connections"),
        ("pg_hba.conf", "the server's pg_hba.conf has to allow this user from this host"),
        ("ssl", "check sslmode and the certificates"),
    ):
        if sign in lower:
            return hint
    return "try the same address with psql"
