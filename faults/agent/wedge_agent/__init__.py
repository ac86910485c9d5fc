"""The agent: one thread that connects back to the controller and does what it says.

It is built to be unfelt. Start-up uses only modules written in C, the work that a fault needs is imported
when the first fault comes, every signal is masked in the thread, and descriptors are closed on exec. It steps
aside around `fork` (a child connects anew), so that a program which forks is as single-threaded as without
it. A program that closes all descriptors it does not know closes the agent's too: each is checked to be still
the agent's before use.

If the controller cannot be reached, or goes away, the process goes on as if there were no agent.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import _socket
import _thread
import os
import select
import sys
import time

TYPE_CHECKING = False  # importing `typing` would cost more than the rest of the start
if TYPE_CHECKING:
    from .service import Service

PROTOCOL = 1
_CONNECT_WITHIN_S = 1.0
_FORK_WAITS_S = 1.0
_CHUNK_BYTES = 65536

_agent: Agent | None = None
_registered = False  # with `fork`, which cannot be taken back
_forking = 0
_counting = _thread.allocate_lock()


class Owned:
    """A descriptor, and how to tell that the number still means it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = _identity(fd)

    def intact(self) -> bool:
        """Whether the number still is this descriptor: not closed, nor closed and used again by the
        program.
        """
        return self._identity is not None and _identity(self.fd) == self._identity

    def close(self) -> None:
        """Close it, if it is still ours to close."""
        if self.intact():
            self._identity = None
            os.close(self.fd)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


class Agent:
    """The connection to one controller, and the thread that serves it."""

    def __init__(self, sock: _socket.socket, address: str | None = None) -> None:
        self.sock = sock
        self.address = address
        self.line = Owned(sock.fileno())
        read, write = os.pipe()
        self.wake_read, self.wake_write = Owned(read), Owned(write)
        self.service: Service | None = None
        self._alive = _thread.allocate_lock()  # held for as long as the thread runs
        self._turn = _thread.allocate_lock()  # guards the two below
        self._aside = False  # whether a fork is under way
        self._serving = False
        self._forsaken = False  # whether a fork has waited for the end of a thread that cannot be woken
        self._sending = _thread.allocate_lock()
        self._thread = 0
        self._buffer = b""
        self._descriptors: list[int] = []

    def hello(self) -> None:
        """Say who this is; the controller reads the rest from /proc."""
        text = '{"hello": %d, "pid": %d, "ppid": %d, "python": "%d.%d.%d"}'
        self.send((text % (PROTOCOL, os.getpid(), os.getppid(), *sys.version_info[:3])).encode())

    def send(self, body: bytes) -> None:
        """Send one message. Raises OSError when the controller is gone."""
        with self._sending:
            self.sock.sendall(len(body).to_bytes(4, "big") + body)

    def start(self) -> None:
        """Serve in a thread in which every signal is masked, so that signals find the threads they always
        found.
        """
        self._alive.acquire()
        self._serving = True
        before = _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
        try:
            _thread.start_new_thread(self._serve_in_thread, ())
        except BaseException:
            self._serving = False
            self._alive.release()
            raise
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def _serve_in_thread(self) -> None:
        self._thread = _thread.get_native_id()
        try:
            self.serve()
        finally:
            self._alive.release()

    def serve(self) -> None:
        """Do what the controller says until it is gone, or until this thread is asked to step aside."""
        try:
            over = self._serve()
        except Exception:  # noqa: BLE001  # a broken connection ends the agent; the program must not hear of it
            over = True
        if over:
            self.end()

    def _serve(self) -> bool:
        poller = select.poll()
        poller.register(self.line.fd, select.POLLIN)
        poller.register(self.wake_read.fd, select.POLLIN)
        while True:
            ready = dict(poller.poll(self.service.expires_in_ms() if self.service else None))
            if not (self.line.intact() and self.wake_read.intact()):
                return True
            if self.service:
                self.service.expire()
            if self.wake_read.fd in ready:
                os.read(self.wake_read.fd, 1)
                # The fork may be over already, if this thread was busy for longer than it waits.
                with self._turn:
                    if self._aside:
                        self._serving = False
                        return False
            if self.line.fd in ready and not self._receive():
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

    def step_aside(self) -> None:
        """End the thread before a fork; waits a second at most, for it may want what the forking thread
        has.
        """
        if self._thread == _thread.get_native_id() or self._forsaken:
            return
        with self._turn:
            self._aside = True
        if self.wake_write.intact():
            os.write(self.wake_write.fd, b"x")
        else:  # the thread ends, or has ended, by itself: poll(2) returns when the program closes the pipe
            self._forsaken = True
        if not self._alive.acquire(timeout=_FORK_WAITS_S):
            return
        self._alive.release()
        # From 3.12 on Python warns of a fork with threads; 3.13 counts them after `resume`, and warns.
        if sys.version_info >= (3, 12):
            until = time.monotonic() + _FORK_WAITS_S
            while os.path.exists(f"/proc/self/task/{self._thread}") and time.monotonic() < until:
                time.sleep(0.0001)

    def resume(self) -> None:
        """Serve on in the parent of a fork, if there is still a controller."""
        with self._turn:
            self._aside = False
            ended = not self._serving
        if ended and self.line.intact():
            try:
                self.start()
            except RuntimeError:  # the process may have no more threads: then it has no more faults either
                self.end()

    def end(self) -> None:
        """Give back whatever is armed, and close."""
        if self.service is not None:
            self.service.release_all()
        self._close()

    def forget(self) -> None:
        """In a forked child: restore what was armed in the parent, leaving the parent's line and page
        alone.
        """
        if self.service is not None:
            self.service.forget_all()
        self._close()

    def _close(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self.sock.detach()
        for owned in (self.line, self.wake_read, self.wake_write):
            owned.close()


def start(address: str) -> str:
    """Connect to the controller at `address` and serve it from a thread.

    Returns `loaded`; `already` where another controller's agent is in the process, and is left; or
    `unreachable`, having done nothing. Where the agent's controller is gone, this one takes its place.
    """
    global _agent, _registered
    if _agent is not None:
        if _agent.line.intact():
            return "already"
        _agent = None
    if not _connect(address):
        return "unreachable"
    if not _registered:
        _registered = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
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
        agent.start()
    except (OSError, RuntimeError):  # nobody is there; or this interpreter allows no threads
        sock.close()
        return False
    _agent = agent
    return True


def _before_fork() -> None:
    global _forking
    with _counting:
        _forking += 1
        first = _forking == 1
    if first and _agent is not None:
        _agent.step_aside()


def _after_in_parent() -> None:
    global _forking
    with _counting:
        _forking -= 1
        last = _forking == 0
    if last and _agent is not None:
        _agent.resume()


def _after_in_child() -> None:
    global _agent, _counting, _forking
    _counting = _thread.allocate_lock()  # another thread may have had it when this one forked
    _forking = 0
    agent, _agent = _agent, None
    if agent is not None:
        agent.forget()
        if agent.address is not None:
            _connect(agent.address)
