"""The program that the tests break: it ticks, and evaluates expressions, each in a new thread.

Reads JSON lines {"id": n, "eval": expression} (or "exec") and prints {"id": n, "value": …}, or "error".
Prints {"tick": monotonic nanoseconds} every 10 ms from a thread. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

_printing = threading.Lock()
_names: dict[str, Any] = {"threading": threading, "time": time, "sys": sys, "os": os}


def say(**message: Any) -> None:
    """One line, whole."""
    with _printing:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def tick() -> None:
    """Show that Python runs here."""
    while True:
        say(tick=time.monotonic_ns())
        time.sleep(0.01)


def do(order: dict[str, Any]) -> None:
    """Evaluate or execute one order."""
    try:
        if "exec" in order:
            exec(order["exec"], _names)
            value = None
        else:
            value = eval(order["eval"], _names)
        say(id=order["id"], value=value)
    except BaseException as error:  # noqa: BLE001  # KeyboardInterrupt too is an answer
        say(id=order["id"], error=f"{type(error).__name__}: {error}")


def main() -> None:
    """Serve until the end of standard input."""
    threading.Thread(target=tick, daemon=True).start()
    say(ready=os.getpid())
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("main"):
            do(order)
        else:
            threading.Thread(target=do, args=(order,), daemon=True).start()


if __name__ == "__main__":
    main()
