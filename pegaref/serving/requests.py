"""Turns a caller's request into a command for an actor. This is the only place where requests are checked.

Every refusal names the field at fault. The actor refuses what only it can know: memory that does not exist,
or a context that is already registered.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from pegaref.errors import InvalidCommand
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.wire import engine_pb2
from pegaref.wrapper import MAX_WRAPPER_BYTES

_LONGEST_NAME: Final = 512  # characters of an instance or a namespace
_LONGEST_LAYER_NAME_BYTES: Final = 1024
_MOST_LAYERS: Final = 4096
_MOST: Final = 2**63 - 1  # the largest number that torch accepts

# The lists that have one entry per layer, in the order of `Layer`'s fields.
_PER_LAYER = ("layer_names", "wrapper_bytes", "num_blocks", "bytes_per_block", "kv_stride_bytes", "segments")


def register_command(
    request: engine_pb2.RegisterContextRequest, *, generation: int, device_ids: Sequence[int]
) -> RegisterLayers:
    """The command for a register request on one of the server's devices. Raises InvalidCommand."""
    check_name(request.instance_id, "instance_id")
    check_name(request.namespace, "namespace", may_be_empty=True)
    for field in ("tp_size", "world_size"):
        if getattr(request, field) < 1:
            raise InvalidCommand("must be at least 1", field=field)
    if request.tp_rank >= request.tp_size:
        raise InvalidCommand(f"{request.tp_rank} is not below tp_size {request.tp_size}", field="tp_rank")
    if request.device_id not in device_ids:
        known = ", ".join(str(device_id) for device_id in sorted(device_ids))
        raise InvalidCommand(
            f"{request.device_id} is none of this server's devices: {known}", field="device_id"
        )
    key = ContextKey(
        instance_id=request.instance_id,
        generation=generation,
        tp_rank=request.tp_rank,
        pp_rank=request.pp_rank,
        device_id=request.device_id,
    )
    return RegisterLayers(key=key, layers=_layers(request))


def check_name(name: str, field: str, *, may_be_empty: bool = False) -> None:
    """Raises InvalidCommand unless `name` is printable, not too long, and (without `may_be_empty`) not
    empty."""
    if not name and not may_be_empty:
        raise InvalidCommand("must not be empty", field=field)
    if len(name) > _LONGEST_NAME:
        raise InvalidCommand(f"has {len(name)} characters; at most {_LONGEST_NAME} are taken", field=field)
    if not name.isprintable():
        raise InvalidCommand("has characters that cannot be printed", field=field)


def only_parameters(query: Mapping[str, str], known: Collection[str]) -> None:
    """Raises InvalidCommand for an unknown parameter: a misspelt `id` must not clean up everything."""
    for name in query:
        if name not in known:
            expected = ", ".join(sorted(known)) or "none"
            raise InvalidCommand(f"unknown parameter; known: {expected}", field=name)


def timeout_s(text: str | None, *, default_s: float, most_s: float) -> float:
    """Reads `?timeout=` in seconds, limited to `most_s`. Raises InvalidCommand unless it is above zero."""
    if text is None:
        return min(default_s, most_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidCommand(f"{text!r} is no number of seconds above 0", field="timeout")
    return min(seconds, most_s)


def page_limit(text: str | None, *, most: int) -> int:
    """Reads `?limit=`, tightened to `most`. Raises InvalidCommand unless it is a number above zero."""
    if text is None:
        return most
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise InvalidCommand(f"{text[:80]!r} is no whole number above 0", field="limit")
    return most if len(text) > len(str(_MOST)) else min(int(text), most)


def context_cursor(key: ContextKey) -> str:
    """A context's key as `?after=` takes it."""
    return f"{key.instance_id}:{key.generation}:{key.tp_rank}:{key.pp_rank}:{key.device_id}"


def context_key(cursor: str) -> ContextKey:
    """Reads `?after=`, which need not be of a context that is still there. Raises InvalidCommand."""
    instance_id, *numbers = cursor.rsplit(":", 4)
    if len(numbers) != 4 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in numbers):
        raise InvalidCommand("give the 'next' of the page before, encoded as a URL has it", field="after")
    return ContextKey(instance_id, *(int(word) for word in numbers))


def _layers(request: engine_pb2.RegisterContextRequest) -> tuple[Layer, ...]:
    count = len(request.layer_names)
    if count == 0:
        raise InvalidCommand("must name at least one layer", field="layer_names")
    if count > _MOST_LAYERS:
        raise InvalidCommand(f"has {count} layers; at most {_MOST_LAYERS} are taken", field="layer_names")
    lists = (*_PER_LAYER[1:], *(("layer_group_ids",) if request.layer_group_ids else ()))
    for field in lists:
        entries = len(getattr(request, field))
        if entries != count:
            raise InvalidCommand(f"has {entries} entries for {count} layers", field=field)
    columns = (getattr(request, field) for field in _PER_LAYER)
    layers = tuple(Layer(*row) for row in zip(*columns, strict=True))
    names = set[str]()
    for layer in layers:
        _check_layer(layer)
        if layer.name in names:
            raise InvalidCommand(f"layer {layer.name!r} is named twice", field="layer_names")
        names.add(layer.name)
    return layers


def _check_layer(layer: Layer) -> None:
    if not 1 <= len(layer.name.encode()) <= _LONGEST_LAYER_NAME_BYTES:
        raise InvalidCommand(
            f"a layer's name has 1 to {_LONGEST_LAYER_NAME_BYTES} bytes", field="layer_names"
        )
    if not 1 <= len(layer.wrapper) <= MAX_WRAPPER_BYTES:
        raise InvalidCommand(
            f"layer {layer.name!r}: a wrapper has 1 to {MAX_WRAPPER_BYTES} bytes", field="wrapper_bytes"
        )
    for field, value, least, most in (
        ("num_blocks", layer.num_blocks, 1, _MOST),
        ("bytes_per_block", layer.bytes_per_block, 1, _MOST),
        ("kv_stride_bytes", layer.kv_stride_bytes, 0, _MOST),
        ("segments", layer.segments, 1, 2),
    ):
        if not least <= value <= most:
            raise InvalidCommand(f"layer {layer.name!r}: {value} is not {least} to {most}", field=field)
