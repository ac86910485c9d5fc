"""The guard: the parent of a launched command. It ends all its descendants when the harness is gone.

Run as a script (`python -I -S guard.py FD DIRECTORY COMMAND…`) with the standard library alone; imports
nothing of `faults`. FD is a socket to the harness: the guard writes `started PID`, `failed REASON` and `exit
CODE`, one a line, and reads `end SECONDS`. End of file means that the harness is gone; then the guard ends
every descendant, those included that made themselves daemons (it is their subreaper, prctl(2)), removes the
shared memory that they made and nobody else uses, removes the harness's private DIRECTORY, and ends.

It runs in a separate session, so that Ctrl-C in the harness's terminal only reaches the harness.
"""

# ruff: noqa: PTH108, PTH115, PTH116, PTH123, PTH208
# pathlib would double the time that a guard takes to start.
from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import sys
import time

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_IN_CREATE, _IN_MOVED_TO, _IN_NONBLOCK = 0x100, 0x80, 0o4000
_SHM = "/dev/shm"
_GRACE_S = 1.0
_KILLED_WITHIN_S = 5.0
_STEP_S = 0.005
_LOOK_AGAIN_S = (0.0, 0.05, 0.5)
_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)

_libc = ctypes.CDLL(None, use_errno=True)


class Guard:
    """One command, everything below it, and the shared memory that they made."""

    def __init__(self, control: int, directory: str, command: list[str]) -> None:
        self.control, self.directory, self.command = control, directory, command
        self.pid = 0
        self.main_ended = False
        self.shm = SharedMemory()

    def run(self) -> None:
        """Start the command; end everything when the harness says so or is gone."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        os.set_inheritable(self.control, False)
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        if not self._start():
            return
        poller = select.poll()
        for fd in (self.control, wake_read, *self.shm.descriptors):
            poller.register(fd, select.POLLIN)
        while True:
            ready = dict(poller.poll(self.shm.look_again_ms()))
            if wake_read in ready:
                os.read(wake_read, 4096)
                self.reap()
            self.shm.look(descendants)
            if self.control in ready:
                order = os.read(self.control, 4096).split()
                self.end(float(order[1]) if order else _GRACE_S)
                if not order:
                    shutil.rmtree(self.directory, ignore_errors=True)
                return

    def _start(self) -> bool:
        failed_read, failed_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                signal.set_wakeup_fd(-1)
                for number in _RESET:
                    signal.signal(number, signal.SIG_DFL)
                os.execvp(self.command[0], self.command)
            except OSError as error:
                os.write(failed_write, (error.strerror or str(error)).encode())
            finally:
                os._exit(127)
        os.close(failed_write)
        reason = os.read(failed_read, 4096)
        os.close(failed_read)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # the command's alone, so that their other ends see when it has closed them
            os.dup2(nowhere, stream)
        os.close(nowhere)
        self.tell(f"failed {reason.decode()}" if reason else f"started {self.pid}")
        return not reason

    def tell(self, line: str) -> None:
        """Write one line to the harness, if it is still there."""
        try:
            os.write(self.control, line.encode() + b"\n")
        except OSError:
            return

    def reap(self) -> None:
        """Collect every child that has ended, adopted ones included; report the end of the command itself."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.main_ended = True
                self.tell(f"exit {os.waitstatus_to_exitcode(status)}")

    def end(self, grace_s: float) -> None:
        """Send SIGTERM to the command, then to its remaining descendants, then SIGKILL; remove their shared
        memory.
        """
        self.shm.remember(descendants())
        _signal((self.pid,) if not self.main_ended else (), signal.SIGTERM)
        _signal(descendants(), signal.SIGCONT)
        self._wait(grace_s, lambda: self.main_ended)
        self.shm.remember(descendants())
        _signal(descendants(), signal.SIGTERM)
        _signal(descendants(), signal.SIGCONT)
        self._wait(min(grace_s, _GRACE_S), lambda: not descendants())
        give_up = time.monotonic() + _KILLED_WITHIN_S
        while (left := descendants()) and time.monotonic() < give_up:
            _signal(left, signal.SIGKILL)
            self._wait(_STEP_S, lambda: False)
        self.shm.remove()

    def _wait(self, for_s: float, enough: object) -> None:
        give_up = time.monotonic() + for_s
        while True:
            self.reap()
            if (callable(enough) and enough()) or time.monotonic() >= give_up:
                return
            time.sleep(_STEP_S)


