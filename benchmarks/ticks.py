"""Hear a ticker from outside."""

from __future__ import annotations

import select
import socket
import time
from types import TracebackType
from typing import Self

SILENT_FOR_S = 0.02
"""Ten ticks' worth: a process that says nothing for that long is taken to be broken."""


class Ticks:
    """A local port that tickers send their times to."""

    def __init__(self) -> None:
        self._line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._line.bind(("127.0.0.1", 0))
        self.port: int = self._line.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._line.close()

    def next_s(self, *, after_s: float = 0.0, within_s: float) -> float | None:
        """The first tick made after that time, by the monotonic clock; None when none comes in time."""
        give_up = time.monotonic() + within_s
        while (left_s := give_up - time.monotonic()) >= 0:
            ready, _, _ = select.select([self._line], [], [], left_s)
            if ready and (tick := int(self._line.recv(64)) / 1e9) >= after_s:
                return tick
        return None

    def silent(self) -> bool:
        """Whether no tick is made from now on for a while."""
        return self.next_s(after_s=time.monotonic(), within_s=SILENT_FOR_S) is None
