"""How databases are reached: plainly on this machine, verified elsewhere, secrets nowhere."""

from __future__ import annotations

import datetime as dt
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dagster_resil.cloudsql.client import CloudSql
from dagster_resil.cloudsql.endpoint import endpoint_of
from dagster_resil.cloudsql.instance import Certificates
from dagster_resil.errors import CloudSqlError, ConfigurationError, SourceUnreachable
from dagster_resil.logs import redact
from dagster_resil.postgres.connection import Endpoint
from dagster_resil.postgres.programs import client_for
from dagster_resil.postgres.server import Server, hand_over, reachable_programs
from dagster_resil.process import run
from dagster_resil.workspace import Workspace
from tests.cloudsql.instances import SOURCE, connected
from tests.conftest import stock
from tests.localcloud.cloudsql import PASSWORD
from tests.localcloud.cloudsql import CloudSql as Google


def test_the_local_cloud_is_reached_plainly(
    sql: Google, client: CloudSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = client.instance(SOURCE)
    endpoint = endpoint_of(
        instance, database="shop", user="postgres", password=PASSWORD, cloud=client
    )
    with endpoint.connect() as connection:
        row = connection.execute("SELECT count(*) FROM public.item").fetchone()
    assert row == (500,)
    assert PASSWORD not in repr(endpoint)
    arguments = endpoint.child_arguments()
    assert PASSWORD not in "".join(arguments)
    program = client_for(instance.major).path("pg_dump")
    done = run([program, *arguments, "--schema-only"], env=endpoint.child_environment())
    assert "CREATE TABLE public.item" in done.stdout
    wrong = endpoint_of(
        instance, database="shop", user="postgres", password="not-the-secret", cloud=client
    )
    with pytest.raises(SourceUnreachable) as refused:
        wrong.connect()
    assert "not-the-secret" not in str(refused.value)
    assert f"can't connect to shop of instance {SOURCE} (127.0.0.1:" in refused.value.message
    assert refused.value.hint == "check the user and the password"
    assert "not-the-secret" not in redact("it is not-the-secret")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with endpoint_of(instance, database="shop", user="postgres", cloud=client).connect():
        pass


def test_an_access_token_is_the_password(sql: Google) -> None:
    cloud = connected(sql, "backup")
    endpoint = endpoint_of(
        cloud.instance(SOURCE),
        database="shop",
        user="backup@local.iam.gserviceaccount.com",
        iam=True,
        cloud=cloud,
    )
    assert endpoint.parameters["user"] == "backup@local.iam"
    token = endpoint.password
    assert token is not None
    assert token.startswith("ya29.")
    assert token not in repr(endpoint)
    assert token not in redact(f"the token {token}")
    with pytest.raises(SourceUnreachable) as refused:
        endpoint.connect()
    assert "the local cloud has no IAM database authentication" in refused.value.hint
    with pytest.raises(ConfigurationError, match="not both"):
        endpoint_of(
            cloud.instance(SOURCE), database="x", user="x", password="y", iam=True, cloud=cloud
        )
    sql.cloud.fault("error", method="oauth2.token", status=401)
    with pytest.raises(CloudSqlError, match="can't sign in"):
        cloud.login_token()
    sql.cloud.mend()
    sql.cloud.fault("drop", method="oauth2.token", times=1)
    assert cloud.login_token().startswith("ya29.")


def test_an_instance_without_an_address(client: CloudSql) -> None:
    instance = replace(client.instance(SOURCE), address="")
    with pytest.raises(CloudSqlError, match="has no address"):
        endpoint_of(instance, database="shop", user="x", cloud=client)


def test_certificates_are_googles(client: CloudSql, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CloudSqlError, match="has no certificate"):
        client.certificates(SOURCE)
    resource: dict[str, Any] = {"dnsName": "x.sql.goog.", "serverCaCert": {"cert": "-one-\n"}}
    monkeypatch.setattr(client, "_resource", lambda *where: resource)
    # An instance's own authority signs for nobody else; its certificates have no host's name.
    assert client.certificates(SOURCE) == Certificates("-one-\n", None)
    resource["settings"] = {"ipConfiguration": {"serverCaMode": "GOOGLE_MANAGED_CAS_CA"}}
    monkeypatch.setattr(
        client, "_read", lambda *request: {"certs": [{"cert": "-one-"}, {"cert": "-two-"}]}
    )
    assert client.certificates(SOURCE) == Certificates("-one-\n-two-\n", "x.sql.goog")


# -- a server as Google's are


def signed(folder: Path, host: str) -> str:
    """Write a server's key and certificate into a folder; return its authority's."""
    now = dt.datetime.now(dt.UTC)

    def build(
        name: str, issuer: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=key is signer, path_length=None), critical=True)
        )
        if key is not signer:
            names = x509.SubjectAlternativeName([x509.DNSName(host)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(signer, hashes.SHA256())

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (folder / "server.key").write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    encoding = serialization.Encoding.PEM
    (folder / "server.crt").write_bytes(build(host, "ca", own, authority).public_bytes(encoding))
    return build("ca", "ca", authority, authority).public_bytes(encoding).decode()


HOST = "orders.europe-west1.sql.goog"


@pytest.fixture
def remote(
    client: CloudSql, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Server, Certificates]]:
    """A server with a certificate, and a client that takes it for one of Google's."""
    with socket.socket() as free, Workspace() as space:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = Server(
            reachable_programs(stock(15)), space.path / "data", space.socket_dir, port=port
        )
        server.initialize({"ssl": "on", "fsync": "off"})
        authority = signed(server.data, HOST)
        for name in ("server.key", "server.crt"):
            (server.data / name).chmod(0o600)
            hand_over(server.data / name)
        server.start()
        monkeypatch.setattr(CloudSql, "is_local", False)
        try:
            yield server, Certificates(authority, None)
        finally:
            server.stop()


def test_a_server_elsewhere_is_verified(
    client: CloudSql,
    remote: tuple[Server, Certificates],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    server, own = remote
    instance = replace(client.instance(SOURCE), port=int(server.port or 0))
    known = own

    def reach(name: str) -> Endpoint:
        monkeypatch.setattr(client, "certificates", lambda *where, **options: known)
        return endpoint_of(
            instance,
            database="postgres",
            user="postgres",
            password=server.password,
            server_ca=tmp_path / name,
            cloud=client,
        )

    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    endpoint = reach("own")
    assert endpoint.parameters["sslmode"] == "verify-ca"
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o600
    with endpoint.connect() as connection:
        assert connection.execute(query).fetchone() == (True,)
        pinned = endpoint.pinned_to(connection)
    program = client_for(15).path("pg_dump")
    done = run([program, *pinned.child_arguments()], env=pinned.child_environment())
    assert done.ok, done.complaint
    # Where the certificate has a name, that is verified too.
    known = replace(own, host=HOST)
    with reach("named").connect() as connection:
        assert connection.execute(query).fetchone() == (True,)
        assert connection.info.hostaddr == "127.0.0.1"
    known = replace(own, host="another.sql.goog")
    with pytest.raises(SourceUnreachable, match="another"):
        reach("misnamed").connect()
    (tmp_path / "x").mkdir()
    known = Certificates(signed(tmp_path / "x", HOST), None)
    with pytest.raises(SourceUnreachable, match="certificate"):
        reach("forged").connect()
    with pytest.raises(ConfigurationError, match="can't write the certificate authority"):
        reach("forged")
    with pytest.raises(ConfigurationError, match="can't be verified without"):
        endpoint_of(instance, database="postgres", user="postgres", cloud=client)
