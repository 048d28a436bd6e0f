"""The client of Cloud Storage: who we are there, and which server we take for it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import google.auth.credentials
import requests
import requests.adapters
from google.cloud import storage

from dagster_resil.errors import ConfigurationError
from dagster_resil.google import LOCALCLOUD_VARIABLE as LOCALCLOUD_VARIABLE  # others' too
from dagster_resil.google import is_loopback, sign_in

_OVERRIDE_VARIABLE = "API_ENDPOINT_OVERRIDE"
_EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"
_SCOPE = "https://www.googleapis.com/auth/devstorage.full_control"
_PREFIX = "RESIL_GCS_"
STORAGE_CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")
QUANTUM_BYTES = 256 << 10
"""What a part of a resumable upload, but the last, has to be a multiple of."""
_KMS_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_MOST_DAYS = 36_500
"""Cloud Storage retains for 100 years at the most."""
_MOST_S = 86_400
_CONNECTIONS = 64
"""Kept open: as many as there may be jobs. The library's own ten would be closed and made anew."""

Hold = Literal["temporary", "event-based"]
RetentionMode = Literal["Locked", "Unlocked"]

ClientSource = Callable[[], storage.Client]


@dataclass(frozen=True)
class GcsSettings:
    """How objects are written, what their bucket has to be, and as whom we sign in.

    None means: as the bucket has it, or: not looked at.

    :param impersonate: the service account to act as.
    :param storage_class: of new objects, for example "NEARLINE".
    :param kms_key: the customer-managed key that encrypts new objects.
    :param object_retention_days: how long each new object has to stay.
    :param object_retention_mode: whether anybody may take that back: not when "Locked".
    :param hold: the hold that each new object gets.
    :param location: where the bucket has to be, for example "europe-west1".
    :param versioning: whether the bucket has to keep noncurrent versions.
    :param retention_days: how long the bucket's own policy has to keep objects at least.
    :param retention_locked: whether that policy has to be locked.
    :param whole_bytes: up to this size an object goes up in one request, out of memory.
    :param step_bytes: a larger one goes in parts of this size; a multiple of 256 KiB.
    :param timeout_s: how long to wait for a connection, and for each answer.
    :param retry_s: how long to go on with what fails in passing.
    """

    impersonate: str | None = None
    storage_class: str | None = None
    kms_key: str | None = None
    object_retention_days: int | None = None
    object_retention_mode: RetentionMode = "Unlocked"
    hold: Hold | None = None
    location: str | None = None
    versioning: bool | None = None
    retention_days: int | None = None
    retention_locked: bool | None = None
    whole_bytes: int = 64 << 20
    step_bytes: int = 16 << 20
    timeout_s: float = 60
    retry_s: float = 60

    def __post_init__(self) -> None:
        def wants(name: str, holds: bool, wanted: str) -> None:
            if not holds:
                raise _wrong(name, getattr(self, name), wanted)

        wants("hold", self.hold in (None, "temporary", "event-based"), "temporary or event-based")
        mode, days = self.object_retention_mode, self.object_retention_days
        wants("object_retention_mode", mode in ("Locked", "Unlocked"), "Locked or Unlocked")
        wants(
            "object_retention_mode",
            mode == "Unlocked" or days is not None,
            f"a number of days beside it, in object_retention_days ({_PREFIX}OBJECT_RETENTION_DAYS)"
            ": without, nothing is retained",
        )
        for name in ("object_retention_days", "retention_days"):
            value = getattr(self, name)
            wants(name, value is None or 1 <= value <= _MOST_DAYS, f"days, 1 to {_MOST_DAYS:,}")
        wants(
            "storage_class",
            self.storage_class in (None, *STORAGE_CLASSES),
            " or ".join(STORAGE_CLASSES),
        )
        wants(
            "kms_key",
            self.kms_key is None or _KMS_KEY.fullmatch(self.kms_key) is not None,
            "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY",
        )
        wants(
            "impersonate",
            self.impersonate is None or "@" in self.impersonate,
            "a service account's address: NAME@PROJECT.iam.gserviceaccount.com",
        )
        wants("whole_bytes", self.whole_bytes >= 0, "a number of bytes")
        wants(
            "step_bytes",
            self.step_bytes > 0 and self.step_bytes % QUANTUM_BYTES == 0,
            f"a multiple of {QUANTUM_BYTES}",
        )
        for name in ("timeout_s", "retry_s"):
            wants(name, 0 < getattr(self, name) <= _MOST_S, f"seconds, more than 0, to {_MOST_S:,}")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **over: object
    ) -> GcsSettings:
        """Read the settings from ``RESIL_GCS_…``, each named as its field is.

        :param over: settings that go before those.
        :raises ConfigurationError: one of them is unknown or makes no sense.
        """
        environment = os.environ if environment is None else environment
        known = {f"{_PREFIX}{field.name.upper()}" for field in fields(cls)}
        for variable in sorted(environment):
            if variable.startswith(_PREFIX) and variable not in known:
                near = difflib.get_close_matches(variable, known, n=1, cutoff=0)
                raise ConfigurationError(
                    f"the environment variable {variable} is no setting for Cloud Storage",
                    hint=f"did you mean {near[0]}? otherwise unset it",
                )
        given: dict[str, object] = {}
        for field in fields(cls):
            variable = f"{_PREFIX}{field.name.upper()}"
            text = environment.get(variable, "").strip()
            if not text:
                continue
            try:
                given[field.name] = _read(str(field.type), text)
            except ValueError:
                raise ConfigurationError(
                    f"the environment variable {variable} makes no sense: {text[:40]!r}",
                    hint="days, bytes and seconds are numbers; versioning is on or off",
                ) from None
        return cls(**(given | over))  # type: ignore[arg-type]


