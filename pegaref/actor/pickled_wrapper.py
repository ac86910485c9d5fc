"""PegaFlow's pickled CudaIPCWrapper, read without unpickling it.

Nothing here uses `pickle`, not even an Unpickler with its own `find_class`: that still calls what it finds,
and one name too many on its list lets a sender run code in the process that owns the GPU. Instead the opcodes
are read one by one, and only those that build plain values, three known names and one object are accepted.
Nothing that the sender names is imported, called or looked up. The result is pegaref's own CudaIpc.

The opcodes are those of Lib/pickletools.py, protocols 3 to 5 (protocol 2 encodes bytes as a call). The
object's attributes are those of PegaFlow's `pegaflow.ipc_wrapper`; `handle` is the 8-tuple that torch's
`_share_cuda_()` returns.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from pegaref.errors import InvalidCommand
from pegaref.wrapper import FIELD, MAX_WRAPPER_BYTES, CudaIpc

PICKLE_START: Final = b"\x80"  # PROTO, the first opcode since protocol 2; no msgpack wrapper starts with it
MAX_OPCODES: Final = 1024
CLASS_NAME: Final = "CudaIPCWrapper"
CLASS_PACKAGE: Final = "pegaflow"


def is_pickle(raw: bytes) -> bool:
    """Whether the bytes claim to be a pickle."""
    return raw.startswith(PICKLE_START)


def read_pickled(raw: bytes) -> CudaIpc:
    """The CudaIpc that the pickle describes. Raises InvalidCommand if it describes anything else. Has no side
    effect."""
    if len(raw) > MAX_WRAPPER_BYTES:
        raise InvalidCommand(f"a wrapper has at most {MAX_WRAPPER_BYTES} bytes, not {len(raw)}", field=FIELD)
    machine = _Machine()
    end = None
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(raw)):
            if count >= MAX_OPCODES:
                _refuse("it is too long")
            step = _STEPS.get(opcode.name)
            if step is None:
                _refuse(f"opcode {opcode.name} is not allowed")
            step(machine, argument)
            end = position
    except InvalidCommand:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError) as error:
        # pickletools raises ValueError for bytes it cannot read; the other errors come from a stack that
        # lacks what an opcode needs.
        raise InvalidCommand(f"not a pickled {CLASS_NAME}: {type(error).__name__}", field=FIELD) from None
    if end != len(raw) - 1 or len(machine.stack) != 1:
        _refuse("it does not end with one value")
    return _as_cuda_ipc(machine.stack[0])


def _refuse(why: str) -> NoReturn:
    raise InvalidCommand(f"not a pickled {CLASS_NAME}: {why}", field=FIELD)


@dataclass(frozen=True, slots=True)
class _Name:
    """A global that the sender named: two strings that are never looked up."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Size:
    """A torch.Size."""

    sizes: tuple[object, ...]


@dataclass(slots=True)
class _Object:
    """The wrapper object and its attributes."""

    state: dict[object, object] = field(default_factory=dict)


class _Mark:
    """Where a variable number of items starts on the stack."""


@dataclass(slots=True)
class _Machine:
    stack: list[object] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)

    def pop_mark(self) -> list[object]:
        items: list[object] = []
        while not isinstance(item := self.stack.pop(), _Mark):
            items.append(item)
        items.reverse()
        return items


def _allowed(module: object, name: object) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        _refuse("a name that is no string")
    ours = module.split(".")[0] == CLASS_PACKAGE and name == CLASS_NAME
    if not ours and module != "torch":
        _refuse("it names something else")
    if not name.isidentifier():
        _refuse("it names something else")
    return _Name(module, name)


def _push(machine: _Machine, value: object) -> None:
    machine.stack.append(value)


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(_allowed(module, name))


def _stack_global(machine: _Machine, _: object) -> None:
    name = machine.stack.pop()
    machine.stack.append(_allowed(machine.stack.pop(), name))


