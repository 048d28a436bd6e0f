"""Who may do what to which bucket, in Cloud Storage's words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from dagster_resil.localcloud.identities import Identities
from dagster_resil.localcloud.protocol import ApiError, Request
from dagster_resil.localcloud.storage.store import Bucket, Store


class Access:
    """Looks at every request before it does anything."""

    def __init__(self, store: Store, identities: Identities) -> None:
        self._store = store
        self._identities = identities
        self._here = threading.local()
        # What a bucket's own policy gives a caller; those who read policies set it.
        self.policy: Callable[[str | None, str, str], bool] = lambda *_: False

    @contextmanager
    def denying(self, permission: str | None) -> Iterator[None]:
        """Deny a permission (a pattern) to whoever asks in this thread."""
        self._here.denied = permission
        try:
            yield
        finally:
            self._here.denied = None

    def may(self, request: Request, permission: str, bucket: str) -> bool:
        """Return whether the caller has a permission."""
        denied = getattr(self._here, "denied", None)
        if denied is not None and fnmatchcase(permission, denied):
            return False
        return self._identities.may(request.caller, permission, bucket) or self.policy(
            request.caller, permission, bucket
        )

    def check(self, request: Request, permission: str, bucket: str) -> None:
        """Refuse the request unless the caller has a permission.

        :raises ApiError: 401 for nobody, 403 for somebody.
        """
        if self.may(request, permission, bucket):
            return
        kind = "bucket" if permission.startswith("storage.buckets.") else "object"
        words = (
            f"does not have {permission} access to the Google Cloud Storage {kind}. Permission "
            f"'{permission}' denied on resource (or it may not exist)."
        )
        if request.caller is None:
            raise ApiError(401, "required", f"Anonymous caller {words}")
        raise ApiError(403, "forbidden", f"{request.caller} {words}")

    def bucket(self, request: Request, permission: str, name: str | None = None) -> Bucket:
        """Return the request's bucket, if the caller may do that in it.

        :raises ApiError: the caller may not, or there is none.
        """
        name = request.names["bucket"] if name is None else name
        self.check(request, permission, name)
        bucket = self._store.bucket(name)
        if bucket is None:
            raise ApiError(404, "notFound", "The specified bucket does not exist.")
        return bucket
