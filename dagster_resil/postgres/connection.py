"""Addresses of databases, and connections to them."""

from __future__ import annotations

import logging
import os
import re
import select
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import psycopg
from psycopg import conninfo
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import TupleRow

from dagster_resil.errors import ConfigurationError, PoolerBetween, SourceUnreachable

Connection = psycopg.Connection[TupleRow]

# What psycopg passes over on the way out of a failed statement, whose own failure is raised. It
# quotes rows, which belong in no log.
logging.getLogger("psycopg").addFilter(
    lambda record: not str(record.msg).startswith("error ignored")
)

CONNECT_TIMEOUT_S = 15
"""A dead host otherwise holds a backup for the kernel's two minutes of SYN retries."""

_ANSWER_S = 3
"""Through a pooler: where no connection to the server is free, the next one waits for minutes."""
_LOOKS = 4

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


class _AnyTextLoader(Loader):
    """Reads text that may hold bytes of another encoding.

    The names of roles, databases and tablespaces are shared by a server's databases, whatever the
    encodings of these.
    """

    def load(self, data: Buffer) -> str:
        connection = self.connection
        encoding = connection.info.encoding if connection else "utf-8"
        return bytes(data).decode(encoding, "surrogateescape")


_ADAPTERS = AdaptersMap(psycopg.adapters)
for _type in ("text", "name", "varchar", "bpchar", '"char"', 0):
    _ADAPTERS.register_loader(_type, _AnyTextLoader)


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
    :param ascii_encoding: the client encoding in which text of a database of encoding SQL_ASCII is
        read. Such a database may hold any byte, and a server does not convert them: in LATIN1 each
        byte is one character, and none is lost.
    """

    parameters: Mapping[str, str]
    password: str | None = field(default=None, repr=False)
    password_in_url: bool = False
    private: bool = False
    server: str = ""
    login_hint: str = (
        "check the user and PGPASSWORD (or the passfile, or the environment variable with the URL)"
    )
    ascii_encoding: str = "LATIN1"

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
        # libpq has been given them in UTF-8, whatever the client encoding is by now.
        pinned |= {"host": info.host, "port": str(info.port)}
        pinned["dbname"] = connection.pgconn.db.decode("utf-8", "surrogateescape")
        pinned["user"] = connection.pgconn.user.decode("utf-8", "surrogateescape")
        if info.hostaddr and not info.host.startswith("/"):
            pinned["hostaddr"] = info.hostaddr
        # A service file or PGPASSWORD may have brought it; libpq would find it again.
        return replace(self, parameters=pinned)

    def with_settings(self, connection: Connection, settings: Mapping[str, str]) -> Endpoint:
        """Return the address for sessions, of client programs too, that begin with some settings.

        Settings of the database and of the login come after them. A pooler may refuse sessions
        that begin with any.

        :param connection: one that was opened to this address.
        """
        if not settings:
            return self
        # Those of PGOPTIONS or of a service file are among them.
        words = [connection.pgconn.options.decode()] if connection.pgconn.options else []
        for name, value in settings.items():
            words.append("-c " + re.sub(r"([\\\s])", r"\\\1", f"{name}={value}"))
        return replace(self, parameters={**self.parameters, "options": " ".join(words)})

    def connect(
        self, *, autocommit: bool = False, application_name: str = "dagster_resil"
    ) -> Connection:
        """Open a connection on which nothing but ``pg_catalog`` is found without its schema.

        :raises SourceUnreachable: the server can't be reached or refuses the login.
        :raises PoolerBetween: the server's session would not be ours alone.
        """
        try:
            connection = self._open(application_name)
            try:
                self._secure(connection)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            text = _without_secrets(str(error).strip(), self.password or "")
            raise SourceUnreachable(
                f"can't connect to {self.describe()}: {text}",
                hint=_connection_hint(text, self.login_hint),
            ) from None
        connection.autocommit = autocommit
        return connection

    def _open(self, application_name: str) -> Connection:
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
        return psycopg.connect(autocommit=True, context=_ADAPTERS, **arguments)  # type: ignore[arg-type]

    def _secure(self, connection: Connection) -> None:
        """Set what every query relies on, after seeing that the session is ours alone.

        Through a pooler libpq has not the number of the server's process. So both are done by one
        statement, which names the operator's schema as long as the path is somebody else's.
        """
        pid = connection.pgconn.backend_pid
        settings = {"search_path": ""}
        if connection.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
            settings["client_encoding"] = self.ascii_encoding
        calls = ", ".join(
            f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in settings.items()
        )
        ours = connection.execute(
            f"SELECT CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {pid} "
            f"THEN pg_catalog.concat({calls}) END"
        ).fetchone()
        if ours == (None,):
            self._refuse_shared_sessions(connection)
            connection.execute(f"SELECT {calls}")

    def _refuse_shared_sessions(self, first: Connection) -> None:
        """Look, without setting anything, whether sessions keep to one process of the server each.

        :raises PoolerBetween: they don't.
        """
        with closing(self._open("dagster_resil")) as second:
            # Twice each: a pool of two that takes turns would give both the same always.
            pids = {_backend(first), _backend(first)}
            _ask(second)
            answer = _answer(second)
            if answer is None:
                # No connection to the server is free. The first's would be, between two statements,
                # if it were not the first's alone.
                pids |= {_backend(first), _backend(first)}
                answer = _answer(second)
            others = {answer} - {None}
            for _ in range(_LOOKS if others else 0):
                others |= {_backend(second), _backend(second)}
                pids |= {_backend(first), _backend(first)}
        if len(pids) > 1 or len(others) > 1 or pids & others:
            raise PoolerBetween(
                f"{self.describe()} is a connection pooler in transaction mode (PgBouncer, for "
                "example): what a session sets there would stay behind on the application's "
                "connections; nothing was set",
                hint="connect to the server itself, or to a pool in session mode "
                "(PgBouncer: pool_mode = session)",
            )

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


def _ask(connection: Connection) -> None:
    connection.pgconn.send_query(b"SELECT pg_catalog.pg_backend_pid()")


def _answer(connection: Connection) -> int | None:
    """Return the process number of the server that answers; None where none does in time."""
    pgconn = connection.pgconn
    deadline = time.monotonic() + _ANSWER_S
    while pgconn.flush() or pgconn.is_busy():
        ready, _, _ = select.select([pgconn.socket], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        pgconn.consume_input()
    value = None
    while result := pgconn.get_result():
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise psycopg.OperationalError(result.get_error_message())
        value = result.get_value(0, 0)
    return int(value) if value else None


def _backend(connection: Connection) -> int:
    _ask(connection)
    answer = _answer(connection)
    if answer is None:
        raise psycopg.OperationalError(f"timeout: no answer within {_ANSWER_S} s")
    return answer


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
