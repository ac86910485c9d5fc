"""Requests of PegaFlow's Engine service as its clients make them, and how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from pegaref.client import SharedTensor
from pegaref.wire import engine_pb2

Request = engine_pb2.RegisterContextRequest


def register_of(instance: str, tensor: SharedTensor, layers: int = 2) -> Request:
    """A register that is accepted."""
    return Request(
        instance_id=instance,
        namespace="tests",
        tp_size=1,
        world_size=1,
        layer_names=[f"layer.{number}" for number in range(layers)],
        wrapper_bytes=[tensor.wrapper] * layers,
        num_blocks=[4] * layers,
        bytes_per_block=[tensor.nbytes // 4] * layers,
        kv_stride_bytes=[0] * layers,
        segments=[1] * layers,
    )


def refusal(call: Callable[[], Any]) -> Any:
    """The RpcError that the call ends with, which knows its code, details and trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value
