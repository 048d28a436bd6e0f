"""Letting a temporary instance write its export into the landing bucket.

Every instance has a service account of its own, a clone too, and a new one may do nothing anywhere.
So it is given a role on the landing bucket for the time of its export.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from google.api_core import exceptions
from google.cloud import storage

from dagster_resil.cloudsql.instance import Instance
from dagster_resil.errors import CloudSqlError
from dagster_resil.google import CLOUD_SCOPE, sign_in
from dagster_resil.vault.gcs_client import check_client, prepare

log = logging.getLogger(__name__)

ROLE = "roles/storage.objectAdmin"
"""Of Google's roles the smallest that creates, lists and deletes, as an export in parallel does."""
_ATTEMPTS = 8
_TIMEOUT_S = 60

Change = Callable[[set[str]], None]


@contextmanager
def may_land(url: str, instance: Instance, *, impersonate: str | None = None) -> Iterator[None]:
    """Let an instance write into a bucket, until the ``with`` is left.

    :param url: ``gs://bucket/…``, where exports land.
    :param impersonate: who gives the role: the account needs ``storage.buckets.getIamPolicy`` and
        ``storage.buckets.setIamPolicy`` on the bucket.
    :raises CloudSqlError: the policy can't be changed.
    """
    bucket = urlsplit(url).netloc
    credentials, project = sign_in([CLOUD_SCOPE], impersonate=impersonate)
    client = storage.Client(project=project or "none", credentials=credentials)
    check_client(client)
    prepare(client)
    member = f"serviceAccount:{instance.service_account}"
    with contextlib.closing(client):
        who = impersonate or "the account that clones"
        _change(client, bucket, instance, who, lambda members: members.add(member))
        try:
            yield
        finally:
            try:
                _change(client, bucket, instance, who, lambda members: members.discard(member))
            except CloudSqlError as error:
                # The account goes with its instance: what it may do here it may never do.
                log.warning("%s is left in the policy of %s: %s", member, bucket, error.message)


def _change(
    client: storage.Client, name: str, instance: Instance, who: str, change: Change
) -> None:
    bucket = client.bucket(name)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            policy = bucket.get_iam_policy(requested_policy_version=3, timeout=_TIMEOUT_S)
            members: set[str] = set()
            others = []
            for binding in policy.bindings:
                if binding["role"] == ROLE and not binding.get("condition"):
                    members |= set(binding["members"])
                else:
                    others.append(binding)
            change(members)
            policy.bindings = [*others, {"role": ROLE, "members": members}] if members else others
            bucket.set_iam_policy(policy, timeout=_TIMEOUT_S)
        except (exceptions.PreconditionFailed, exceptions.Conflict):
            # Somebody else has changed it in between: what they did has to stay.
            if attempt == _ATTEMPTS:
                raise CloudSqlError(
                    f"the policy of bucket {name} keeps being changed by others",
                    hint=f"give {instance.service_account} the role {ROLE} on it yourself",
                ) from None
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - spreads attempts, hides nothing
        except exceptions.Forbidden as error:
            raise CloudSqlError(
                f"may not let instance {instance.name} write its export into bucket {name}: "
                f"{error.message}",
                hint="grant storage.buckets.getIamPolicy and storage.buckets.setIamPolicy on "
                f"bucket {name} to {who}",
            ) from None
        except exceptions.NotFound:
            raise CloudSqlError(
                f"there is no bucket {name} for exports to land in",
                hint=f"make it: gcloud storage buckets create gs://{name}",
            ) from None
        except exceptions.GoogleAPIError as error:
            raise CloudSqlError(
                f"can't change the policy of bucket {name}: {error}",
                hint="Cloud Storage can't be reached: run the backup again",
            ) from None
        else:
            return
