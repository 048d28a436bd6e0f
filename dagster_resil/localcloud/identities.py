"""Who may do what: service accounts with keys, tokens, and sets of permissions on buckets.

A caller signs in as with Google: a key file's private key signs a statement, ``POST /token``
changes that for a bearer token of an hour, and an account that may do so gets a token for another
(``generateAccessToken``). Tokens outlive a restart.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qs

import google.auth.crypt
import google.auth.jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dagster_resil.localcloud.protocol import Answer, ApiError, Request, Route, invalid

PROJECT = "local"
_TOKEN_S = 3600
_KEY_BITS = 2048
_DOMAIN = f"{PROJECT}.iam.gserviceaccount.com"

SCRATCH_PROJECT = "scratch"
"""Where clones and restores are looked at, apart from what is protected."""

LANDING_BUCKET = "resil-landing"
"""Where exports of Cloud SQL land, on their way into a vault."""
READ = ("storage.objects.get", "storage.objects.list", "storage.buckets.get")
_LOOK = ("cloudsql.instances.get", "cloudsql.instances.list", "cloudsql.databases.list")
_SCRATCH = (
    *(f"cloudsql.instances.{verb}" for verb in ("create", "get", "list", "update", "delete")),
    "cloudsql.databases.*",
    "cloudsql.users.*",
)
ROLES: Mapping[str, tuple[str, ...] | Mapping[str, tuple[str, ...]]] = {
    "owner": ("*",),
    # Takes and proves backups: creates, never deletes.
    "backup": (
        *(*READ, "storage.objects.create", "storage.objects.setRetention"),
        *(*_LOOK, "cloudsql.instances.export"),
        *(f"cloudsql.backupRuns.{verb}" for verb in ("create", "get", "list")),
        # One process does both on a laptop, each with its own account.
        "iam.serviceAccounts.getAccessToken:cloner",
    ),
    "restorer": (
        *(*READ, *_LOOK, "cloudsql.instances.clone"),
        *("cloudsql.instances.create", "cloudsql.instances.update"),
    ),
    "retention": (*READ, "storage.objects.delete", "cloudsql.backupRuns.delete"),
    # Imports exports where nothing is protected.
    "verifier": {
        "*": (*READ, "storage.objects.create"),
        f"projects/{SCRATCH_PROJECT}": (*_SCRATCH, "cloudsql.instances.import"),
    },
    # Clones what is protected into where nothing is.
    "cloner": {
        "*": (*_LOOK, "cloudsql.instances.clone"),
        f"projects/{SCRATCH_PROJECT}": _SCRATCH,
        LANDING_BUCKET: ("storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy"),
    },
    "failover": (*_LOOK, "cloudsql.instances.failover", "cloudsql.instances.promoteReplica"),
    # May do nothing itself but act as those two.
    "operator": (
        "iam.serviceAccounts.getAccessToken:backup",
        "iam.serviceAccounts.getAccessToken:cloner",
    ),
}
"""The accounts that a new cloud has, and what they may do: everywhere, or in which places."""


def address(name: str) -> str:
    """Return the e-mail address of an account; one of Google's own is named by it."""
    return name if "@" in name else f"{name}@{_DOMAIN}"


