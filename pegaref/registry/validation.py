"""What a register must look like before it may wait: every refusal names the request's field."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from pegaref.errors import InvalidCommand
from pegaref.messages import Layer, RegisterLayers
from pegaref.wrapper import MAX_WRAPPER_BYTES

MAX_NAME_BYTES = 1024
MOST_LAYERS = 4096
MOST = 2**63 - 1


def check_register(command: RegisterLayers, devices: Collection[int]) -> None:
    """Raise InvalidCommand unless the register could be carried out by an actor of one of these devices."""
    key = command.key
    check_instance(key.instance_id)
    check_device(key.device_id, devices)
    _check_range("tp_rank", key.tp_rank, 0, MOST)
    _check_range("pp_rank", key.pp_rank, 0, MOST)
    _check_range("generation", key.generation, 0, MOST)
    if not command.layers:
        _refuse("layer_names", "a context needs at least one layer")
    if len(command.layers) > MOST_LAYERS:
        _refuse("layer_names", f"{len(command.layers)} layers; the limit is {MOST_LAYERS}")
    names = set[str]()
    for layer in command.layers:
        if layer.name in names:
            _refuse("layer_names", f"layer {layer.name!r} is named twice")
        names.add(layer.name)
        _check_layer(layer)


def check_instance(instance_id: str) -> None:
    """Raise InvalidCommand unless it can name an instance."""
    if not 1 <= len(instance_id.encode()) <= MAX_NAME_BYTES:
        _refuse("instance_id", f"an instance's name has 1 to {MAX_NAME_BYTES} bytes")


def check_device(device_id: int, devices: Collection[int]) -> None:
    """Raise InvalidCommand unless the server has the device."""
    if device_id not in devices:
        known = ", ".join(str(device) for device in sorted(devices))
        _refuse("device_id", f"device {device_id} is none of this server's: {known}")


def _check_layer(layer: Layer) -> None:
    if not 1 <= len(layer.name.encode()) <= MAX_NAME_BYTES:
        _refuse("layer_names", f"a layer's name has 1 to {MAX_NAME_BYTES} bytes")
    if not 1 <= len(layer.wrapper) <= MAX_WRAPPER_BYTES:
        _refuse("wrapper_bytes", f"layer {layer.name!r}: a wrapper has 1 to {MAX_WRAPPER_BYTES} bytes")
    _check_range("num_blocks", layer.num_blocks, 1, MOST)
    _check_range("bytes_per_block", layer.bytes_per_block, 1, MOST)
    _check_range("kv_stride_bytes", layer.kv_stride_bytes, 0, MOST)
    _check_range("segments", layer.segments, 1, 2)


def _check_range(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        _refuse(field, f"{field} is {value}; it must be {least} to {most}")


def _refuse(field: str, message: str) -> NoReturn:
    raise InvalidCommand(message, field=field)
