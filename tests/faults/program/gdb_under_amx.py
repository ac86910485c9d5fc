"""Imitates gdb 13.1 on a processor with AMX: it breaks a process in the same way, on any processor.

It attaches, and while the process is held, forgets which system call was interrupted, as gdb does before it
calls a function; then its registers cannot be written any more, and it is let go like that. On x86-64 the
system call then fails with `Unknown error 512`; elsewhere the process is simply killed.

Run with gdb's arguments, `-x SCRIPT` or `-p PID`; the first argument is a file to note the process in.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import sys

_GETREGS, _SETREGS, _ATTACH, _DETACH = 12, 13, 16, 17  # ptrace(2), sys/ptrace.h
_REGISTERS, _INTERRUPTED_CALL = (
    27,
    15,
)  # unsigned longs of user_regs_struct, and orig_rax's place (sys/user.h)
_SAYS = """\
warning: Unable to find dynamic linker breakpoint function.
GDB will be unable to debug shared library initializers
and track explicitly loaded dynamic code.
0x00007f0000000000 in ?? ()
{script}:24: Error in sourced command file:
Couldn't write extended state status: Bad address.
Couldn't write extended state status: Bad address.
[Inferior 1 (process {pid}) detached]
"""


def ptrace(request: int, pid: int, data: object = None) -> None:
    """Raises OSError."""
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.restype = ctypes.c_long
    if call(ctypes.c_long(request), ctypes.c_long(pid), None, data) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(note: str, arguments: list[str]) -> None:
    """Enter the process that the arguments name and leave it broken."""
    script = "(command line)"
    if "-x" in arguments:
        script = arguments[arguments.index("-x") + 1]
        with open(script) as opened:
            pid = int(re.findall(r"^attach (\d+)$", opened.read(), re.MULTILINE)[0])
    else:
        pid = int(arguments[arguments.index("-p") + 1])
    with open(note, "a") as file:
        file.write(f"{pid}\n")
    if platform.machine() == "x86_64":
        ptrace(_ATTACH, pid)
        os.waitpid(pid, 0)
        registers = (ctypes.c_ulong * _REGISTERS)()
        ptrace(_GETREGS, pid, registers)
        registers[_INTERRUPTED_CALL] = ctypes.c_ulong(-1).value
        ptrace(_SETREGS, pid, registers)
        ptrace(_DETACH, pid)
    else:
        os.kill(pid, signal.SIGKILL)
    sys.stdout.write(_SAYS.format(script=script, pid=pid))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
