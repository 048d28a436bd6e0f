"""The Cloud SQL Admin API on the wire: one request at a time, and what its answers mean.

Google's library makes the requests and reads the answers. Sending again is our own: the library's
``num_retries`` sends a POST again that was accepted, and so does httplib2 by itself.
"""

from __future__ import annotations

import copy
import functools
import http.client
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import google.auth.credentials
import google_auth_httplib2
import httplib2
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from dagster_resil import logs
from dagster_resil.errors import CloudSqlError, ConfigurationError
from dagster_resil.google import LOCALCLOUD_VARIABLE, is_loopback, sign_in

log = logging.getLogger(__name__)

Watch = Callable[[], None]
Request = Any
"""A ``googleapiclient.http.HttpRequest``; the library has no types."""

GOOGLE = "https://sqladmin.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/sqlservice.admin"
_LOGIN_SCOPE = "https://www.googleapis.com/auth/sqlservice.login"
_OVERRIDE_VARIABLE = "API_ENDPOINT_OVERRIDE"

# The library warns of every refusal, also of what is no failure to us. Our errors tell of the rest.
logging.getLogger("googleapiclient.http").addFilter(
    lambda record: not str(record.msg).startswith("Encountered")
)

_PASSING = (408, 500, 502, 503, 504)
_THROTTLED = ("rateLimitExceeded", "userRateLimitExceeded")
_IN_PROGRESS = "operationInProgress"
_BROKEN = (OSError, http.client.HTTPException, httplib2.HttpLib2Error, TransportError)
_WATCHED_EVERY_S = 0.1
_LONG_S = 3.0
"""What fails for longer is told, though it is tried again."""
_LONGEST_WORDS = 600
"""Characters of what a server says that go into our message: some answer with whole pages."""


def nothing() -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Pace:
    """How often we ask again.

    :param first_s: after that time at first.
    :param most_s: and after that time at last.
    :param settle_s: how long what was accepted may take to show in a list.
    """

    first_s: float
    most_s: float
    settle_s: float


AT_GOOGLE = Pace(2, 30, 30)
"""Operations take minutes there, and each project has few requests a minute."""
ON_LOOPBACK = Pace(0.05, 0.5, 0.3)


