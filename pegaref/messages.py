"""The messages between the control process and an actor.

Everything that the two exchange is one of these frozen values, so nothing is ever pickled and an answer can
be checked by its type. This module imports nothing else of pegaref.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec import Struct

#: The limit on one encoded command or answer, in bytes.
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024


class ContextKey(Struct, frozen=True, array_like=True, order=True):
    """Names one context: the tensors of one rank of one instance on one device.

    `generation` grows with each session of an instance; 0 means that the instance registered without a
    session. Keys are compared as tuples, never by a prefix of a string.
    """

    instance_id: str
    generation: int
    tp_rank: int
    pp_rank: int
    device_id: int


class Layer(Struct, frozen=True, array_like=True):
    """One layer's memory: where it is (`wrapper`, see pegaref.wrapper) and how it is cut into blocks.

    `segments` is 1, or 2 where K and V lie `kv_stride_bytes` apart.
    """

    name: str
    wrapper: bytes
    num_blocks: int
    bytes_per_block: int
    kv_stride_bytes: int
    segments: int


class RegisterLayers(Struct, frozen=True, array_like=True, tag="register"):
    """Map all layers of one context, or none of them."""

    key: ContextKey
    layers: tuple[Layer, ...]


class DropInstance(Struct, frozen=True, array_like=True, tag="drop_instance"):
    """Release every context of an instance, or of the generations named. `None` means all of them."""

    instance_id: str
    generations: tuple[int, ...] | None = None


class DropContext(Struct, frozen=True, array_like=True, tag="drop_context"):
    """Release one context; it is no error if the context does not exist."""

    key: ContextKey


class Clear(Struct, frozen=True, array_like=True, tag="clear"):
    """Release everything that the actor holds."""


CleanupCommand: TypeAlias = DropInstance | DropContext | Clear
Command: TypeAlias = RegisterLayers | CleanupCommand


class Registered(Struct, frozen=True, array_like=True, tag="registered"):
    """All layers are mapped."""

    tensors: int
    bytes: int


class Dropped(Struct, frozen=True, array_like=True, tag="dropped"):
    """What a cleanup released. Zero everywhere means that there was nothing to release.

    `note` says what went wrong after the tensors had been released, such as a GPU cache that could not be
    emptied. It is '' if nothing did; the release itself is done either way.
    """

    instances: tuple[str, ...] = ()
    contexts: int = 0
    tensors: int = 0
    bytes: int = 0
    note: str = ""


NOTHING_DROPPED: Final = Dropped()


class Refused(Struct, frozen=True, array_like=True, tag="refused"):
    """The actor refused the command. `code` is a gRPC status name, `field` the field at fault ('' if
    none)."""

    code: str
    message: str
    field: str = ""


Answer: TypeAlias = Registered | Dropped | Refused


class Request(Struct, frozen=True, array_like=True, tag="request"):
    """One command to the actor. Serials grow by one for each request on a device."""

    serial: int
    command: Command


class Reply(Struct, frozen=True, array_like=True, tag="reply"):
    """The actor's answer to the request with the same serial."""

    serial: int
    answer: Answer


class Ready(Struct, frozen=True, array_like=True, tag="ready"):
    """The first thing an actor sends: torch is loaded, the device taken, and requests are read from now on.

    `device_type` is what the actor has: `cuda`, its GPU; or `cpu`, the host's memory.
    """

    torch_version: str
    device_type: str


class Ending(Struct, frozen=True, array_like=True, tag="ending"):
    """The last thing that an actor sends which cannot start, or whose device is lost; it ends at once."""

    reason: str


class Pulse(Struct, frozen=True):
    """Counters that the actor advances in shared memory. Only changes matter, not values.

    `beat` grows at an interval while the actor's interpreter can run a thread. `progress` grows with every
    tensor that is mapped or released. `started` and `finished` are the serials of the latest requests.
    """

    beat: int
    started: int
    finished: int
    progress: int


def matches(command: CleanupCommand, key: ContextKey) -> bool:
    """Whether the cleanup releases this context."""
    if isinstance(command, DropInstance):
        return key.instance_id == command.instance_id and (
            command.generations is None or key.generation in command.generations
        )
    if isinstance(command, DropContext):
        return key == command.key
    return True


def merge_dropped(parts: tuple[Dropped, ...]) -> Dropped:
    """Add up what several devices released."""
    return Dropped(
        instances=tuple(sorted({instance for part in parts for instance in part.instances})),
        contexts=sum(part.contexts for part in parts),
        tensors=sum(part.tensors for part in parts),
        bytes=sum(part.bytes for part in parts),
        note="; ".join(part.note for part in parts if part.note),
    )
