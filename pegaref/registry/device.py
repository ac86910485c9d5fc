"""One device's commands, from its mailbox to its actor and back, one at a time and without loss."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from pegaref.clock import Clock, answer_within_s
from pegaref.config import RegistrySettings
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
    NOTHING_DROPPED,
    CleanupCommand,
    Clear,
    ContextKey,
    DropContext,
    Dropped,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
)
from pegaref.registry.actor_supervisor import ActorSupervisor
from pegaref.registry.backoff import CleanupRetry
from pegaref.registry.commands import (
    CANCELLED,
    DONE,
    EXPIRED,
    OPERATION_NAMES,
    ORPHANED,
    PENDING,
    REFUSED,
    RUNNING,
    Cleanup,
    CommandCounters,
    PendingRegister,
    State,
    refusal_error,
)
from pegaref.registry.contexts import ContextTable
from pegaref.registry.link import Launcher
from pegaref.registry.mailbox import Mailbox
from pegaref.registry.snapshot import ContextSummary, DeviceSnapshot

logger = logging.getLogger(__name__)


class Device:
    """One device. Everything happens on its event loop, in callbacks that never wait.

    It is the ActorOwner of its supervisor and gives the actor one request at a time.
    """

    def __init__(
        self,
        device_id: int,
        launcher: Launcher,
        settings: RegistrySettings,
        clock: Clock,
        on_lost: Callable[[frozenset[tuple[str, int]]], None],
    ) -> None:
        self.device_id = device_id
        self._settings = settings
        self._clock = clock
        self._on_lost = on_lost
        self._mailbox = Mailbox(settings.mailbox_commands, settings.mailbox_bytes)
        self._contexts = ContextTable()
        self._running: PendingRegister | Cleanup | None = None
        self._serial = 0
        self._created = False  # whether the running register's context was new in the table
        self._unwatched = ""  # why the actor could not be checked on
        self._retry = CleanupRetry(clock, self._start_next)
        self._counters = CommandCounters()
        self._supervisor = ActorSupervisor(device_id, launcher, settings, clock, self)

    # ---- what the handle calls

    def launch(self) -> None:
        """Start the actor; returns before it is ready."""
        self._supervisor.launch()

    def submit(self, command: RegisterLayers, deadline_s: float) -> PendingRegister:
        """Queue a register. Raises InvalidCommand, MailboxFull, DeviceUnavailable."""
        self._supervisor.refuse_if_unavailable()
        now_s = self._clock.now()
        register = PendingRegister(command, asyncio.get_running_loop().create_future(), now_s)
        if register.size_bytes > MAX_FRAME_BYTES:
            raise InvalidCommand(
                f"a command of {register.size_bytes} bytes; the limit is {MAX_FRAME_BYTES}",
                field="layer_names",
            )
        if self._idle:
            self._start(register)
        else:
            try:
                self._mailbox.put(register)
            except MailboxFull:
                self._counters.rejected += 1
                raise
        register.timer = self._clock.call_at(
            now_s + answer_within_s(deadline_s), partial(self._expire, register)
        )
        return register

    def abandon(self, register: PendingRegister) -> None:
        """Skip a register whose caller has left, or undo it if it ran."""
        if register.future.done() and not register.future.cancelled():
            # read it, or asyncio reports an exception that was never retrieved
            if register.future.exception() is None:
                self._roll_back(register.command.key)
        elif register.state == PENDING:
            self._mailbox.discard(register)
            self._end_register(register, CANCELLED)
        elif register.state == RUNNING:
            self._end_register(register, ORPHANED)

    def submit_cleanup(self, command: CleanupCommand) -> Cleanup | Dropped:
        """Queue a cleanup, or return its outcome at once if there is nothing to release."""
        for register in self._mailbox.take_matching_registers(command):
            self._end_register(
                register, CANCELLED, Superseded("the instance was dropped before this register ran")
            )
        if not self._supervisor.alive or not (
            isinstance(command, Clear) or self._contexts.has_match(command)
        ):
            return NOTHING_DROPPED
        if isinstance(self._running, Cleanup) and self._running.subsumes(command):
            return self._running
        if self._idle:
            cleanup = Cleanup(command, self._clock.now())
            self._start(cleanup)
            return cleanup
        return self._mailbox.put_cleanup(command, self._clock.now())

    @property
    def is_wedged(self) -> bool:
        """Whether waiting for a command is pointless because the actor hangs."""
        return self._supervisor.is_wedged

    def poll(self) -> None:
        """Check on the actor; called every `hang_detector.poll_interval_s`. A device that cannot be checked
        on is not ready: nobody would notice a hang."""
        try:
            overdue = self._supervisor.poll(0 if self._running is None else self._serial)
        except Exception as error:
            if not self._unwatched:
                logger.exception("device %d: the actor cannot be watched", self.device_id)
            self._unwatched = f"the actor cannot be watched: {type(error).__name__}: {error}"
            return
        self._unwatched = ""
        if overdue:
            self._give_up_on_reply()

    def close(self) -> None:
        """Refuse the commands that wait, and let the actor end once its command is done."""
        self._supervisor.close(force=False)
        error = ShuttingDown("the server is shutting down")
        self._fail_registers(error)
        for cleanup in self._take_cleanups():
            cleanup.finish(error)
        self._retry.stop()

    def kill(self) -> None:
        """Kill the actor; none is launched in its place."""
        self._supervisor.close(force=True)

    async def wait_gone(self) -> None:
        """Return when the actor has ended."""
        await self._supervisor.wait_gone()

    # ---- what the supervisor calls

    def on_accepting(self) -> None:
        """Send the actor the next command."""
        self._start_next()

    def on_reply(self, reply: Reply) -> None:
        """End the command that the actor answered, and send it the next.

        An answer that no command waits for (it came twice, or after it was given up) means nothing: serials
        are never used again, so it can be no other command's.
        """
        running, answer = self._running, reply.answer
        if running is None or reply.serial != self._serial:
            self._counters.unexpected_replies += 1
            if self._counters.unexpected_replies.bit_count() == 1:  # at 1, 2, 4, …: it may be a flood
                logger.warning(
                    "device %d: dropped reply %d, which no command waits for; %d so far",
                    self.device_id,
                    reply.serial,
                    self._counters.unexpected_replies,
                )
            return
        if isinstance(running, PendingRegister) and isinstance(answer, (Registered, Refused)):
            self._running = None
            self._finish_register(running, answer)
        elif isinstance(running, Cleanup) and isinstance(answer, (Dropped, Refused)):
            self._running = None
            self._finish_cleanup(running, answer)
        else:
            self._supervisor.replace(f"reply {reply.serial} is a {type(answer).__name__}")
            return
        self._supervisor.mark_recovered()
        self._start_next()

    def on_lost(self, reason: str) -> None:
        """End all commands and empty the context table: the actor has ended, with everything that it held."""
        self._retry.stop()
        self._fail_registers(DeviceLost(f"the actor of device {self.device_id} died: {reason}"))
        for cleanup in self._take_cleanups():
            self._counters.count(cleanup, DONE)
            cleanup.finish(self._contexts.remove(cleanup.command))
        lost = self._contexts.settled_generations()  # a context whose cleanup was queued has no owner to tell
        self._contexts = ContextTable()
        if lost:
            self._on_lost(lost)

    # ---- one command at a time

    @property
    def _idle(self) -> bool:
        """Whether a command may be sent now. Nothing waits then, because whatever makes this true calls
        _start_next."""
        return self._running is None and not self._retry.pausing and self._supervisor.accepting

    def _start_next(self) -> None:
        if self._idle and (command := self._mailbox.take()) is not None:
            self._start(command)

    def _start(self, command: PendingRegister | Cleanup) -> None:
        self._running = command
        self._serial += 1
        command.state = RUNNING
        if isinstance(command, PendingRegister):
            self._created = self._contexts.add_pending(command.command.key)
        command.context.run(self._supervisor.send, Request(self._serial, command.command))

    def _finish_register(self, register: PendingRegister, answer: Registered | Refused) -> None:
        key = register.command.key
        if isinstance(answer, Registered):
            self._contexts.settle(key, answer)
            if register.state == RUNNING and not register.future.done():
                self._end_register(register, DONE)
                register.future.set_result(answer)
            else:
                self._roll_back(key)
            return
        if answer.code == "INTERNAL":
            self._roll_back_unknown(key)
        elif self._created:
            self._contexts.remove(DropContext(key))
        if register.state == RUNNING:
            self._end_register(register, DONE, refusal_error(answer), outcome=REFUSED)

    def _finish_cleanup(self, cleanup: Cleanup, answer: Dropped | Refused) -> None:
        if isinstance(answer, Dropped):
            self._contexts.remove(cleanup.command)
            self._counters.count(cleanup, DONE)
            cleanup.finish(answer)
            return
        logger.error("device %d: cleanup refused: %s; it is tried again", self.device_id, answer)
        self._counters.count(cleanup, REFUSED)
        self._retry_later(cleanup)

    def _give_up_on_reply(self) -> None:
        running = self._running
        assert running is not None
        logger.error(
            "device %d: the answer to request %d (%s) is lost",
            self.device_id,
            self._serial,
            OPERATION_NAMES[type(running.command)],
        )
        self._counters.lost_replies += 1
        self._running = None
        if isinstance(running, PendingRegister):
            self._roll_back_unknown(running.command.key)
            if running.state == RUNNING:
                self._end_register(
                    running, ORPHANED, OutcomeUnknown("the actor's answer was lost; it is undone")
                )
        else:
            self._retry_later(running)
        self._start_next()

    def _expire(self, register: PendingRegister) -> None:
        if register.state == PENDING:
            self._mailbox.discard(register)
            why = self._supervisor.reason() or "other commands came first"
            self._end_register(register, EXPIRED, DeadlineExpired(f"not run within the deadline: {why}"))
        elif register.state == RUNNING:
            self._end_register(
                register,
                ORPHANED,
                OutcomeUnknown(
                    "the actor did not answer within the deadline; the register is undone when it does"
                ),
            )

    def _end_register(
        self,
        register: PendingRegister,
        state: State,
        error: RegistryError | None = None,
        *,
        outcome: str = "",
    ) -> None:
        self._counters.count(register, outcome or state)
        register.finish(state, error)

    def _roll_back(self, key: ContextKey) -> None:
        self._counters.rolled_back += 1
        self._mailbox.put_cleanup(DropContext(key), self._clock.now())
        self._start_next()

    def _roll_back_unknown(self, key: ContextKey) -> None:
        """Drop the context if the register may have made it, that is, unless it was there before."""
        if self._created:
            self._roll_back(key)

    def _retry_later(self, cleanup: Cleanup) -> None:
        self._retry.start(cleanup.attempts)
        cleanup.attempts += 1
        cleanup.state = PENDING
        self._mailbox.put_back(cleanup)

    def _fail_registers(self, error: RegistryError) -> None:
        running = self._running
        if isinstance(running, PendingRegister):
            self._running = None
            if running.state == RUNNING:
                unknown = OutcomeUnknown(f"{error.message}; nothing of the register is left")
                self._end_register(running, ORPHANED, unknown)
        for register in self._mailbox.take_all_registers():
            self._end_register(register, CANCELLED, error)

    def _take_cleanups(self) -> list[Cleanup]:
        running = [self._running] if isinstance(self._running, Cleanup) else []
        self._running = None
        return [*running, *self._mailbox.take_all_cleanups()]

    # ---- what it shows, from memory

    def contexts(self, after: ContextKey | None) -> Iterator[ContextSummary]:
        """The contexts that the actor holds, or may hold, in the order of their keys, after one of them."""
        return self._contexts.contexts(after)

    @property
    def context_count(self) -> int:
        """How many contexts there are."""
        return len(self._contexts)

    def mark(self) -> tuple[object, ...] | None:
        """A value that is another one whenever a number of `snapshot` is. None while one of them ages, as the
        times of commands that wait or run and of a hang do. It costs a tenth of a snapshot."""
        mailbox, contexts, counters = self._mailbox, self._contexts, self._counters
        actor = self._supervisor.mark()
        if actor is None or self._running is not None or mailbox.register_count or mailbox.cleanup_count:
            return None
        return (
            actor,
            len(contexts),
            contexts.tensors,
            contexts.bytes,
            counters.ended,
            counters.rejected,
            counters.rolled_back,
            counters.lost_replies,
            counters.unexpected_replies,
        )

    def snapshot(self) -> DeviceSnapshot:
        """The device's state and counters."""
        actor, mailbox, running, counters = (
            self._supervisor.status(),
            self._mailbox,
            self._running,
            self._counters,
        )
        in_flight: Counter[str] = Counter()
        submitted_s = [] if (oldest_s := mailbox.oldest_s()) is None else [oldest_s]
        if mailbox.register_count:
            in_flight["register"] = mailbox.register_count
        for cleanup in mailbox.cleanups():
            in_flight[OPERATION_NAMES[type(cleanup.command)]] += 1
        if running is not None:
            in_flight[OPERATION_NAMES[type(running.command)]] += 1
            submitted_s.append(running.submitted_s)
        now_s = self._clock.now()
        return DeviceSnapshot(
            device_id=self.device_id,
            device_type=actor.device_type,
            phase=actor.phase,
            ready=actor.accepting and not self._unwatched,
            reason=actor.reason or self._unwatched,
            hang=actor.hang,
            hang_age_s=actor.hang_age_s,
            traceback=actor.traceback,
            epoch=actor.epoch,
            pid=actor.pid,
            mailbox_depth=mailbox.register_count,
            mailbox_bytes=mailbox.register_bytes,
            cleanup_depth=mailbox.cleanup_count,
            oldest_command_age_s=max((now_s - since_s for since_s in submitted_s), default=0.0),
            contexts=len(self._contexts),
            tensors=self._contexts.tensors,
            bytes=self._contexts.bytes,
            in_flight=dict(in_flight),
            finished=dict(counters.finished),
            respawns=actor.respawns,
            rejected=counters.rejected,
            rolled_back=counters.rolled_back,
            lost_replies=counters.lost_replies,
            unexpected_replies=counters.unexpected_replies,
        )
