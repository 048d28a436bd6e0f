"""Who may do what to which instance, in Cloud SQL's words.

An account's permissions are patterns for a place: ``projects/P`` for a project,
``projects/P/instances/I`` for one instance (as a condition on a role does it), ``*`` for all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from dagster_resil.localcloud.identities import Identities
from dagster_resil.localcloud.protocol import ApiError, Request
from dagster_resil.localcloud.sql.errors import no_instance, not_authorized
from dagster_resil.localcloud.sql.store import Instance, Store


class Access:
    """Looks at every request before it does anything."""

    def __init__(self, store: Store, identities: Identities) -> None:
        self._store = store
        self._identities = identities
        self._here = threading.local()

    @contextmanager
    def denying(self, permission: str | None) -> Iterator[None]:
        """Deny a permission (a pattern) to whoever asks in this thread."""
        self._here.denied = permission
        try:
            yield
        finally:
            self._here.denied = None

    def check(
        self,
        request: Request,
        permission: str,
        *,
        project: str | None = None,
        instance: str | None = None,
    ) -> None:
        """Refuse the request unless its caller has a permission.

        :param project: where; by default what the request names.
        :raises ApiError: 401 for nobody, 403 for somebody.
        """
        if request.caller is None:
            raise ApiError(401, "required", "Login Required.")
        denied = getattr(self._here, "denied", None)
        if denied is not None and fnmatchcase(permission, denied):
            raise not_authorized()
        project = project or request.names["project"]
        instance = instance or request.names.get("instance")
        places = [f"projects/{project}"]
        if instance:
            places.append(f"projects/{project}/instances/{instance}")
        if not any(self._identities.may(request.caller, permission, place) for place in places):
            raise not_authorized()

    def instance(
        self,
        request: Request,
        permission: str,
        *,
        project: str | None = None,
        name: str | None = None,
    ) -> Instance:
        """Return an instance, by default the request's, if the caller may do that to it.

        :raises ApiError: the caller may not, or there is none.
        """
        project = project or request.names["project"]
        name = name or request.names["instance"]
        self.check(request, permission, project=project, instance=name)
        found = self._store.instance(project, name)
        if found is None:
            raise no_instance()
        return found
