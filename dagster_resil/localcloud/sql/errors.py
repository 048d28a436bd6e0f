"""The Admin API's refusals, in Google's words. Reasons are what a client branches on."""

from __future__ import annotations

from collections.abc import Sequence

from dagster_resil.localcloud.protocol import ApiError
from dagster_resil.localcloud.sql.discovery import Violation


def malformed(violations: Sequence[Violation]) -> ApiError:
    """Return the answer to a body that the discovery document does not know.

    It comes from Google's front end, not from Cloud SQL, and has ``details``.
    """
    message = "Invalid JSON payload received. " + "\n".join(each.message for each in violations)
    found = [{"field": each.place, "description": each.message} for each in violations]
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": found}]
    return ApiError(400, "badRequest", message, kind="INVALID_ARGUMENT", details=details)


def invalid_request(message: str) -> ApiError:
    """Return the answer to a request that Cloud SQL can't make sense of."""
    return ApiError(400, "invalidRequest", f"Invalid request: {message}")


def not_authorized() -> ApiError:
    """Return the answer to a caller without the permission."""
    return ApiError(403, "notAuthorized", "The client is not authorized to make this request.")


def no_instance() -> ApiError:
    """Return the answer where there is no such instance."""
    return ApiError(404, "instanceDoesNotExist", "The Cloud SQL instance does not exist.")


def in_progress() -> ApiError:
    """Return the answer while another operation has the instance."""
    return ApiError(
        409,
        "operationInProgress",
        "Operation failed because another operation was already in progress. Try your request "
        "after the current operation is complete.",
    )


class OperationFailed(Exception):
    """An operation ends with an error.

    :param code: Google's word for it; the set is open.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Cancelled(OperationFailed):
    """Somebody cancelled the operation."""

    def __init__(self) -> None:
        super().__init__("CANCELLED", "The operation was cancelled.")
