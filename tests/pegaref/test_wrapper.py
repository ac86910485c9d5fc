"""Wrappers as bytes: what a client sends is what an actor reads, and nothing else is."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegaref.errors import InvalidCommand
from pegaref.wrapper import MAX_WRAPPER_BYTES, CudaIpc, SharedMemory, decode_wrapper, encode_wrapper

SHM = SharedMemory("psm_1", 4096, "float16", (4, 8), (8, 1), 64)
IPC = CudaIpc(0, b"h" * 64, 1 << 21, 0, b"r", 0, b"e", True, "float16", (4,), None, 0, "GPU-1")


@pytest.mark.parametrize("wrapper", [SHM, IPC, SharedMemory("x", 1, "uint8", ())])
def test_what_is_encoded_is_decoded(wrapper: SharedMemory | CudaIpc) -> None:
    assert decode_wrapper(encode_wrapper(wrapper)) == wrapper


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"not msgpack",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"kind": "file", "name": "x"}),
        msgspec.msgpack.encode({"kind": "posix_shm"}),
        b"\x81\xa4kind\xa1\x80",
        msgspec.msgpack.encode(msgspec.to_builtins(SHM) | {"nbytes": "many"}),
        msgspec.msgpack.encode(msgspec.to_builtins(SHM) | {"shape": [1.5]}),
        msgspec.msgpack.encode(msgspec.to_builtins(SHM) | {"mode": 0o777}),
        msgspec.msgpack.encode(msgspec.to_builtins(SHM)) + b"\x00",
        b"\x91" * 50_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=range(13),
)
def test_what_is_no_wrapper_is_refused_with_the_field(raw: bytes) -> None:
    with pytest.raises(InvalidCommand) as refusal:
        decode_wrapper(raw)
    assert refusal.value.field == "wrapper_bytes"


def test_a_wrapper_over_the_limit_is_refused_before_it_is_read() -> None:
    longest = SharedMemory("x" * (MAX_WRAPPER_BYTES - 100), 1, "uint8", ())
    assert decode_wrapper(encode_wrapper(longest)) == longest
    with pytest.raises(InvalidCommand, match="at most"):
        decode_wrapper(encode_wrapper(SharedMemory("x" * MAX_WRAPPER_BYTES, 1, "uint8", ())))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_decode_or_be_refused(raw: bytes) -> None:
    with contextlib.suppress(InvalidCommand):
        decode_wrapper(raw)
