"""What can be known about a process before it is touched, and whether it may be entered at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults import procfs
from faults.attach.elf import Mapped, functions, mapped_files
from faults.attach.refusals import AlreadyAttached, NoProcess, NotAllowed, NotAttachable, NotPython

_PYTHON_NEEDED = (
    "Py_IsInitialized",
    "PyGILState_Ensure",
    "PyGILState_Release",
    "PyRun_SimpleString",
    "PyThread_start_new_thread",
    "Py_AddPendingCall",
)
_LIBC_NEEDED = ("mmap",)
_LIBPYTHON = re.compile(r"/libpython3\.?(\d+)[^/]*\.so[^/]*$")
_VERSION = re.compile(r"(?:/python3\.(\d+)(?:/|$)|\.cpython-3(\d+)-)")
_CAP_SYS_PTRACE = 1 << 19


@dataclass(frozen=True, slots=True)
class Target:
    """A process with a Python interpreter. `python` is its version, None when nothing outside tells;
    `functions` the addresses of what a debugger calls in it.
    """

    pid: int
    started: int
    python: tuple[int, int] | None
    executable: str
    functions: Mapping[str, int]


def look(pid: int) -> Target:
    """Examine process `pid`. Raises NoProcess, NotAllowed, AlreadyAttached, NotPython, NotAttachable."""
    found = procfs.stat(pid)
    if found is None or found.state in "ZX":
        raise NoProcess(pid, "there is no such process" if found is None else "it has ended")
    if pid == os.getpid():
        raise NotAttachable(pid, "it is this very process", "name another one")
    _may_enter(pid)
    if found.state in "Tt":
        raise NotAttachable(
            pid, f"it is stopped (state {found.state}) and would load nothing", f"`kill -CONT {pid}` first"
        )
    try:
        files = mapped_files(pid)
    except OSError as error:
        raise NotAllowed(pid, f"its memory map cannot be read ({error.strerror})", _AS_ROOT) from None
    executable = procfs.executable(pid)
    return Target(
        pid, found.started, version(executable, files), executable, _addresses(pid, executable, files)
    )


_AS_ROOT = "run `wedge attach` as root, or start the target with `wedge exec`"


def _may_enter(pid: int) -> None:
    status = _status(pid)
    uid = int(status["Uid"].split()[1])
    if uid != os.geteuid():
        raise NotAllowed(
            pid,
            f"it runs as user {uid} and this is user {os.geteuid()}, whose private socket it cannot open",
            f"run `wedge attach` as that user (`sudo -u '#{uid}' …`)",
        )
    if (tracer := int(status.get("TracerPid", "0"))) != 0:
        raise AlreadyAttached(
            pid,
            f"process {tracer} ({' '.join(procfs.argv(tracer))[:60]}) traces it",
            "end that debugger first",
        )
    for kind in ("mnt", "pid"):
        if _namespace(pid, kind) != _namespace(os.getpid(), kind):
            raise NotAllowed(
                pid,
                f"it runs in another {kind} namespace (a container), where it cannot see the agent's files",
                "run `wedge attach` inside that container",
            )
    _may_trace(pid)


def _may_trace(pid: int) -> None:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):  # a kernel without Yama: the same user may
        scope = 0
    capable = bool(int(_status(os.getpid())["CapEff"], 16) & _CAP_SYS_PTRACE)
    refusal = refusal_of_scope(scope, capable=capable, below=os.getpid() in procfs.ancestors(pid))
    if refusal is not None:
        raise NotAllowed(pid, *refusal)


def refusal_of_scope(scope: int, *, capable: bool, below: bool) -> tuple[str, str] | None:
    """Why Yama's `ptrace_scope` forbids to trace a process, and the remedy; None when it does not.

    `capable` is whether this process has CAP_SYS_PTRACE, `below` whether the other is its descendant. The
    values are those of the kernel's Documentation/admin-guide/LSM/Yama.rst.
    """
    if scope <= 0 or (scope < 3 and capable) or (scope == 1 and below):
        return None
    if scope == 1:
        reason = "ptrace_scope is 1: only its own ancestors may trace it"
    elif scope == 2:
        reason = "ptrace_scope is 2: only a process with CAP_SYS_PTRACE may trace it"
    else:
        return "ptrace_scope is 3: nobody may trace any process until reboot", "start it with `wedge exec`"
    return reason, f"{_AS_ROOT}, or `sysctl kernel.yama.ptrace_scope=0`"


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        raise NoProcess(pid, "it has ended") from None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _namespace(pid: int, kind: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError as error:
        raise NotAllowed(pid, f"it may not be looked into ({error.strerror})", _AS_ROOT) from None


def version(executable: str, files: Sequence[Mapped]) -> tuple[int, int] | None:
    """Python's version, by the library, by the program's name, or by the modules that it has loaded."""
    for file in files:
        if match := _LIBPYTHON.search(file.path):
            return 3, int(match[1])
    for path in (executable, *(file.path for file in files)):
        if match := _VERSION.search(path):
            return 3, int(match[1] or match[2])
    return None


def _addresses(pid: int, executable: str, files: Sequence[Mapped]) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in files:
        if file.path == executable or "/libpython" in file.path:
            found.update(functions(pid, file, _PYTHON_NEEDED))
    if not found:
        raise NotPython(pid, f"{executable or 'its program'} holds no Python interpreter with visible names")
    for file in files:
        if file.path == executable or re.search(r"/(libc[.-]|ld-musl)", file.path):
            for name, address in functions(pid, file, _LIBC_NEEDED).items():
                found.setdefault(name, address)
    if missing := [name for name in (*_PYTHON_NEEDED, *_LIBC_NEEDED) if name not in found]:
        raise NotPython(pid, f"{executable} has an interpreter, but no visible {', '.join(missing)}")
    return found
