"""A refusal as each protocol has it: a gRPC status, or an HTTP status with JSON.

Refusals are the `RegistryError` tree; its `code` is the name of a gRPC status, which is the one vocabulary of
both protocols.
"""

import math
from collections.abc import Mapping
from typing import Any

import grpc

from pegaref.errors import CleanupPending, RegistryError

# HTTP's nearest word for each gRPC status. What is worth trying again later is a 503.
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
    """Raised for something asked for by a name that nothing has."""

    code = "NOT_FOUND"


class NotBuilt(RegistryError):
    """Raised for a method of PegaFlow's service that this server does not have."""

    code = "UNIMPLEMENTED"


class VersionRefused(RegistryError):
    """Raised for a register by a client whose version this server is set not to accept."""

    code = "FAILED_PRECONDITION"


class Forbidden(RegistryError):
    """Raised when the caller may not change anything here; the message says what would let it."""

    code = "PERMISSION_DENIED"


class Unauthenticated(RegistryError):
    """Raised when a token is asked for and none, or a wrong one, was shown."""

    code = "UNAUTHENTICATED"


class TooMany(RegistryError):
    """Raised at once when the server already holds as many of something as it may."""

    code = "RESOURCE_EXHAUSTED"


def grpc_status(error: RegistryError) -> grpc.StatusCode:
    """The gRPC status of a refusal; an unknown name is INTERNAL."""
    status: grpc.StatusCode = getattr(grpc.StatusCode, error.code, grpc.StatusCode.INTERNAL)
    return status


def detail(error: RegistryError) -> str:
    """What went wrong, with the field at fault in front."""
    return f"{error.field}: {error.message}" if error.field else error.message


def trailers(error: RegistryError) -> tuple[tuple[str, str], ...]:
    """What a gRPC client may want to act on, as trailing metadata instead of text to parse."""
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
    """A refusal as a JSON object: always `error` and `code`, the rest where it says something."""
    body: dict[str, Any] = {"error": detail(error), "code": error.code}
    if error.field:
        body["field"] = error.field
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    if isinstance(error, CleanupPending):
        body["operation"] = error.operation_id
    return body