class SharedMemory:
    """The files in /dev/shm that descendants make, found when they appear and by who maps them at the end."""

    def __init__(self) -> None:
        self._before = _listing()
        self._ours: set[tuple[str, int]] = set()
        self._unclaimed: dict[tuple[str, int], list[float]] = {}
        self._notify = _libc.inotify_init1(_IN_NONBLOCK | os.O_CLOEXEC)
        if self._notify >= 0:
            _libc.inotify_add_watch(self._notify, _SHM.encode(), _IN_CREATE | _IN_MOVED_TO)
        self.descriptors = (self._notify,) if self._notify >= 0 else ()

    def look_again_ms(self) -> int | None:
        """Milliseconds until a new file may have been mapped; None if the owner of every file is known."""
        due = [times[0] for times in self._unclaimed.values()]
        return max(0, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def look(self, pids: object) -> None:
        """Note new files and whether a descendant has them open; looks up descendants only if necessary."""
        try:
            if self._notify >= 0 and os.read(self._notify, 65536):
                now = time.monotonic()
                for file in _listing() - self._before - self._ours - self._unclaimed.keys():
                    self._unclaimed[file] = [now + later for later in _LOOK_AGAIN_S]
        except BlockingIOError:
            if not self._unclaimed:
                return
        if self._unclaimed and callable(pids):
            self._claim(_used_by(pids()))

    def _claim(self, used: set[tuple[str, int]]) -> None:
        now = time.monotonic()
        for file, times in list(self._unclaimed.items()):
            while times and times[0] <= now:
                times.pop(0)
            if file in used:
                self._ours.add(file)
            if file in used or not times:
                del self._unclaimed[file]

    def remember(self, pids: tuple[int, ...]) -> None:
        """Count the new files that these processes use as theirs."""
        if appeared := _listing() - self._before:
            self._ours |= appeared & _used_by(pids)

    def remove(self) -> None:
        """Remove their files, except those that another process still uses."""
        left = self._ours & _listing()
        if not left:
            return
        others = tuple(
            int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()
        )
        for name, _ in left - _used_by(others):
            try:
                os.unlink(f"{_SHM}/{name}")
            except OSError:
                continue


def _listing() -> set[tuple[str, int]]:
    try:
        with os.scandir(_SHM) as entries:
            return {(entry.name, entry.inode()) for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()


def _used_by(pids: tuple[int, ...]) -> set[tuple[str, int]]:
    used: set[tuple[str, int]] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                for line in maps:
                    fields = line.split(maxsplit=5)
                    if len(fields) == 6 and fields[5].startswith(b"/dev/shm/"):
                        path = os.fsdecode(fields[5].rstrip(b"\n")).removesuffix(" (deleted)")
                        used.add((path[len(_SHM) + 1 :], int(fields[4])))
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith(_SHM + "/"):
                    used.add((target[len(_SHM) + 1 :], os.stat(f"/proc/{pid}/fd/{fd}").st_ino))
        except OSError:  # it has ended, or this user may not read it
            continue
    return used


def descendants() -> tuple[int, ...]:
    """Every live process below this one; zombies are left out."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(name))
    below: list[int] = []
    level = children.get(os.getpid(), [])
    while level:
        below += level
        level = [grandchild for child in level for grandchild in children.get(child, [])]
    return tuple(below)


def _signal(pids: tuple[int, ...], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    Guard(int(sys.argv[1]), sys.argv[2], sys.argv[3:]).run()
