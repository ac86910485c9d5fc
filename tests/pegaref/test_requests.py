"""A register that could never be carried out is refused with the name of the field at fault."""

from __future__ import annotations

from typing import Any

import pytest

from pegaref.errors import InvalidCommand
from pegaref.messages import ContextKey, Layer, RegisterLayers
from pegaref.serving.requests import register_command
from pegaref.wire import engine_pb2
from pegaref.wrapper import MAX_WRAPPER_BYTES


def request(**fields: Any) -> engine_pb2.RegisterContextRequest:
    """A register of one layer on device 0, but for these fields."""
    whole: dict[str, Any] = {
        "instance_id": "a",
        "tp_size": 2,
        "world_size": 2,
        "device_id": 0,
        "layer_names": ["l"],
        "wrapper_bytes": [b"w"],
        "num_blocks": [1],
        "bytes_per_block": [1],
        "kv_stride_bytes": [0],
        "segments": [1],
    }
    return engine_pb2.RegisterContextRequest(**(whole | fields))


def layers(names: list[str]) -> dict[str, Any]:
    """The fields of so many layers."""
    count = len(names)
    numbers = dict.fromkeys(("num_blocks", "bytes_per_block", "segments"), [1] * count)
    return {"layer_names": names, "wrapper_bytes": [b"w"] * count, "kv_stride_bytes": [0] * count} | numbers


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"instance_id": ""}, "instance_id"),
        ({"instance_id": "x" * 513}, "instance_id"),
        ({"instance_id": "a\n"}, "instance_id"),
        ({"namespace": "x" * 513}, "namespace"),
        ({"tp_size": 0}, "tp_size"),
        ({"world_size": 0}, "world_size"),
        ({"tp_rank": 2}, "tp_rank"),
        ({"device_id": -1}, "device_id"),
        ({"device_id": 5}, "device_id"),
        ({"layer_names": [""]}, "layer_names"),
        ({"layer_names": ["x" * 1025]}, "layer_names"),
        ({"wrapper_bytes": [b""]}, "wrapper_bytes"),
        ({"wrapper_bytes": [b"x" * (MAX_WRAPPER_BYTES + 1)]}, "wrapper_bytes"),
        ({"num_blocks": [0]}, "num_blocks"),
        ({"bytes_per_block": [0]}, "bytes_per_block"),
        ({"bytes_per_block": [2**64 - 1]}, "bytes_per_block"),
        ({"segments": [0]}, "segments"),
        ({"segments": [3]}, "segments"),
        ({"segments": []}, "segments"),
        ({"layer_group_ids": [1, 2]}, "layer_group_ids"),
        (layers([]), "layer_names"),
        (layers(["l", "l"]), "layer_names"),
        (layers([str(number) for number in range(4097)]), "layer_names"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_register_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        register_command(request(**change), generation=0, device_ids=(0, 1))
    assert refusal.value.field == field


def test_a_well_formed_register_is_a_command() -> None:
    command = register_command(request(device_id=1, tp_rank=1), generation=3, device_ids=(0, 1))
    assert command == RegisterLayers(ContextKey("a", 3, 1, 0, 1), (Layer("l", b"w", 1, 1, 0, 1),))