_SWITCHES = {"on": True, "true": True, "off": False, "false": False}


def _read(kind: str, text: str) -> object:
    if kind.startswith("bool"):
        if text.lower() not in _SWITCHES:
            raise ValueError(text)
        return _SWITCHES[text.lower()]
    if kind.startswith("int"):
        return int(text)
    if kind.startswith("float"):
        return float(text)
    return text


def _wrong(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"{value!r} can't be the Cloud Storage setting {name} ({_PREFIX}{name.upper()})",
        hint=f"it takes {wanted}",
    )


def new_client(settings: GcsSettings) -> storage.Client:
    """Return a client with Application Default Credentials.

    :raises ConfigurationError: there are none, or the environment leads to an emulator.
    """
    _refuse_emulators()
    if os.environ.get(_EMULATOR_VARIABLE):  # our own, which was just looked at
        client = storage.Client()
    else:
        credentials, project = sign_in([_SCOPE], impersonate=settings.impersonate)
        # Buckets are named without a project; the library wants one only to make them.
        client = storage.Client(project=project or "none", credentials=credentials)
    check_client(client)
    prepare(client)
    return client


def _refuse_emulators() -> None:
    """Refuse an environment that would have backups go into an emulator unnoticed.

    :raises ConfigurationError: it would.
    """
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    emulator = os.environ.get(_EMULATOR_VARIABLE)
    override = os.environ.get(_OVERRIDE_VARIABLE)
    if local and not emulator and not _same(override, local):
        # Naming a local cloud means that the real one must not be asked.
        raise _elsewhere(local, override or "Google's own")
    if emulator and emulator != local:
        raise ConfigurationError(
            f"{_EMULATOR_VARIABLE} is set: Google's library would sign in as nobody and take "
            f"{emulator[:100]} for Cloud Storage",
            hint=f"unset {_EMULATOR_VARIABLE}; for a cloud on this machine: "
            "python -m dagster_resil.localcloud",
        )


def check_client(client: storage.Client) -> None:
    """Refuse a client whose server is neither Google's nor our own local cloud.

    :raises ConfigurationError: it is another.
    """
    endpoint = str(client.api_endpoint)
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    if local and not _same(endpoint, local):
        raise _elsewhere(local, endpoint)
    if not local and not endpoint.startswith("https://"):
        raise ConfigurationError(
            f"the client of Cloud Storage is directed to {endpoint}, which is neither Google's "
            "nor the local cloud",
            hint=f"unset {_EMULATOR_VARIABLE} and {_OVERRIDE_VARIABLE}"
            + (
                f"; if a local cloud is there: export {LOCALCLOUD_VARIABLE}={endpoint}"
                if is_loopback(endpoint)
                else ""
            ),
        )
    if is_anonymous(client) and not is_loopback(endpoint):
        raise ConfigurationError(
            "the client of Cloud Storage has no credentials",
            hint="on your machine: gcloud auth application-default login",
        )


def _same(address: str | None, other: str) -> bool:
    return address is not None and address.rstrip("/") == other.rstrip("/")


def _elsewhere(local: str, endpoint: str) -> ConfigurationError:
    return ConfigurationError(
        f"{LOCALCLOUD_VARIABLE} names the local cloud {local}, but the client of Cloud Storage is "
        f"led to {endpoint[:100]}",
        hint=f"export {_OVERRIDE_VARIABLE}={local}, or unset {LOCALCLOUD_VARIABLE} for Google's",
    )


def is_anonymous(client: storage.Client) -> bool:
    """Return whether a client signs in as nobody."""
    return isinstance(client._credentials, google.auth.credentials.AnonymousCredentials)


def prepare(client: storage.Client) -> None:
    """Let a client keep a connection for each of our threads, and ask for nothing unasked."""
    # For its traces, which nobody has turned on, it would look at the bucket behind our back.
    client._bucket_metadata_cache = None
    for scheme in ("https://", "http://"):
        client._http.mount(
            scheme, requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS, max_retries=0)
        )
    # The session that signs in. Its library would stumble over a token that is no JSON.
    signing_in: requests.Session | None = getattr(client._http, "_auth_request_session", None)
    if signing_in is not None and _see_json not in signing_in.hooks["response"]:
        signing_in.hooks["response"].append(_see_json)


def _see_json(response: requests.Response, **_: object) -> None:
    """See that an answer is JSON that says so: one that is not was damaged on its way.

    :raises InvalidJSONError: it is not.
    """
    if response.ok and "json" in response.headers.get("Content-Type", ""):
        response.json()