class Refusal(Exception):
    """The answer was an error: what was asked for is not done.

    :param reason: Google's word, which is what to branch on; the set is open.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def is_in_progress(self) -> bool:
        """Return whether another operation has the instance. Google says so with 409 and 403."""
        return self.reason == _IN_PROGRESS

    @property
    def is_throttled(self) -> bool:
        """Return whether we ask too often."""
        return self.status == 429 or self.reason in _THROTTLED


class NoAnswer(Exception):
    """There was no answer, or none that tells whether what was asked for is done."""


class _Sent(http.client.HTTPConnection):
    """What both kinds of connections do.

    httplib2 takes a connection that ends without an answer for one that had gone stale, and sends
    the request again, a POST too. Ours are new for each request: that one has arrived.
    """

    def getresponse(self) -> http.client.HTTPResponse:
        try:
            return super().getresponse()
        except (http.client.BadStatusLine, http.client.ResponseNotReady) as error:
            raise ConnectionResetError(f"no answer: {error}") from None


class _PlainConnection(_Sent, httplib2.HTTPConnectionWithTimeout):  # type: ignore[misc]
    pass


class _TlsConnection(_Sent, httplib2.HTTPSConnectionWithTimeout):  # type: ignore[misc]
    pass


class _Http(httplib2.Http):  # type: ignore[misc]
    def request(self, uri: str, *args: Any, **options: Any) -> Any:
        secure = urlsplit(uri).scheme == "https"
        options["connection_type"] = _TlsConnection if secure else _PlainConnection
        return super().request(uri, *args, **options)


class Api:
    """Signed in to the Admin API of Google, or of the local cloud. Threads may share it.

    :param endpoint: where it is; None for the local cloud where the environment names one, and
        Google's otherwise.
    :param impersonate: the service account to act as.
    :param credentials: used as they are, in place of Application Default Credentials.
    :param request_timeout_s: how long to wait for a connection, and for an answer.
    :param retry_s: how long to go on with what fails in passing.
    :raises ConfigurationError: there are no credentials, or the address is not to be trusted.
    """

    def __init__(
        self,
        *,
        endpoint: str | None,
        impersonate: str | None,
        credentials: google.auth.credentials.Credentials | None,
        request_timeout_s: float,
        retry_s: float,
    ) -> None:
        self.endpoint = endpoint or _endpoint_of_environment()
        self.on_loopback = is_loopback(self.endpoint)
        self.pace = ON_LOOPBACK if self.on_loopback else AT_GOOGLE
        self.retry_s = retry_s
        self._timeout_s = request_timeout_s
        self._impersonate = impersonate
        if not self.on_loopback and not self.endpoint.startswith("https://"):
            raise ConfigurationError(
                f"the client of Cloud SQL is directed to {self.endpoint}, which is neither "
                "Google's nor on this machine",
                hint=f"unset {_OVERRIDE_VARIABLE}",
            )
        if credentials is None:
            if self.on_loopback and self.endpoint != os.environ.get(LOCALCLOUD_VARIABLE):
                # Whoever listens there would get a token that is good at Google.
                raise ConfigurationError(
                    f"{self.endpoint} is not known to be the local cloud",
                    hint=f"set {LOCALCLOUD_VARIABLE} to its address",
                )
            credentials, _ = sign_in([_SCOPE], impersonate=impersonate)
        self._credentials = _scoped(credentials, _SCOPE)
        anonymous = isinstance(credentials, google.auth.credentials.AnonymousCredentials)
        if anonymous and not self.on_loopback:
            raise ConfigurationError(
                "the client of Cloud SQL has no credentials",
                hint="on your machine: gcloud auth application-default login",
            )
        # A refresh changes them; two at a time would be asked for in vain.
        self._signing_in = threading.Lock()

    @property
    def account(self) -> str:
        """Return whom we are signed in as, as far as the credentials tell."""
        found = getattr(self._credentials, "service_account_email", None)
        # On Google's own machines it is "default" until a token was asked for.
        return str(found) if found and "@" in str(found) else "the account that this runs as"

    @property
    def service(self) -> Any:
        """Return Google's description of the methods: what makes requests."""
        return _service(self.endpoint)

    def login_token(self) -> str:
        """Return an access token for logging in to databases, of an hour at most.

        :raises CloudSqlError: the credentials give none.
        """
        # Nothing but logging in may be done with what a database's server gets to see.
        credentials: Any
        if isinstance(self._credentials, google.auth.credentials.Scoped):
            credentials = self._credentials.with_scopes([_LOGIN_SCOPE])  # type: ignore[no-untyped-call]
        else:  # a person's, whose library has no method for that
            credentials = copy.copy(self._credentials)
            credentials._scopes = [_LOGIN_SCOPE]
        deadline = time.monotonic() + self.retry_s
        pauses = self.pauses()
        while True:
            transport = self._transport()
            try:
                credentials.refresh(google_auth_httplib2.Request(transport))
                break
            except (GoogleAuthError, *_BROKEN) as error:
                passing = isinstance(error, _BROKEN) or getattr(error, "retryable", False)
                if not passing or time.monotonic() >= deadline:
                    raise self._can_not_sign_in(error) from None
            finally:
                transport.close()
            pauses(nothing)
        token = str(credentials.token)
        logs.register_secret(token)
        return token

    def send(self, request: Request) -> dict[str, Any]:
        """Send a request once, and return its answer.

        :raises Refusal: the answer is an error that says that nothing was done.
        :raises NoAnswer: there was no answer, or one that does not say so.
        :raises CloudSqlError: we can't sign in.
        """
        transport = self._transport()
        authorized = google_auth_httplib2.AuthorizedHttp(self._credentials, http=transport)
        try:
            with self._signing_in:
                self._credentials.before_request(
                    google_auth_httplib2.Request(transport), request.method, request.uri, {}
                )
            answer = request.execute(http=authorized)
        except HttpError as error:
            refusal = _refusal(error)
            if refusal.status in _PASSING:
                raise NoAnswer(f"HTTP status {refusal.status} ({refusal.message})") from None
            raise refusal from None
        except RefreshError as error:
            if getattr(error, "retryable", False):
                raise NoAnswer(_words(error)) from None
            raise self._can_not_sign_in(error) from None
        except _BROKEN as error:
            raise NoAnswer(_words(error)) from None
        except GoogleAuthError as error:
            raise self._can_not_sign_in(error) from None
        except ValueError as error:  # it is no JSON: an answer that was cut
            raise NoAnswer(f"an answer that can't be read: {_words(error)}") from None
        finally:
            transport.close()
        return answer if isinstance(answer, dict) else {}

    def read(self, request: Request, what: str, *, watch: Watch = nothing) -> dict[str, Any]:
        """Send a request that changes nothing, again where it fails in passing.

        :param what: what it is about, for messages: "instance orders".
        :raises Refusal: the answer is an error.
        :raises CloudSqlError: there was none for too long.
        """
        begun = time.monotonic()
        deadline = begun + self.retry_s
        pauses = self.pauses()
        told = False
        while True:
            try:
                return self.send(request)
            except NoAnswer as failure:
                if time.monotonic() >= deadline:
                    raise self.unreachable(what, failure) from None
                if not told and time.monotonic() - begun >= _LONG_S:
                    told = True
                    log.warning(
                        "Cloud SQL's Admin API has not reported on %s for %.0f s, trying again: %s",
                        what,
                        time.monotonic() - begun,
                        failure,
                    )
            except Refusal as refusal:
                if not refusal.is_throttled or time.monotonic() >= deadline:
                    raise
            pauses(watch)

    def _transport(self) -> _Http:
        if self.on_loopback:  # whatever proxy leads out of here
            return _Http(timeout=self._timeout_s, proxy_info=None)
        return _Http(timeout=self._timeout_s)

    def pauses(self) -> Callable[[Watch], None]:
        """Return what pauses, longer from time to time."""
        pause_s = self.pace.first_s

        def pause(watch: Watch) -> None:
            nonlocal pause_s
            # Many workers that failed together do not come back together.
            wait(pause_s * random.uniform(0.75, 1), watch)  # noqa: S311
            pause_s = min(pause_s * 1.5, self.pace.most_s)

        return pause

    def unreachable(self, what: str, failure: NoAnswer) -> CloudSqlError:
        """Return the error of one who got no answer for too long."""
        return CloudSqlError(
            f"Cloud SQL's Admin API gave no answer about {what} for {self.retry_s:g} s: {failure}",
            hint=f"can this machine reach {self.endpoint}? Is there an incident at "
            "https://status.cloud.google.com?",
            reason="unreachable",
        )

    def _can_not_sign_in(self, error: Exception) -> CloudSqlError:
        hint = "on your machine: gcloud auth application-default login"
        if self._impersonate:
            hint = (
                f"whoever this runs as needs iam.serviceAccounts.getAccessToken on "
                f"{self._impersonate} to act as it: roles/iam.serviceAccountTokenCreator"
            )
        return CloudSqlError(
            f"can't sign in to Cloud SQL's Admin API: {_words(error)}",
            hint=hint,
            reason="signIn",
        )


