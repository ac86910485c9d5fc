"""The agent: one thread that connects back to the controller and carries out its requests.

It is built to go unnoticed. Start-up uses only modules written in C, the code for faults is imported with the
first fault, every signal is masked in the thread, and descriptors are closed on exec. A program that closes
all descriptors it does not know also closes the agent's, so each is checked before use to be still the
agent's.

A program with one thread forks with one thread: the agent's thread ends before the fork and is started again
after it. In a program with more threads, the agent does nothing before a fork and does not release the GIL
even for a moment, so that the threads run in the same order as without it; the child undoes what the agent
may have begun. A child connects by itself. No thread of the program waits here without a time limit: a lock
is requested with a time-out, and work that needs a lock it did not get is skipped.

The standard library holds some of its locks from one fork hook to the next (`concurrent.futures` does), and a
thread that requests a gevent lock in between may lose it. So under gevent, or with other threads, no Python
code of the agent runs in a fork hook: see `_until_over`.

If the controller cannot be reached, or goes away, the process runs on as if there were no agent.
"""

from __future__ import annotations

import _functools  # type: ignore[import-not-found]  # `functools` without what it imports
import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import _socket
import os
import select
import sys
import time

from .unpatched import (
    allocate_lock,
    get_ident,
    get_native_id,
    name_thread,
    own_threads,
    poll,
    sleep,
    start_new_thread,
)

TYPE_CHECKING = False  # importing `typing` would cost more than the rest of the start
if TYPE_CHECKING:
    from typing import Any, Callable

    from .service import Service

PROTOCOL_VERSION = 3  # of `protocol`, which is not loaded before it is needed
_CONNECT_WITHIN_S = 1.0
_SEND_WITHIN_S = 1.0
_FORK_WAITS_S = 1.0
_CHUNK_BYTES = 65536
# struct timeval of 64-bit Linux (socket(7), SO_SNDTIMEO)
_SEND_TIME = int(_SEND_WITHIN_S).to_bytes(8, sys.byteorder) + bytes(8)

_agent: Agent | None = None
_registered = False  # with `fork`, which cannot be taken back
_OVER = object()


