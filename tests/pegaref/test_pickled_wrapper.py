"""PegaFlow's pickle is read, and no other: nothing that a sender names is imported, called or built."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pegaref.actor.pickled_wrapper import is_pickle, read_pickled
from pegaref.errors import InvalidCommand
from pegaref.wrapper import MAX_WRAPPER_BYTES, CudaIpc

HANDLE = (0, b"\x01" * 64, 2**21, 512, b"/torch_123_0\0", 7, b"\x02" * 64, True)


class Size(tuple[int, ...]):
    """Pickles as torch.Size does."""

    def __reduce__(self) -> tuple[object, tuple[tuple[int, ...]]]:
        return (Size, (tuple(self),))


class Dtype:
    """Pickles as a torch.dtype does: by its name in torch."""

    def __reduce__(self) -> str:
        return "float16"


def pickled(protocol: int = pickle.DEFAULT_PROTOCOL, **changes: Any) -> bytes:
    """What PegaFlow's client sends, made without torch or PegaFlow: only the names matter to a pickle."""
    wrapper = types.ModuleType("pegaflow.ipc_wrapper")
    torch = types.ModuleType("torch")
    made = type("CudaIPCWrapper", (), {"__module__": "pegaflow.ipc_wrapper"})
    size = Size((4, 8))
    dtype = Dtype()
    wrapper.CudaIPCWrapper = made  # type: ignore[attr-defined]
    torch.float16 = dtype  # type: ignore[attr-defined]
    torch.Size = Size  # type: ignore[attr-defined]
    Size.__module__, Size.__qualname__ = "torch", "Size"
    Dtype.__module__ = "torch"
    hidden = {name: sys.modules.get(name) for name in ("pegaflow", "pegaflow.ipc_wrapper", "torch")}
    sys.modules |= {"pegaflow": wrapper, "pegaflow.ipc_wrapper": wrapper, "torch": torch}
    try:
        sent = made()
        sent.__dict__.update(
            {"handle": HANDLE, "dtype": dtype, "shape": size, "device_uuid": "GPU-1"} | changes
        )
        return pickle.dumps(sent, protocol)
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_wrapper_that_pegaflow_pickles_becomes_our_own_value(protocol: int) -> None:
    raw = pickled(protocol)
    assert is_pickle(raw)
    assert read_pickled(raw) == CudaIpc(
        device_index=0,
        memory_handle=b"\x01" * 64,
        storage_bytes=2**21,
        storage_offset_bytes=512,
        ref_counter_handle=b"/torch_123_0\0",
        ref_counter_offset=7,
        event_handle=b"\x02" * 64,
        event_sync_required=True,
        dtype="float16",
        shape=(4, 8),
        device_uuid="GPU-1",
    )


def test_a_wrapper_with_an_attribute_more_or_no_uuid_is_read_too() -> None:
    assert read_pickled(pickled(device=3, offset=None)).device_uuid == "GPU-1"
    assert read_pickled(pickled(device_uuid="")).device_uuid == ""


def test_strides_and_offset_are_kept_and_a_wrong_one_is_refused() -> None:
    read = read_pickled(pickled(stride=(16, 1), storage_offset=3))
    assert (read.stride, read.offset) == ((16, 1), 3)
    for wrong in ({"stride": [16, 1]}, {"stride": ("a",)}, {"storage_offset": -1}, {"storage_offset": "0"}):
        with pytest.raises(InvalidCommand):
            read_pickled(pickled(**wrong))


class Bad:
    """Runs a command when it is unpickled."""

    def __init__(self, made: tuple[object, ...]) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return self.made


MARKER = Path(f"/tmp/pegaref-hostile-{os.getpid()}")
TOUCH = f"touch {MARKER}"


def ext_pickle(opcode: bytes) -> bytes:
    return b"\x80\x02" + opcode + b"."


