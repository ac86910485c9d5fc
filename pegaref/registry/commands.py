"""Commands on their way to an actor. A register has one caller; a cleanup has any number of callers."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from pegaref.clock import Timer
from pegaref.errors import ActorRefused, AlreadyExists, InvalidCommand, RegistryError
from pegaref.messages import (
    CleanupCommand,
    Clear,
    DropContext,
    DropInstance,
    Dropped,
    Refused,
    Registered,
    RegisterLayers,
)

LAYER_OVERHEAD_BYTES: Final = 64  # five integers and four headers of msgpack, rounded up

#: A command's states: it waits, it is with the actor, or it has ended in one of the other ways. These are
#: plain strings because enum members cost ten times as much before Python 3.12.
State: TypeAlias = Literal["pending", "running", "done", "cancelled", "expired", "orphaned"]

PENDING: Final = "pending"
RUNNING: Final = "running"
DONE: Final = "done"  # the actor answered, and somebody was there to hear it
CANCELLED: Final = "cancelled"  # its caller left, or its instance was dropped, before it ran
EXPIRED: Final = "expired"  # its deadline passed before it ran
ORPHANED: Final = "orphaned"  # its caller left, or its deadline passed, while it ran: it is rolled back

REFUSED: Final = "refused"  # an outcome for the counters, not a state: the actor refused it

#: Each command's name in metrics and logs.
OPERATION_NAMES: Final = {
    kind: str(kind.__struct_config__.tag) for kind in (RegisterLayers, DropInstance, DropContext, Clear)
}


class PendingRegister:
    """A register that has not ended. `context` holds its submitter's context variables, where a placement may
    keep the worker that has to do the work."""

    __slots__ = ("command", "context", "future", "size_bytes", "state", "submitted_s", "timer")

    def __init__(self, command: RegisterLayers, future: asyncio.Future[Registered], now_s: float) -> None:
        self.command = command
        self.future = future
        self.submitted_s = now_s
        self.state: State = PENDING
        self.size_bytes = command_bytes(command)
        self.context = contextvars.copy_context()
        self.timer: Timer | None = None

    def finish(self, state: State, error: RegistryError | None) -> None:
        """Set the final state and cancel the deadline. A caller that still waits gets the error."""
        self.state = state
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if error is not None and not self.future.done():
            self.future.set_exception(error)


class Cleanup:
    """A cleanup. It has no deadline and always ends with an outcome, whether or not a caller waits for it."""

    __slots__ = ("attempts", "command", "context", "on_done", "outcome", "state", "submitted_s")

    def __init__(self, command: CleanupCommand, now_s: float) -> None:
        self.command = command
        self.submitted_s = now_s
        self.state: State = PENDING
        self.attempts = 0
        self.context = contextvars.copy_context()
        self.outcome: Dropped | RegistryError | None = None
        self.on_done: dict[int, Callable[[], None]] = {}

    def finish(self, outcome: Dropped | RegistryError) -> None:
        """Set the outcome and call everyone who waits for it."""
        self.state = DONE
        self.outcome = outcome
        callbacks, self.on_done = self.on_done, {}
        for callback in callbacks.values():
            callback()

    def subsumes(self, other: CleanupCommand) -> bool:
        """Whether carrying out this one also does what `other` asks for."""
        mine = self.command
        if isinstance(mine, Clear) or mine == other:
            return True
        if isinstance(mine, DropInstance) and isinstance(other, DropInstance):
            return mine.instance_id == other.instance_id and (
                mine.generations is None
                or (other.generations is not None and set(other.generations) <= set(mine.generations))
            )
        return False

    def merge(self, other: DropInstance) -> None:
        """Take over what `other` asks for. Both name the same instance, and this one is not running."""
        mine = self.command
        assert isinstance(mine, DropInstance)
        assert mine.instance_id == other.instance_id
        if mine.generations is None or other.generations is None:
            self.command = DropInstance(mine.instance_id)
        else:
            merged = tuple(sorted({*mine.generations, *other.generations}))
            self.command = DropInstance(mine.instance_id, merged)


class CommandCounters:
    """Counts one device's commands by outcome. A respawn does not reset the counts."""

    __slots__ = ("ended", "finished", "lost_replies", "rejected", "rolled_back", "unexpected_replies")

    def __init__(self) -> None:
        self.finished: Counter[tuple[str, str]] = Counter()  # (operation, outcome) -> commands
        self.ended = 0  # all of those together
        self.rejected = 0
        self.rolled_back = 0
        self.lost_replies = 0
        self.unexpected_replies = 0

    def count(self, command: PendingRegister | Cleanup, outcome: str) -> None:
        """Count a command that ended, by its operation and its outcome."""
        self.finished[OPERATION_NAMES[type(command.command)], outcome] += 1
        self.ended += 1


def command_bytes(command: RegisterLayers) -> int:
    """The command's size in a mailbox, in bytes; never less than its encoded size."""
    layers = sum(
        len(layer.name.encode()) + len(layer.wrapper) + LAYER_OVERHEAD_BYTES for layer in command.layers
    )
    return 2 * LAYER_OVERHEAD_BYTES + len(command.key.instance_id.encode()) + layers


_REFUSALS: dict[str, type[RegistryError]] = {
    AlreadyExists.code: AlreadyExists,
    InvalidCommand.code: InvalidCommand,
}


def refusal_error(refused: Refused) -> RegistryError:
    """The exception that the caller gets for an actor's refusal."""
    kind = _REFUSALS.get(refused.code, ActorRefused)
    return kind(refused.message, code=refused.code, field=refused.field)
