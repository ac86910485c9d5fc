"""A refusal in each protocol: a gRPC status, or an HTTP status with JSON.

Refusals are the `RegistryError` tree. Both protocols use its `code`, the name of a gRPC status.
"""

import math
from collections.abc import Mapping
from typing import Any

import grpc

from pegaref.errors import CleanupPending, RegistryError

# The nearest HTTP status for each gRPC status. Whatever is worth retrying later is a 503.
_HTTP_STATUS: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 412,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 503,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class NotFound(RegistryError):
    """Raised if nothing has the name that was asked for."""

    code = "NOT_FOUND"


class NotBuilt(RegistryError):
    """Raised for a method of PegaFlow's service that this server does not have."""

    code = "UNIMPLEMENTED"


class VersionRefused(RegistryError):
    """Raised for a register by a client whose version this server does not accept."""

    code = "FAILED_PRECONDITION"


class Forbidden(RegistryError):
    """Raised if the caller may not change anything; the message says what would allow it."""

    code = "PERMISSION_DENIED"


class Unauthenticated(RegistryError):
    """Raised if a token is required and the caller sent none or a wrong one."""

    code = "UNAUTHENTICATED"


class TooMany(RegistryError):
    """Raised at once if a limit, such as that on sessions, is reached."""

    code = "RESOURCE_EXHAUSTED"


def grpc_status(error: RegistryError) -> grpc.StatusCode:
    """The gRPC status of a refusal; an unknown name is INTERNAL."""
    status: grpc.StatusCode = getattr(grpc.StatusCode, error.code, grpc.StatusCode.INTERNAL)
    return status


def detail(error: RegistryError) -> str:
    """The error's message, preceded by the field at fault."""
    return f"{error.field}: {error.message}" if error.field else error.message


def trailers(error: RegistryError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata with the values that a client may act on, so that it parses no text."""
    pairs = []
    if error.field:
        pairs.append(("field", error.field))
    if error.retry_after_s is not None:
        pairs.append(("retry-after-s", f"{error.retry_after_s:g}"))
    if isinstance(error, CleanupPending):
        pairs.append(("operation-id", error.operation_id))
    return tuple(pairs)


def http_status(error: RegistryError) -> int:
    """The HTTP status of a refusal; an unknown code is 500."""
    return _HTTP_STATUS.get(error.code, 500)


def http_headers(error: RegistryError) -> dict[str, str]:
    """`Retry-After` in whole seconds (at least 1) on every 503, `WWW-Authenticate` on 401."""
    status = http_status(error)
    if status == 503:
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s or 1.0)))}
    if status == 401:
        return {"www-authenticate": "Bearer"}
    return {}


def as_json(error: RegistryError) -> dict[str, Any]:
    """A refusal as a JSON object: always `error` and `code`, other keys only if they have a value."""
    body: dict[str, Any] = {"error": detail(error), "code": error.code}
    if error.field:
        body["field"] = error.field
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    if isinstance(error, CleanupPending):
        body["operation"] = error.operation_id
    return body
