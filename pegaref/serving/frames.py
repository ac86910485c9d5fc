"""HTTP/2 as far as its frames' 9-byte headers tell: how long a frame is, of what kind, on which stream.

What a frame carries is grpc's to read. RFC 9113, section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # what every client begins with
HEADER_BYTES: Final = 9

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
CONTINUATION: Final = 9

END_STREAM: Final = 0x1  # a flag of DATA and HEADERS
# Error codes of RST_STREAM that say there are too many; a client takes the second for RESOURCE_EXHAUSTED.
REFUSED_STREAM: Final = 7
ENHANCE_YOUR_CALM: Final = 11


class Answers:
    """Follows the frames that grpc sends to one client. `on_end` is told of each stream that ends."""

    __slots__ = ("_left", "_on_end", "_part", "refused")

    def __init__(self, on_end: Callable[[int], object]) -> None:
        self._on_end = on_end
        self._left = 0  # bytes of the current frame that are still to come
        self._part = b""  # of a header, or of an RST_STREAM frame, that came in two pieces
        self.refused = 0  # streams that grpc refused, since there were too many on the connection

    def follow(self, data: bytes) -> None:
        """Read the headers of the frames in `data`, which goes on where the last ended."""
        if self._left >= len(data):
            self._left -= len(data)
            return
        if self._part:
            data, self._part = self._part + data, b""
        at = self._left
        end = len(data)
        while at + HEADER_BYTES <= end:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            kind = data[at + 3]
            after = at + HEADER_BYTES
            if kind <= HEADERS:
                if data[at + 4] & END_STREAM:
                    self._on_end(_stream(data, at))
            elif kind == RST_STREAM:
                if after + 4 > end:
                    break
                self.refused += data[after + 3] in (REFUSED_STREAM, ENHANCE_YOUR_CALM)
                self._on_end(_stream(data, at))
            at = after + length
        self._left = max(0, at - end)
        self._part = data[at:]


def _stream(data: bytes | memoryview, at: int) -> int:
    return int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFF_FFFF


class Allowance:
    """So many frames a second, and so many at once."""

    __slots__ = ("_filled_s", "_left", "_most", "_per_s")

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._left = most
        self._filled_s = time.monotonic()

    def take(self, count: float) -> bool:
        """Whether there are so many left; they are taken then."""
        if self._left < count:
            now_s = time.monotonic()
            self._left = min(self._most, self._left + (now_s - self._filled_s) * self._per_s)
            self._filled_s = now_s
            if self._left < count:
                return False
        self._left -= count
        return True

    def give(self, count: float) -> None:
        """Allow so many more."""
        self._left = min(self._most, self._left + count)