def wait(seconds: float, watch: Watch) -> None:
    """Wait, watching; what ``watch`` raises ends it."""
    deadline = time.monotonic() + seconds
    watch()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _WATCHED_EVERY_S))
        watch()


def _endpoint_of_environment() -> str:
    """Return where the Admin API is.

    :raises ConfigurationError: the environment leads elsewhere, and not to our local cloud.
    """
    local = os.environ.get(LOCALCLOUD_VARIABLE)
    override = os.environ.get(_OVERRIDE_VARIABLE)
    if override and override != local:
        raise ConfigurationError(
            f"{_OVERRIDE_VARIABLE} is set: {override[:100]} would be taken for Cloud SQL",
            hint=f"unset {_OVERRIDE_VARIABLE}; for a cloud on this machine: "
            "python -m dagster_resil.localcloud",
        )
    return local or GOOGLE


@functools.lru_cache(maxsize=8)
def _service(endpoint: str) -> Any:
    # It is only asked to make requests, which is safe in threads; each is sent with an Http of its
    # own, since httplib2's is not.
    return build(
        "sqladmin",
        "v1",
        static_discovery=True,
        cache_discovery=False,
        http=httplib2.Http(),
        client_options={"api_endpoint": endpoint},
    )


def _scoped(credentials: Any, scope: str) -> Any:
    return google.auth.credentials.with_scopes_if_required(credentials, [scope])  # type: ignore[no-untyped-call]


def _refusal(error: HttpError) -> Refusal:
    """Read an answer that is an error.

    ``error.error_details`` has no ``errors[].reason`` where the answer has ``details`` as well.
    """
    status = int(error.resp.status)
    message, reason = str(error.reason or error.resp.reason or ""), ""
    try:
        found: Mapping[str, Any] = json.loads(error.content)["error"]
        message = str(found.get("message") or message)
        errors = [each for each in found.get("errors", ()) if each.get("reason")]
        details = [each for each in found.get("details", ()) if each.get("reason")]
        if errors or details:
            reason = str((errors or details)[0]["reason"])
        else:
            reason = str(found.get("status", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # a proxy's page
    return Refusal(status, reason, _words(message))


def _words(error: object) -> str:
    """Return what somebody else says, in one line and without secrets."""
    if isinstance(error, GoogleAuthError) and error.args:
        error = error.args[0]
    text = " ".join(str(error).split()) or type(error).__name__
    return logs.redact(text)[:_LONGEST_WORDS]