def _reduce(machine: _Machine, _: object) -> None:
    arguments, called = machine.stack.pop(), machine.stack.pop()
    if called != _Name("torch", "Size") or not isinstance(arguments, tuple) or len(arguments) != 1:
        _refuse("it calls something else than torch.Size")
    (sizes,) = arguments
    if not isinstance(sizes, tuple):
        _refuse("a torch.Size of no tuple")
    machine.stack.append(_Size(sizes))


def _new_object(machine: _Machine, _: object) -> None:
    arguments, made = machine.stack.pop(), machine.stack.pop()
    if not isinstance(made, _Name) or made.name != CLASS_NAME or arguments != ():
        _refuse("it makes another object")
    machine.stack.append(_Object())


def _build(machine: _Machine, _: object) -> None:
    state, built = machine.stack.pop(), machine.stack[-1]
    if not isinstance(built, _Object) or not isinstance(state, dict) or built.state:
        _refuse("it sets the state of something else")
    built.state.update(state)


def _set_items(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        _refuse("it sets items of something else")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            _refuse("an attribute that is no string")
        target[key] = value


def _set_item(machine: _Machine, _: object) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set_items(machine, [key, value])


def _tuple_of(count: int) -> Callable[[_Machine, object], None]:
    def step(machine: _Machine, _: object) -> None:
        if len(machine.stack) < count:
            _refuse("its stack is empty")
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.stack.append(items)

    return step


def _memoize(machine: _Machine, _: object) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _nothing(machine: _Machine, argument: object) -> None:
    """PROTO, FRAME and STOP have no effect on the stack."""


_STEPS: Final[dict[str, Callable[..., None]]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "STOP": _nothing,
    "MARK": lambda machine, _: machine.stack.append(_Mark()),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "LONG1": _push,
    "SHORT_BINUNICODE": _push,
    "BINUNICODE": _push,
    "SHORT_BINBYTES": _push,
    "BINBYTES": _push,
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    "MEMOIZE": _memoize,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "NEWOBJ": _new_object,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def _whole(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        _refuse(f"{name} is not a whole number")
    return value


def _bytes(value: object, name: str, most: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        _refuse(f"{name} is not at most {most} bytes")
    return value


def _stride(value: object) -> tuple[int, ...] | None:
    """The stride, or None (contiguous), which is what older clients send."""
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) > 16:
        _refuse("stride is not a tuple of at most 16")
    return tuple(_whole(step, "a step in stride") for step in value)


def _as_cuda_ipc(made: object) -> CudaIpc:
    if not isinstance(made, _Object):
        _refuse("it is something else")
    handle, dtype, shape = (made.state.get(name) for name in ("handle", "dtype", "shape"))
    uuid = made.state.get("device_uuid", "")
    if not isinstance(handle, tuple) or len(handle) != 8:
        _refuse("handle is not a tuple of 8")
    if not isinstance(dtype, _Name) or dtype.module != "torch" or not isinstance(shape, _Size | tuple):
        _refuse("dtype or shape is missing")
    if not isinstance(uuid, str) or len(uuid) > 64 or type(handle[7]) is not bool:
        _refuse("device_uuid or the event's flag is of another type")
    sizes = shape.sizes if isinstance(shape, _Size) else shape
    if len(sizes) > 16:
        _refuse("shape has more than 16 sizes")
    return CudaIpc(
        device_index=_whole(handle[0], "the device"),
        memory_handle=_bytes(handle[1], "the memory handle", 256),
        storage_bytes=_whole(handle[2], "the storage's size"),
        storage_offset_bytes=_whole(handle[3], "the storage's offset"),
        ref_counter_handle=_bytes(handle[4], "the reference counter's handle", 256),
        ref_counter_offset=_whole(handle[5], "the reference counter's offset"),
        event_handle=_bytes(handle[6], "the event's handle", 256),
        event_sync_required=handle[7],
        dtype=dtype.name,
        shape=tuple(_whole(size, "a size in shape") for size in sizes),
        stride=_stride(made.state.get("stride")),
        offset=_whole(made.state.get("storage_offset", 0), "the storage offset"),
        device_uuid=uuid,
    )
