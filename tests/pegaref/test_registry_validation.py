"""A register that could never be carried out is refused with the name of the field at fault."""

from __future__ import annotations

import pytest
from msgspec import structs

from pegaref.errors import InvalidCommand
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.registry.handle import RegistryHandle
from pegaref.registry.validation import check_register
from pegaref.wrapper import MAX_WRAPPER_BYTES
from tests.pegaref.simulation import SimulatedPlacement, VirtualClock

KEY = ContextKey("a", 0, 0, 0, 0)
LAYER = Layer("l", b"w", 1, 1, 0, 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"instance_id": ""}, "instance_id"),
        ({"instance_id": "x" * 1025}, "instance_id"),
        ({"device_id": -1}, "device_id"),
        ({"device_id": 5}, "device_id"),
        ({"tp_rank": -1}, "tp_rank"),
        ({"pp_rank": -1}, "pp_rank"),
        ({"generation": -1}, "generation"),
        ({"tp_rank": 2**63}, "tp_rank"),
    ],
    ids=str,
)
def test_a_bad_key_is_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        check_register(RegisterLayers(structs.replace(KEY, **change), (LAYER,)), (0, 1))
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "layer_names"),
        ({"name": "x" * 1025}, "layer_names"),
        ({"wrapper": b""}, "wrapper_bytes"),
        ({"wrapper": b"x" * (MAX_WRAPPER_BYTES + 1)}, "wrapper_bytes"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"bytes_per_block": 0}, "bytes_per_block"),
        ({"bytes_per_block": 2**64 - 1}, "bytes_per_block"),
        ({"kv_stride_bytes": -1}, "kv_stride_bytes"),
        ({"segments": 0}, "segments"),
        ({"segments": 3}, "segments"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_layer_is_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        check_register(RegisterLayers(KEY, (LAYER, structs.replace(LAYER, **{"name": "m"} | change))), (0,))
    assert refusal.value.field == field


@pytest.mark.parametrize(
    "layers", [(), (LAYER, LAYER), tuple(structs.replace(LAYER, name=str(n)) for n in range(4097))]
)
def test_no_layer_a_layer_twice_and_too_many_are_refused(layers: tuple[Layer, ...]) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        check_register(RegisterLayers(KEY, layers), (0,))
    assert refusal.value.field == "layer_names"


def test_what_is_well_formed_passes() -> None:
    check_register(RegisterLayers(KEY, (LAYER, structs.replace(LAYER, name="m", segments=2))), (0,))


@pytest.mark.parametrize("devices", [(), (0, 0), (-1,)])
def test_a_handle_needs_each_device_once(devices: tuple[int, ...]) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        RegistryHandle(devices, SimulatedPlacement(VirtualClock()))
    assert refusal.value.field == "devices"
