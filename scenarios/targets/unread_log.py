"""`python unread_log.py COMMAND …`: a command whose log has a reader that hangs for a while under attack.

The reader passes on what the command says on stderr. When an attacker shows in it, it hangs, and then goes on
until the next attack.
"""

import os
import sys
import time

_HANGS_S = 6.0

reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    resumed_s = 0.0
    while said := os.read(reader, 4096):
        if b"attacker" in said and time.monotonic() - resumed_s > _HANGS_S:
            time.sleep(_HANGS_S)
            resumed_s = time.monotonic()
        os.write(2, said)
    os._exit(0)
os.close(reader)
os.dup2(writer, 2)
os.execvp(sys.argv[1], sys.argv[1:])