@dataclass(frozen=True)
class Account:
    """A service account.

    :param permissions: place → patterns of permissions. A place is a bucket's name, "projects/P",
        "projects/P/instances/I" (of Cloud SQL), or "*" for all.
    :param private_key: empty for one that never signs in: a service's own.
    """

    name: str
    permissions: Mapping[str, tuple[str, ...]]
    private_key: str

    def may(self, permission: str, place: str) -> bool:
        """Return whether it has a permission in a place."""
        return any(
            fnmatchcase(permission, pattern)
            for place in ("*", place)
            for pattern in self.permissions.get(place, ())
        )


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _public_of(private: str) -> bytes:
    key = serialization.load_pem_private_key(private.encode(), None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class Identities:
    """The accounts of a cloud, kept in a folder that only its owner may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._secret = self._read_or_make("secret", lambda: secrets.token_hex(32)).encode()
        self._accounts: dict[str, Account] = {}
        for file in sorted(folder.glob("*.account.json")):
            document = json.loads(file.read_text())
            account = Account(
                document["name"],
                {place: tuple(each) for place, each in document["permissions"].items()},
                document["private_key"],
            )
            self._accounts[address(account.name)] = account
        self._base_url = ""
        for name, permissions in ROLES.items():
            known = self._accounts.get(address(name))
            # What a new release gives them, a cloud that is there already gives them too.
            wanted = {"*": permissions} if isinstance(permissions, tuple) else permissions
            if known is None or known.permissions != wanted:
                self.add(name, wanted)

    def _read_or_make(self, name: str, make: object) -> str:
        file = self._folder / name
        if not file.exists():
            _write(file, make() if callable(make) else "")
        return file.read_text()

    def add(
        self, name: str, permissions: Mapping[str, tuple[str, ...]], *, key: bool = True
    ) -> Account:
        """Add an account, or change what it may do.

        :param key: whether a new one gets a key to sign in with.
        """
        known = self._accounts.get(address(name))
        private_key = known.private_key if known else (_new_key() if key else "")
        account = Account(name, permissions, private_key)
        document = {
            "name": name,
            "permissions": {place: list(each) for place, each in permissions.items()},
            "private_key": account.private_key,
        }
        _write(self._folder / f"{name}.account.json", json.dumps(document))
        with self._lock:
            self._accounts[address(name)] = account
        if self._base_url:
            self._write_key_file(account)
        return account

    def remove(self, name: str) -> None:
        """Remove an account."""
        with self._lock:
            self._accounts.pop(address(name), None)
        for file in (self._folder / f"{name}.account.json", self.key_file(name)):
            file.unlink(missing_ok=True)

    def write_key_files(self, base_url: str) -> None:
        """Write each account's key file, as Google's libraries read them.

        They name the server's address, which may be another after a restart.
        """
        self._base_url = base_url
        for account in list(self._accounts.values()):
            self._write_key_file(account)

    def _write_key_file(self, account: Account) -> None:
        if not account.private_key:
            return
        email = address(account.name)
        document = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": hashlib.sha256(email.encode()).hexdigest()[:16],
            "private_key": account.private_key,
            "client_email": email,
            "token_uri": f"{self._base_url}/token",
        }
        _write(self.key_file(account.name), json.dumps(document))

    def key_file(self, name: str) -> Path:
        """Return where an account's key file is: for GOOGLE_APPLICATION_CREDENTIALS."""
        return self._folder / f"{name}.json"

    # -- tokens

    def token(self, email: str) -> str:
        """Return a bearer token of an account."""
        claim = f"{email}.{int(time.time()) + _TOKEN_S}.{secrets.token_hex(4)}"
        body = base64.urlsafe_b64encode(claim.encode()).decode().rstrip("=")
        return f"ya29.{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()

    def caller(self, authorization: str | None) -> str | None:
        """Return whose token a request has; None when it has none.

        :raises ApiError: the token is none of ours, or too old.
        """
        if authorization is None:
            return None
        refused = ApiError(401, "authError", "Invalid Credentials")
        found = re.fullmatch(r"Bearer ya29\.([A-Za-z0-9_-]+)\.([0-9a-f]{64})", authorization)
        if not found or not hmac.compare_digest(found[2], self._signature(found[1])):
            raise refused
        claim = base64.urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4)).decode()
        email, expiry, _ = claim.rsplit(".", 2)
        if int(expiry) < time.time() or email not in self._accounts:
            raise refused
        return email

    def may(self, caller: str | None, permission: str, place: str) -> bool:
        """Return whether a caller has a permission in a place."""
        account = self._accounts.get(caller or "")
        return account is not None and account.may(permission, place)

    # -- what Google's libraries ask for

    def routes(self) -> list[Route]:
        """Return the methods that give out tokens."""
        return [
            Route("oauth2.token", "POST", "/token", self._sign_in),
            Route(
                "iamcredentials.generateAccessToken",
                "POST",
                "/v1/projects/-/serviceAccounts/{account}",
                self._impersonate,
            ),
        ]

    def _sign_in(self, request: Request) -> Answer:
        form = parse_qs(request.body.read(request.body.left).decode())
        assertion = form.get("assertion", [""])[0]
        try:
            claims = google.auth.jwt.decode(  # type: ignore[no-untyped-call]
                assertion, verify=False
            )
            account = self._accounts[str(claims.get("iss"))]
            google.auth.jwt.decode(  # type: ignore[no-untyped-call]
                assertion,
                certs=_public_of(account.private_key),
                audience=[f"{request.base_url}/token", "https://oauth2.googleapis.com/token"],
            )
        except (ValueError, KeyError):
            return Answer.of(
                {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400
            )
        token = self.token(address(account.name))
        return Answer.of({"access_token": token, "expires_in": _TOKEN_S, "token_type": "Bearer"})

    def _impersonate(self, request: Request) -> Answer:
        email, _, verb = request.names["account"].partition(":")
        if verb != "generateAccessToken":
            raise invalid(f"unknown method {verb}")
        name = email.partition("@")[0]
        if request.caller is None or not self.may(
            request.caller, f"iam.serviceAccounts.getAccessToken:{name}", ""
        ):
            raise ApiError(
                403,
                "forbidden",
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may "
                "not exist).",
            )
        if email not in self._accounts:
            raise ApiError(404, "notFound", f"Unknown service account: {email}")
        expires = datetime.now(UTC) + timedelta(seconds=_TOKEN_S)
        return Answer.of(
            {"accessToken": self.token(email), "expireTime": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
        )


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.replace(file)
