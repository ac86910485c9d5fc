"""One fault in one process: the object that a fault's file works with.

A fault depends on its lifeline, one end of a socket pair whose other end only the controller has. Whatever
ends the fault ends the lifeline. Everything that waits in the fault waits on the lifeline, so it all wakes at
once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import _socket
import os
import sys
import time
from contextlib import contextmanager

from . import page as words
from .page import Page
from .protocol import ARM_FAILED, Refused
from .trigger import Trigger
from .unpatched import RLock, get_ident, get_native_id, name_thread, own_threads, start_new_thread
from .waiting import wait_for_end, wait_on_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, NoReturn

    from .calls import Async, Sync
    from .protocol import Arm

_LOCK_WAITS_S = 1.0


class InjectedFault:
    """What a fault's `arm(fault)` may use.

    `params` are the fault's parameters, checked and complete; `targets` the processes of a fault that runs
    outside them, as (pid, start time in clock ticks); `until_ns` is the end of the lease on the monotonic
    clock; `notes` are findings for a person, and `details` the same for programs.
    """

    def __init__(
        self, request: Arm, fds: list[int], failed: Callable[[InjectedFault, Refused], None]
    ) -> None:
        self.id, self.name, self.params = request.fault, request.name, request.params
        self.targets = [(pid, started) for pid, started in request.targets]
        self.until_ns = request.until_ns
        self.notes: list[str] = []
        self.details: dict[str, Any] = {}
        self.threads_inside: list[tuple[int, int]] = []  # as Python and as the kernel number them
        self.live = False
        self.look_again: Callable[[], object] | None = (
            None  # while its site has yet to come, and nothing tells
        )
        self._lifeline = _socket.socket(fileno=fds[0])
        self._page = Page(fds[1])
        os.close(fds[1])
        self._trigger = Trigger(request.trigger)
        self._failed = failed
        self._lock = RLock()  # a finaliser may come back into a fault that its own thread is in
        self._users = 1  # the armed fault itself, and whoever waits on the lifeline
        self._released = False
        self._undo: list[Callable[[], object]] = []
        self._start: Callable[[], object] | None = None

    def set_start(self, start: Callable[[], object] | None) -> None:
        """Keep the function that `arm` returned (or None); it is called once all processes are armed."""
        self._start = start

    def start(self) -> None:
        """Start the part of the fault that needs no call to act."""
        if self._start is not None:
            self._start()

    def undo(self, action: Callable[[], object]) -> None:
        """Have `action` called at release, before those given earlier."""
        self._undo.append(action)

    def release(self) -> list[str]:
        """Wake everything that waits and undo everything, last first. Returns what could not be undone.

        A second call does nothing.
        """
        with self._locked():
            if self._released:
                return []
            self._released, self.live = True, False
            try:
                self._lifeline.shutdown(_socket.SHUT_RDWR)
            except OSError:  # the controller shut it first
                self.live = False
        notes = self._undo_all()
        self._drop()
        return notes

    def forget(self) -> None:
        """In a forked child: undo what the child inherited, and leave the parent's lifeline and page as they
        are.
        """
        self._lock = RLock()  # whoever held the old one does not exist here
        self._released, self.live = True, False
        self._undo_all()
        self._lifeline.close()
        self._users = 0

    def _undo_all(self) -> list[str]:
        notes = []
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:  # noqa: BLE001  # one failure must not keep the rest from being undone
                notes.append(f"{self.name} could not undo all it did: {type(error).__name__}: {error}")
        return notes

    def fail(self, kind: str, message: str, near: list[str] | None = None) -> None:
        """Report to the controller, after arming, that the fault cannot work here."""
        try:
            self._failed(self, Refused(kind, message, near))
        except OSError:  # nobody is left to tell
            self.live = False

    def tell_of_greenlets(self) -> None:
        """Note, for a fault that waits in calls, what that means in a program whose threads are greenlets."""
        if "gevent.hub" in sys.modules:
            self.notes.append(
                "gevent runs here: a call that waits in a greenlet stops its hub, and with it every greenlet "
                "of that thread, as a call into C would (loop.block does the same without a call)"
            )

    def refuse(self, reason: str) -> NoReturn:
        """Refuse, while arming: the fault cannot work here. Then it is armed in no process."""
        raise Refused(ARM_FAILED, reason)

    def process_handles(self) -> list[int]:
        """A pidfd for each target, checked to be the process that was selected; closed at release."""
        handles = []
        for pid, started in self.targets:
            try:
                # Linux 5.3, Python 3.9
                handle = os.pidfd_open(pid)  # type: ignore[attr-defined, unused-ignore]
            except ProcessLookupError:
                self.refuse(f"process {pid} has ended")
            self._undo.append(_closing(handle))
            if started_at(pid) != started:
                self.refuse(f"process {pid} has ended, and its number is another's now")
            handles.append(handle)
        return handles

    def count_call(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> bool:
        """Count a call that reached the fault; True, and a hit, if the fault is to act on it."""
        # Comparing runs the arguments' own code, which may be slow, so no lock is held here.
        if not self.live or not self._trigger.matches(args, kwargs or {}):
            return False
        with self._locked() as mine:
            if not self.live or not mine:
                return False
            acts = self._trigger.count()
            page = self._page.words
            page[words.CALLS] = self._trigger.calls
            if acts:
                page[words.HITS] = self._trigger.acted
                if not page[words.FIRST_HIT]:
                    page[words.FIRST_HIT] = time.monotonic_ns()
            return acts

    takes = count_call
    """Its name in the files of older plugins."""

    def bind_signature(self, function: object) -> None:
        """Let the trigger know the names of the arguments of what will be called. Raises Refused."""
        self._trigger.bind_signature(function)

    def wait(
        self, gil: str = "released", *, for_s: float | None = None, then: Callable[[], object] | None = None
    ) -> None:
        """Block this thread until release, the lease's end, or for `for_s`; `gil` is "held" or "released".

        `then` is called before the thread counts as out of the fault again.
        """
        if not self.enter(gil == "held"):
            return
        try:
            wait_for_end(self._lifeline.fileno(), self._wait_until(for_s), keep_gil=gil == "held")
            if then is not None:
                then()
        finally:
            self.leave(gil == "held")

    def set_released(self) -> None:
        """Set the page's word `released`, which frees whatever waits on it."""
        with self._locked():
            if self._users:
                self._page.words[words.RELEASED] = 1

    let_go = set_released
    """Its name in the files of older plugins."""

    @contextmanager
    def page_address(self) -> Iterator[int]:
        """The page's address, valid inside the block. Raises Refused once the fault is over."""
        with self._locked():
            if self._released:
                raise Refused(ARM_FAILED, "the fault is over already")
            self._users += 1
            pinned = self._page.pinned()
        try:
            import ctypes

            yield ctypes.addressof(pinned)
        finally:
            del pinned
            self._drop()

    async def wait_async(self, *, for_s: float | None = None) -> None:
        """Have a task wait as `wait` has a thread; its event loop, asyncio's, uvloop's or trio's, runs on
        meanwhile.
        """
        if not self.enter(False):
            return
        # one per waiter: an event loop accepts one reader per descriptor
        fd = os.dup(self._lifeline.fileno())
        try:
            await wait_on_loop(fd, (self._wait_until(for_s) - time.monotonic_ns()) / 1e9)
        finally:
            os.close(fd)
            self.leave(False)

    def _wait_until(self, for_s: float | None) -> int:
        return self.until_ns if for_s is None else min(self.until_ns, time.monotonic_ns() + int(for_s * 1e9))

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the fault's lock; False where another thread keeps it for over a second, as one does whose
        finaliser blocks while it counts: no thread of the program waits for it without an end.
        """
        mine = self._lock.acquire(timeout=_LOCK_WAITS_S)
        try:
            yield mine
        finally:
            if mine:
                self._lock.release()

    def enter(self, keeps_gil: bool = False) -> bool:
        """Count this thread or task as inside; False once released. Each True needs one `leave`."""
        with self._locked() as mine:
            if self._released or not mine:
                return False
            self._users += 1
            now = time.monotonic_ns()
            page = self._page.words
            page[words.TID] = tid = get_native_id()
            self._page.enter(tid)
            if not page[words.INSIDE]:
                page[words.SINCE] = now
            if not page[words.FIRST_INSIDE]:
                page[words.FIRST_INSIDE] = now
            page[words.INSIDE] += 1
            page[words.GIL_HELD] += keeps_gil
            self.threads_inside.append((get_ident(), tid))
            return True

    def leave(self, kept_gil: bool = False) -> None:
        """Count it as outside again."""
        with self._locked():
            page = self._page.words
            page[words.INSIDE] -= 1
            page[words.GIL_HELD] -= kept_gil
            if not page[words.INSIDE]:
                page[words.HELD] += time.monotonic_ns() - page[words.SINCE]
                page[words.SINCE] = 0
            tid = get_native_id()
            self._page.leave(tid)
            self.threads_inside.remove((get_ident(), tid))
        self._drop()

    def _drop(self) -> None:
        with self._locked():
            self._users -= 1
            if self._users == 0:
                self._lifeline.close()
                self._page.close()

    def thread(self, run: Callable[[], object]) -> None:
        """Run `run` in a new thread with every signal masked; an exception is reported as a failure."""

        def guarded() -> None:
            own_threads.add(get_ident())
            name_thread()
            try:
                run()
            except Exception as error:  # noqa: BLE001  # told; the program must not hear of it
                self.fail(ARM_FAILED, f"{type(error).__name__}: {error}")
            finally:
                own_threads.discard(get_ident())

        before = _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
        try:
            start_new_thread(guarded, ())
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def patch(
        self, site: str, sync: Sync, coroutine: Async, *, absent: Callable[..., Any] | None = None
    ) -> None:
        """Have calls of `site` go through `sync(call)`, or `await coroutine(call)` for an `async def`, when
        they hit.

        `call()` runs the original with its own arguments, or `absent` where a class has no such method, when
        that is given. Raises Refused when the site cannot be patched.
        """
        from .installed import install

        install(site, (self, sync, coroutine), absent)


Fault = InjectedFault
"""Its former name, which plugins may use in annotations."""


def _closing(fd: int) -> Callable[[], None]:
    return lambda: os.close(fd)


def started_at(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc_pid_stat(5), field 22); None if it has
    ended.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None