class OwnedFd:
    """A descriptor, and how to tell whether its number still refers to it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = _identity(fd)

    def intact(self) -> bool:
        """Whether the number still is this descriptor: not closed, nor closed and used again by the
        program.
        """
        return self._identity is not None and _identity(self.fd) == self._identity

    def shut(self) -> None:
        """Shut down a socket in both directions, so that the other end notices."""
        if self.intact():
            sock = _socket.socket(fileno=self.fd)
            try:
                sock.shutdown(_socket.SHUT_RDWR)
            except OSError:  # the other end did it first
                return
            finally:
                sock.detach()

    def close(self) -> None:
        """Close the descriptor if its number still refers to it."""
        if self.intact():
            self._identity = None
            os.close(self.fd)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


class AgentThread:
    """One thread that serves an agent: `ident` is its number as Python has it, `task` as the kernel has it,
    both 0 before it runs; `ended` is a lock that is held until it ends.

    Whether it ends for a fork is decided by who gets `_may_end`, a lock that is free only between
    `ask_to_end` and that moment: the thread itself, or whoever calls it off. Nobody waits for it, so a
    signal handler may fork wherever the thread of the program is.
    """

    def __init__(self) -> None:
        self.ident = self.task = 0
        self.ended = allocate_lock()
        self.asked = False
        self._may_end = allocate_lock()
        self._may_end.acquire()

    def ask_to_end(self) -> None:
        """Ask the thread to end; it does so at its next check."""
        self.asked = True
        try:
            self._may_end.release()
        except RuntimeError:  # it was asked already, by whom a signal handler has interrupted
            return

    def ends(self) -> bool:
        """Whether the thread has to end now. Called by the thread itself."""
        return bool(self._may_end.acquire(False))

    def call_off(self) -> bool:
        """Withdraw the request to end; False if the thread has ended or is about to."""
        off = bool(self._may_end.acquire(False))
        self.asked = self.asked and not off
        return off

    def start(self, serve: Callable[[AgentThread], None]) -> None:
        """Run `serve` in it, with every signal masked, so that signals find the threads they always found.

        Raises RuntimeError when the process may have no more threads.
        """
        before = _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
        try:
            self.ended.acquire()
            start_new_thread(self._run, (serve,))
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def _run(self, serve: Callable[[AgentThread], None]) -> None:
        self.ident, self.task = get_ident(), get_native_id()
        own_threads.add(self.ident)
        name_thread()
        try:
            serve(self)
        finally:
            own_threads.discard(self.ident)
            self.ended.release()

    def wait_ended(self, within_s: float) -> bool:
        """Wait until the thread has ended, for the kernel too; takes about twice `within_s` at most."""
        if not self.ended.acquire(timeout=within_s):
            return False
        self.ended.release()
        # From 3.12 on Python warns of a fork with threads; 3.13 counts them after `after_fork`, and warns.
        if sys.version_info >= (3, 12) and self.task:
            until = time.monotonic() + within_s
            while os.path.exists(f"/proc/self/task/{self.task}") and time.monotonic() < until:
                sleep(0.0001)
        return True


class Agent:
    """The connection to one controller, and the thread that serves it."""

    def __init__(self, sock: _socket.socket, address: str | None = None) -> None:
        self.sock = sock
        self.address = address
        self.connection = OwnedFd(sock.fileno())
        read, write = os.pipe()
        os.set_blocking(write, False)  # a full pipe must not block a thread that forks
        self.wake_read, self.wake_write = OwnedFd(read), OwnedFd(write)
        self.service: Service | None = None
        self._thread = AgentThread()
        self._unwakeable = False  # the program has closed the pipe that wakes the thread
        self._sending = allocate_lock()
        self._buffer = b""
        self._descriptors: list[int] = []

    def hello(self) -> None:
        """Send `protocol.Hello`, written by hand because loading `json` would slow down start-up."""
        python = ".".join(map(str, sys.version_info[:3]))
        owned = [self.connection.fd, self.wake_read.fd, self.wake_write.fd]
        fields = (
            f'"version": {PROTOCOL_VERSION}, "pid": {os.getpid()}, "python": "{python}", "own_fds": {owned}'
        )
        self.send(f'{{"type": "hello", "number": 0, "fds": 0, "fields": {{{fields}}}}}'.encode())

    def send(self, body: bytes) -> None:
        """Send one message. Raises OSError if the controller is gone or reads nothing for a second."""
        if not self._sending.acquire(timeout=_SEND_WITHIN_S):
            raise TimeoutError("another message is still being sent")
        try:
            self.sock.sendall(len(body).to_bytes(4, "big") + body)
        except OSError:
            self.connection.shut()  # a message may be cut in two, and nothing after it could be read
            raise
        finally:
            self._sending.release()

    def start(self) -> None:
        """Serve in a thread. Raises RuntimeError if the process may start no more threads."""
        self._thread = AgentThread()
        self._thread.start(self.serve)

    def serve(self, thread: AgentThread) -> None:
        """Carry out the controller's requests in this thread, until the controller is gone or the thread must
        end."""
        try:
            over = self._serve(thread)
        except Exception:  # noqa: BLE001  # a broken connection ends the agent; the program must not hear of it
            over = True
        if over:
            self.end()

    def _serve(self, thread: AgentThread) -> bool:
        poller = poll()
        poller.register(self.connection.fd, select.POLLIN)
        poller.register(self.wake_read.fd, select.POLLIN)
        while True:
            ready = dict(poller.poll(self.service.expires_in_ms() if self.service else None))
            if not (self.connection.intact() and self.wake_read.intact()):
                return True
            if self.service:
                self.service.expire()
            if self.wake_read.fd in ready:
                os.read(self.wake_read.fd, _CHUNK_BYTES)
                if thread.ends():  # else the fork is over, for which this thread was busy too long
                    return False
            if self.connection.fd in ready and not self._receive():
                return True

    def _receive(self) -> bool:
        received, ancillary, _, _ = self.sock.recvmsg(
            _CHUNK_BYTES, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                for at in range(0, len(payload) - len(payload) % 4, 4):
                    self._descriptors.append(int.from_bytes(payload[at : at + 4], sys.byteorder))
        self._buffer += received
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                break
            body, self._buffer = self._buffer[4:end], self._buffer[end:]
            if self.service is None:
                from .service import Service

                self.service = Service(self.send)
            self.service.handle(body, self._descriptors)
        return bool(received)

    def before_fork(self) -> None:
        """End the thread before the fork of a program that has just one other.

        It waits a second at most, for the agent's thread may want what the forking thread has.
        """
        thread = self._thread
        if len(sys._current_frames()) > 2 or thread.ident == get_ident() or self._unwakeable:
            return
        thread.ask_to_end()
        if not self._wake():
            self._unwakeable = True  # it ends by itself: poll(2) returns when the program closes the pipe
        thread.wait_ended(_FORK_WAITS_S)

    def _wake(self) -> bool:
        try:
            return self.wake_write.intact() and bool(os.write(self.wake_write.fd, b"x"))
        except BlockingIOError:  # full of wake-ups already
            return True
        except OSError:  # closed just now
            return False

    def after_fork(self) -> None:
        """Continue to serve in the parent after a fork, if there is still a controller."""
        if self._thread.asked and not self._thread.call_off() and self.connection.intact():
            try:
                self.start()
            except RuntimeError:  # the process may have no more threads: then it has no more faults either
                self.end()

    def end(self) -> None:
        """Release everything that is armed, and close the connection."""
        if self.service is not None:
            self.service.release_all()
        self._close()

    def forget(self) -> None:
        """In a forked child: restore what was armed in the parent, leaving the parent's lifelines and pages
        alone.
        """
        own_threads.clear()
        if self._thread.ended.locked():
            _forget_imports(self._thread.ident)
        if self.service is not None:
            self.service.forget_all()
        self._close()

    def _close(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self.sock.detach()
        for owned in (self.connection, self.wake_read, self.wake_write):
            owned.close()


def start(address: str) -> str:
    """Connect to the controller at `address` and serve it from a thread.

    Returns `loaded`; `already` where another controller's agent is in the process, and is left; or
    `unreachable`, having done nothing. Where the agent's controller is gone, this one takes its place.
    """
    global _agent, _registered
    if _agent is not None:
        if _agent.connection.intact():
            return "already"
        _agent = None
    if not _connect(address):
        return "unreachable"
    if not _registered:
        _registered = True
        os.register_at_fork(
            before=_until_over(_before_fork),
            after_in_parent=_until_over(_after_fork_in_parent),
            after_in_child=_after_fork_in_child,
        )
    return "loaded"


def _connect(address: str) -> bool:
    global _agent
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_WITHIN_S)  # a controller that accepts nothing must not hold up the program
        sock.connect(address)
        agent = Agent(sock, address)
        agent.hello()
        sock.settimeout(None)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _SEND_TIME)
        agent.start()
    except (OSError, RuntimeError):  # nobody is there; or this interpreter allows no threads
        sock.close()
        return False
    _agent = agent
    return True


def _until_over(hook: Callable[[], object]) -> Callable[[], None]:
    """Call `hook` until it once returns `_OVER`; from then on do nothing, and that in C, which lets no other
    thread run in between.
    """
    made: Callable[[], None] = _functools.partial(next, iter(hook, _OVER), None)
    return made


def _before_fork() -> object:
    if _hooks_harm():
        return _OVER
    if _agent is not None:
        _agent.before_fork()
    return None


def _after_fork_in_parent() -> object:
    if _agent is not None:
        _agent.after_fork()
    return _OVER if _hooks_harm() else None


def _hooks_harm() -> bool:
    return "gevent.monkey" in sys.modules and len(sys._current_frames()) > 2


def _after_fork_in_child() -> None:
    global _agent
    agent, _agent = _agent, None
    if agent is not None:
        agent.forget()
        if agent.address is not None:
            _connect(agent.address)


def _forget_imports(thread: int) -> None:
    """In a forked child: forget the modules that a thread of the parent was importing.

    The thread does not exist here, so it would never finish, and whoever imports one of them would wait for
    ever.
    """
    frozen: Any = sys.modules["_frozen_importlib"]
    for name, known in list(frozen._module_locks.items()):
        lock = known()
        if getattr(lock, "owner", None) == thread:
            frozen._module_locks.pop(name, None)
            sys.modules.pop(name, None)
