"""One child process per device. The control process shares neither GIL nor memory with the code that can
hang."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from pegaref import log
from pegaref.actor import TRACEBACK_SIGNAL, FrameError, FrameWriter, PulsePage, answer_reader, shared_page_fd
from pegaref.messages import Ending, Pulse, Ready, Request
from pegaref.placement.dispatch import DirectDispatch, Dispatch
from pegaref.placement.pipes import Pipes
from pegaref.registry import ActorEvents, Link, Vitals

logger = logging.getLogger(__name__)

CHILD_MODULE = "pegaref.actor.child"
EXIT_GRACE_S = 1.0
TRACEBACK_MOST_BYTES = 64 * 1024


class ProcessPlacement:
    """Launches `python -m pegaref.actor.child`, always with exec, from the event loop's thread.

    That thread must live as long as the server, because the kernel kills a child when the thread that started
    it ends, prctl(2).
    """

    name = "process"

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.dispatch: Dispatch = DirectDispatch()

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Start a child. Raises OSError when there are no descriptors or processes to be had."""
        return ProcessLink(device_id, self.device_type, epoch, events, asyncio.get_running_loop())

    def close(self) -> None:
        """Does nothing: each link frees what it holds."""


class ProcessVitals:
    """A child's vitals, read from its pulse page, /proc, and the file that it writes tracebacks to."""

    def __init__(self, page: PulsePage, trace_fd: int, pid: int, pidfd: int) -> None:
        self._page = page
        self._trace_fd = trace_fd
        self._pidfd = pidfd
        self._tasks = Path(f"/proc/{pid}/task")

    def pulse(self) -> Pulse:
        """Read the counters from memory."""
        return self._page.read()

    def states(self) -> str:
        """The state letter of each thread, as in proc_pid_stat(5); '' if there is no process."""
        letters: list[str] = []
        try:
            for task in self._tasks.iterdir():
                # The command's name is in parentheses and may itself contain any character, even a
                # parenthesis.
                after_name = (task / "stat").read_bytes().rpartition(b") ")[2]
                letters.append(after_name[:1].decode())
        except OSError:
            return "".join(letters)
        return "".join(letters)

    def request_traceback(self) -> None:
        """Have faulthandler in the child write the tracebacks of all threads."""
        os.ftruncate(self._trace_fd, 0)
        os.lseek(self._trace_fd, 0, os.SEEK_SET)  # the child's descriptor shares this position
        if self._page.traceback_ready:
            _signal(self._pidfd, TRACEBACK_SIGNAL)

    def read_traceback(self) -> str:
        """What faulthandler has written since the last request; '' until it has."""
        return os.pread(self._trace_fd, TRACEBACK_MOST_BYTES, 0).decode(errors="replace")

    def close(self) -> None:
        """Free what was shared with the child, which has ended. Nothing may be read afterwards."""
        self._page.close()
        os.close(self._trace_fd)


class ProcessLink:
    """One child and the pipes to it. Its messages are checked; a child that breaks the protocol is killed."""

    def __init__(
        self,
        device_id: int,
        device_type: str,
        epoch: int,
        events: ActorEvents,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._loop = loop
        self._events = events
        self._frame = FrameWriter().frame
        self._reader = answer_reader()
        self._kill_timer: asyncio.TimerHandle | None = None
        self._broken = ""  # why the pipes were closed; '' while they are open
        with contextlib.ExitStack() as opened:
            self._pipes = Pipes(loop, self._on_data, self._on_broken)
            opened.callback(self._pipes.close)
            page_fd = shared_page_fd()
            opened.callback(os.close, page_fd)
            trace_fd = os.memfd_create("pegaref-traceback", os.MFD_CLOEXEC)
            opened.callback(os.close, trace_fd)
            page = PulsePage(page_fd)
            opened.callback(page.close)
            self._process = _spawn(device_id, device_type, epoch, self._pipes.childs_fds, page_fd, trace_fd)
            opened.callback(_end_now, self._process)
            self._pidfd = os.pidfd_open(self._process.pid)
            opened.pop_all()
        os.close(page_fd)
        self._vitals = ProcessVitals(page, trace_fd, self._process.pid, self._pidfd)
        self._pipes.watch()
        loop.add_reader(self._pidfd, self._on_exit)

    @property
    def vitals(self) -> Vitals:
        """What can be seen of the child without its help."""
        return self._vitals

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def send(self, request: Request) -> None:
        """Write the request; the part that the pipe does not take now waits here."""
        self._pipes.write(self._frame(request))

    def end(self, *, force: bool) -> bool:
        """Close the pipes, on which a healthy child exits; with `force`, kill it."""
        if force:
            self._kill_untrusted("it is being killed")
        else:
            self._break("it is being closed")
        return True

    def _on_data(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except FrameError as error:
            self._kill_untrusted(str(error))
            return
        for message in messages:
            if self._broken:
                return
            if isinstance(message, Ready):
                self._events.on_ready(message)
            elif isinstance(message, Ending):
                self._expect_exit(message.reason)
            else:
                self._events.on_reply(message)

    def _on_broken(self, why: str) -> None:
        if why:
            self._kill_untrusted(why)
            return
        self._expect_exit("it closed its pipe")

    def _expect_exit(self, why: str) -> None:
        """Give an ending child time to exit, so that its status tells the reason; then kill it."""
        self._break(why)
        self._kill_timer = self._loop.call_later(EXIT_GRACE_S, _signal, self._pidfd, signal.SIGKILL)

    def _kill_untrusted(self, why: str) -> None:
        """Kill a child that broke the protocol or that has to end now."""
        self._break(why)
        _signal(self._pidfd, signal.SIGKILL)

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._pipes.close()

    def _on_exit(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._loop.remove_reader(self._pidfd)
        if not self._broken:
            self._pipes.read()  # what it wrote last
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        why = f" ({self._broken})" if self._broken else ""
        self._break("it has ended")
        os.close(self._pidfd)
        self._vitals.close()
        self._events.on_gone(f"process {self._process.pid} ended with {_status(status)}{why}")


def _spawn(
    device_id: int, device_type: str, epoch: int, pipe_fds: tuple[int, int], page_fd: int, trace_fd: int
) -> subprocess.Popen[bytes]:
    requests_fd, answers_fd = pipe_fds
    options = {
        "device-id": device_id,
        "device-type": device_type,
        "epoch": epoch,
        "parent": os.getpid(),
        "requests-fd": requests_fd,
        "answers-fd": answers_fd,
        "page-fd": page_fd,
        "trace-fd": trace_fd,
        "log-level": logging.getLogger().getEffectiveLevel(),
    }
    shared_fds = [*pipe_fds, page_fd, trace_fd]
    if (lost_lines_fd := log.lost_lines_fd()) is not None:
        options["lost-lines-fd"] = lost_lines_fd
        shared_fds.append(lost_lines_fd)
    # The child finds modules where this process does: in the working directory only if this one does, too.
    safe_path = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]
    return subprocess.Popen(
        [
            sys.executable,
            *safe_path,
            "-m",
            CHILD_MODULE,
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,  # stdout is the control process's alone
        process_group=0,  # and so is a terminal's Ctrl-C
        pass_fds=shared_fds,
    )


def _end_now(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        logger.debug("signal %s came after the process had ended", number.name)


def _status(returncode: int) -> str:
    return f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit status {returncode}"
