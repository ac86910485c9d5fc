"""The JSON that HTTP answers with."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from pegaref.errors import CleanupPending, RegistryError
from pegaref.messages import Dropped, merge_dropped
from pegaref.serving.refusal import as_json

Outcome = Dropped | RegistryError | None  # of a clean-up on one device; None while it is still to come


def json_response(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """One JSON value and a newline."""
    content = json.dumps(body, separators=(",", ":")) + "\n"
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def released(dropped: Dropped) -> dict[str, Any]:
    """What a clean-up released; the first two keys are those of PegaFlow."""
    body: dict[str, Any] = {
        "removed_instances": list(dropped.instances),
        "removed_tensors": dropped.tensors,
        "removed_contexts": dropped.contexts,
        "removed_bytes": dropped.bytes,
    }
    if dropped.note:
        body["note"] = dropped.note
    return body


def outcomes(devices: Mapping[int, Outcome]) -> dict[str, Any]:
    """What has been released so far in all, and how it stands on each device."""
    in_all = merge_dropped(tuple(outcome for outcome in devices.values() if isinstance(outcome, Dropped)))
    return released(in_all) | {"devices": {str(number): _outcome(devices[number]) for number in devices}}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if outcome is None or isinstance(outcome, CleanupPending):
        return {"state": "pending"}
    if isinstance(outcome, RegistryError):
        return {"state": "failed"} | as_json(outcome)
    return {"state": "done"} | released(outcome)


def accepted(pending: CleanupPending, body: Mapping[str, Any]) -> Response:
    """202: it is queued and will be carried out; where to ask for its outcome."""
    where = f"/operations/{pending.operation_id}"
    content = {"operation": pending.operation_id, "outcome": where, "message": pending.message} | dict(body)
    return json_response(202, content, {"location": where})