def persistent() -> bytes:
    class Persistent(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return "load me" if isinstance(obj, Bad) else None

    out = io.BytesIO()
    Persistent(out, 4).dump(Bad(()))
    return out.getvalue()


def nested(opening: bytes, count: int) -> bytes:
    return b"\x80\x04" + opening * count + b"."


CLASS = b"\x8c\x14pegaflow.ipc_wrapper\x8c\x0eCudaIPCWrapper\x93"

HOSTILE: dict[str, bytes] = {
    "reduce os.system": pickle.dumps(Bad((os.system, (TOUCH,)))),
    "reduce eval": pickle.dumps(Bad((eval, (f"open({str(MARKER)!r}, 'w')",)))),
    "reduce exec in protocol 0": pickle.dumps(Bad((os.system, (TOUCH,))), 0),
    "reduce in protocol 1": pickle.dumps(Bad((os.system, (TOUCH,))), 1),
    "reduce in protocol 2": pickle.dumps(Bad((os.system, (TOUCH,))), 2),
    "reduce with torch.load": b"\x80\x04\x8c\x05torch\x8c\x04load\x93\x8c\x06/tmp/x\x85R.",
    "reduce with torch.Size of a call": b"\x80\x04\x8c\x05torch\x8c\x04Size\x93K\x01\x85R.",
    "a name below torch": b"\x80\x04\x8c\x05torch\x8c\x0ehub.load_state\x93.",
    "a module below torch": b"\x80\x04\x8c\x09torch.hub\x8c\x04load\x93.",
    "a module like pegaflow": b"\x80\x04\x8c\x09pegaflowx\x8c\x0eCudaIPCWrapper\x93.",
    "another class of pegaflow": b"\x80\x04\x8c\x08pegaflow\x8c\x06client\x93.",
    "a global in text": b"\x80\x02cos\nsystem\n.",
    "inst": b"\x80\x02(S'touch /tmp/x'\nios\nsystem\n.",
    "obj": b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo.",
    "newobj of a dtype": b"\x80\x04\x8c\x05torch\x8c\x07float16\x93)\x81.",
    "newobj with arguments": b"\x80\x04" + CLASS + b"K\x01\x85\x81.",
    "newobj_ex": b"\x80\x04" + CLASS + b")}\x92.",
    "build on a dict": b"\x80\x04}}b.",
    "build on a class": b"\x80\x04" + CLASS + b"}b.",
    "build twice": b"\x80\x04" + CLASS + b")\x81}\x8c\x01aK\x01sb}\x8c\x01bK\x02sb.",
    "build with slots": b"\x80\x04" + CLASS + b")\x81N}\x86b.",
    "ext1": ext_pickle(b"\x82\x01"),
    "ext2": ext_pickle(b"\x83\x01\x00"),
    "ext4": ext_pickle(b"\x84\x01\x00\x00\x00"),
    "persistent id": persistent(),
    "persistent id in text": b"\x80\x02Pload me\n.",
    "out of band buffer": b"\x80\x05\x97.",
    "huge bytes": b"\x80\x04B\xff\xff\xff\x7f.",
    "huge bytes8": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge bytearray8": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge unicode": b"\x80\x04X\xff\xff\xff\x7f.",
    "huge long": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "huge memo index": b"\x80\x04Nr\xff\xff\xff\xff0.",
    "huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    "deep lists": nested(b"](", 20_000),
    "deep tuples": b"\x80\x04N" + b"\x85" * 60_000 + b".",
    "wide tuples": b"\x80\x04N" + b"\x94h\x00h\x00\x86" * 300 + b".",
    "marks only": nested(b"(", 900),
    "pops": b"\x80\x040000.",
    "an empty stack": b"\x80\x04.",
    "a tuple of nothing": b"\x80\x04\x87.",
    "a memo that was not set": b"\x80\x04h\x07.",
    "no stop": b"\x80\x04N",
    "two values": b"\x80\x04NN.",
    "more after the stop": b"\x80\x04N.N.",
    "a wrapper and more": pickled() + b"N.",
    "nothing": b"\x80",
    "an unknown protocol": b"\x80\xffN.",
    "an unknown opcode": b"\x80\x04\xf0.",
    "a number": pickle.dumps(1),
    "a plain dict": pickle.dumps({"handle": HANDLE}),
    "dict keys that are no strings": b"\x80\x04" + CLASS + b")\x81}K\x01K\x02sb.",
    "too long": b"\x80\x04" + b"N0" * MAX_WRAPPER_BYTES,
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_with_no_side_effect(raw: bytes) -> None:
    before = set(sys.modules)
    with pytest.raises(InvalidCommand) as refusal:
        read_pickled(raw)
    assert refusal.value.field == "wrapper_bytes"
    assert len(refusal.value.message) < 200
    assert not MARKER.exists()
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "change",
    [
        {"handle": HANDLE[:7]},
        {"handle": list(HANDLE)},
        {"handle": ("0", *HANDLE[1:])},
        {"handle": (True, *HANDLE[1:])},
        {"handle": (-1, *HANDLE[1:])},
        {"handle": (0, "text", *HANDLE[2:])},
        {"handle": (0, b"x" * 257, *HANDLE[2:])},
        {"handle": (*HANDLE[:7], 1)},
        {"handle": (0, b"", 2**80, *HANDLE[3:])},
        {"dtype": "float16"},
        {"shape": [1]},
        {"shape": (1,) * 17},
        {"shape": ("1",)},
        {"device_uuid": 7},
        {"device_uuid": "x" * 65},
    ],
    ids=str,
)
def test_a_wrapper_with_a_wrong_attribute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidCommand):
        read_pickled(pickled(**change))


@pytest.mark.parametrize("cut", [1, 10, 50, -1])
def test_a_truncated_wrapper_is_refused(cut: int) -> None:
    with pytest.raises(InvalidCommand):
        read_pickled(pickled()[:cut])


def test_no_single_changed_byte_does_more_than_change_a_value() -> None:
    whole = pickled()
    for position in range(1, len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x55
        try:
            read_pickled(bytes(changed))
        except InvalidCommand:
            continue
        assert {opcode.name for opcode, _, _ in pickletools.genops(bytes(changed))} <= ALLOWED
    assert not MARKER.exists()


ALLOWED = {opcode.name for opcode, _, _ in pickletools.genops(pickled())}
