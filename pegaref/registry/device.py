"""One device's commands: from its mailbox to its actor and back, one at a time, with nothing lost between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from pegaref.clock import Clock
from pegaref.errors import (
    DeadlineExpired,
    DeviceLost,
    InvalidCommand,
    MailboxFull,
    OutcomeUnknown,
    RegistryError,
    ShuttingDown,
    Superseded,
)
from pegaref.messages import (
    MAX_FRAME_BYTES,
    Clear,
    ContextKey,
    DropContext,
    DropInstance,
    Dropped,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
)
from pegaref.registry.book import NOTHING, Book
from pegaref.registry.deadline import answer_within_s
from pegaref.registry.entry import (
    CANCELLED,
    DONE,
    EXPIRED,
    OPERATION_NAMES,
    ORPHANED,
    PENDING,
    RUNNING,
    Cleanup,
    Entry,
    State,
)
from pegaref.registry.keeper import Keeper
from pegaref.registry.link import Launcher
from pegaref.registry.mailbox import Mailbox
from pegaref.registry.observation import observe
from pegaref.registry.refusal import as_error
from pegaref.registry.retry import Retry
from pegaref.registry.settings import RegistrySettings
from pegaref.registry.snapshot import ContextSummary, DeviceSnapshot, Phase
from pegaref.registry.tally import Tally

logger = logging.getLogger(__name__)

REFUSED = "refused"


class Device:
    """One device. Everything happens on its event loop, in callbacks that never wait."""

    def __init__(
        self,
        device_id: int,
        launcher: Launcher,
        settings: RegistrySettings,
        clock: Clock,
        on_lost: Callable[[frozenset[tuple[str, int]]], None],
    ) -> None:
        self._device_id = device_id
        self._settings = settings
        self._clock = clock
        self._on_lost = on_lost
        self._mailbox = Mailbox(settings.mailbox_commands, settings.mailbox_bytes)
        self._book = Book()
        self._running: Entry | Cleanup | None = None
        self._serial = 0
        self._created = False  # whether the running register's key was new in the book
        self._given_up: set[int] = set()  # serials whose answers may still come, and mean nothing
        self._retry = Retry(clock, self._pump)
        self._tally = Tally()
        self.keeper = Keeper(device_id, launcher, settings, clock, self)

    # ---- what the handle asks for

    def submit(self, command: RegisterLayers, deadline_s: float) -> Entry:
        """Let a register wait for its turn. Raises InvalidCommand, MailboxFull, DeviceUnavailable."""
        self.keeper.refuse_if_unavailable()
        now_s = self._clock.now()
        entry = Entry(command, asyncio.get_running_loop().create_future(), now_s)
        if entry.size_bytes > MAX_FRAME_BYTES:
            raise InvalidCommand(
                f"a command of {entry.size_bytes} bytes; the limit is {MAX_FRAME_BYTES}", field="layer_names"
            )
        if self._idle:
            self._begin(entry)
        else:
            try:
                self._mailbox.put(entry)
            except MailboxFull:
                self._tally.rejected += 1
                raise
        entry.timer = self._clock.call_at(now_s + answer_within_s(deadline_s), partial(self._expire, entry))
        return entry

    def abandon(self, entry: Entry) -> None:
        """The caller has gone: skip its register, or undo it."""
        if entry.future.done() and not entry.future.cancelled():
            if entry.future.exception() is None:  # asked for, so that it does not count as never retrieved
                self._roll_back(entry.command.key)
        elif entry.state == PENDING:
            self._mailbox.discard(entry)
            self._end(entry, CANCELLED)
        elif entry.state == RUNNING:
            self._end(entry, ORPHANED)

    def clean(self, command: DropInstance | DropContext | Clear) -> Cleanup | Dropped:
        """Let a cleanup wait for its turn, or give the outcome at once where there is nothing to do."""
        for entry in self._mailbox.take_registers(command):
            self._end(entry, CANCELLED, Superseded("the instance was dropped before this register ran"))
        if not self.keeper.alive or not (isinstance(command, Clear) or self._book.has(command)):
            return NOTHING
        if isinstance(self._running, Cleanup) and self._running.covers(command):
            return self._running
        if self._idle:
            cleanup = Cleanup(command, self._clock.now())
            self._begin(cleanup)
            return cleanup
        return self._mailbox.put_cleanup(command, self._clock.now())

    @property
    def hangs(self) -> bool:
        """Whether nothing that is asked of it now can be waited for."""
        return not self.keeper.able and self.keeper.phase in (Phase.WEDGED, Phase.QUARANTINED)

    def look(self) -> None:
        """Look at the actor; called now and then."""
        if self.keeper.look(0 if self._running is None else self._serial):
            self._give_up_on_reply()

    def close(self) -> None:
        """Refuse what waits and let the actor go."""
        self.keeper.close(force=False)
        error = ShuttingDown("the server is shutting down")
        self._fail_registers(error)
        for cleanup in self._take_cleanups():
            cleanup.finish(error)
        self._retry.stop()

    # ---- what the keeper says

    def on_able(self) -> None:
        """The actor can take a request."""
        self._pump()

    def on_reply(self, reply: Reply) -> None:
        """The actor answered."""
        running, answer = self._running, reply.answer
        if running is None or reply.serial != self._serial:
            if reply.serial in self._given_up:
                self._given_up.discard(reply.serial)
            else:
                self.keeper.end(f"reply {reply.serial} was not asked for")
            return
        if isinstance(running, Entry) and isinstance(answer, (Registered, Refused)):
            self._running = None
            self._registered(running, answer)
        elif isinstance(running, Cleanup) and isinstance(answer, (Dropped, Refused)):
            self._running = None
            self._cleaned(running, answer)
        else:
            self.keeper.end(f"reply {reply.serial} is a {type(answer).__name__}")
            return
        if not self.keeper.able:
            self.keeper.recovered()
        self._pump()

    def on_lost(self, reason: str) -> None:
        """The actor is gone, with everything that it held."""
        self._given_up.clear()
        self._retry.stop()
        self._fail_registers(DeviceLost(f"the actor of device {self._device_id} died: {reason}"))
        for cleanup in self._take_cleanups():
            self._tally.ended(cleanup, DONE)
            cleanup.finish(self._book.forget(cleanup.command))
        lost = self._book.settled_generations()  # what was being cleaned up is missed by nobody
        self._book = Book()
        if lost:
            self._on_lost(lost)

    # ---- one command at a time

    @property
    def _idle(self) -> bool:
        """Whether a command may be sent now. If so nothing waits: whoever makes this true calls _pump."""
        return self._running is None and not self._retry.waiting and self.keeper.able

    def _pump(self) -> None:
        if self._idle and (command := self._mailbox.take()) is not None:
            self._begin(command)

    def _begin(self, command: Entry | Cleanup) -> None:
        self._running = command
        self._serial += 1
        command.state = RUNNING
        if isinstance(command, Entry):
            self._created = self._book.expect(command.command.key)
        command.context.run(self.keeper.send, Request(self._serial, command.command))

    def _registered(self, entry: Entry, answer: Registered | Refused) -> None:
        key = entry.command.key
        if isinstance(answer, Registered):
            self._book.settle(key, answer)
            if entry.state == RUNNING and not entry.future.done():
                self._end(entry, DONE)
                entry.future.set_result(answer)
            else:
                self._roll_back(key)
            return
        if answer.code == "INTERNAL":
            self._make_known(key)
        elif self._created:
            self._book.forget(DropContext(key))
        if entry.state == RUNNING:
            self._end(entry, DONE, as_error(answer), outcome=REFUSED)

    def _cleaned(self, cleanup: Cleanup, answer: Dropped | Refused) -> None:
        if isinstance(answer, Dropped):
            self._book.forget(cleanup.command)
            self._tally.ended(cleanup, DONE)
            cleanup.finish(answer)
            return
        logger.error("device %d: cleanup refused: %s; it is tried again", self._device_id, answer)
        self._tally.ended(cleanup, REFUSED)
        self._try_again(cleanup)

    def _give_up_on_reply(self) -> None:
        running = self._running
        assert running is not None
        logger.error(
            "device %d: the answer to request %d (%s) is lost",
            self._device_id,
            self._serial,
            OPERATION_NAMES[type(running.command)],
        )
        self._tally.lost_replies += 1
        self._given_up.add(self._serial)
        self._running = None
        if isinstance(running, Entry):
            self._make_known(running.command.key)
            if running.state == RUNNING:
                self._end(running, ORPHANED, OutcomeUnknown("the actor's answer was lost; it is undone"))
        else:
            self._try_again(running)
        self._pump()

    def _expire(self, entry: Entry) -> None:
        if entry.state == PENDING:
            self._mailbox.discard(entry)
            why = self.keeper.reason() or "other commands came first"
            self._end(entry, EXPIRED, DeadlineExpired(f"not run within the deadline: {why}"))
        elif entry.state == RUNNING:
            self._end(
                entry,
                ORPHANED,
                OutcomeUnknown(
                    "the actor did not answer within the deadline; the register is undone when it does"
                ),
            )

    def _end(
        self, entry: Entry, state: State, error: RegistryError | None = None, *, outcome: str = ""
    ) -> None:
        self._tally.ended(entry, outcome or state)
        entry.finish(state, error)

    def _roll_back(self, key: ContextKey) -> None:
        self._tally.rolled_back += 1
        self._mailbox.put_cleanup(DropContext(key), self._clock.now())
        self._pump()

    def _make_known(self, key: ContextKey) -> None:
        """Drop the context if the register may have made it; one that was there before is not its doing."""
        if self._created:
            self._roll_back(key)

    def _try_again(self, cleanup: Cleanup) -> None:
        self._retry.after(cleanup.attempts)
        cleanup.attempts += 1
        cleanup.state = PENDING
        self._mailbox.put_back(cleanup)

    def _fail_registers(self, error: RegistryError) -> None:
        running = self._running
        if isinstance(running, Entry):
            self._running = None
            if running.state == RUNNING:
                unknown = OutcomeUnknown(f"{error.message}; nothing of the register is left")
                self._end(running, ORPHANED, unknown)
        for entry in self._mailbox.take_all_registers():
            self._end(entry, CANCELLED, error)

    def _take_cleanups(self) -> list[Cleanup]:
        running = [self._running] if isinstance(self._running, Cleanup) else []
        self._running = None
        return [*running, *self._mailbox.take_all_cleanups()]

    # ---- how it is

    def contexts(self) -> tuple[ContextSummary, ...]:
        """What the actor holds."""
        return self._book.contexts()

    def snapshot(self) -> DeviceSnapshot:
        """All of it, from memory."""
        return observe(
            self._device_id,
            self._clock.now(),
            keeper=self.keeper,
            mailbox=self._mailbox,
            running=self._running,
            book=self._book,
            tally=self._tally,
        )
