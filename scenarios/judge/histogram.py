"""Latencies of many probes as one HDR histogram (high dynamic range, https://hdrhistogram.github.io): 1 µs to
60 s, three significant digits.

What is recorded is a good answer's time from its *intended* start. The prober is open-loop: its schedule goes
on whatever the server does, so each probe that fell due during a stall is there with its whole wait. Nothing
is left out while the prober waits (coordinated omission), so nothing is corrected afterwards: a correction
would count the stall twice. A probe that had no answer when its phase ended has no latency, and is counted
beside the histogram as sent and not answered.

Histograms of series, scenarios and runs can be added up, which percentiles cannot. Their encoded form is the
standard one (V2, compressed, base64), which the HDR tools of other languages read.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Final

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

LOWEST_US: Final = 1
HIGHEST_US: Final = 60_000_000
DIGITS: Final = 3

_US = 1_000_000
_WRAPPER = 8
_SETTINGS = struct.Struct(">12xiqq")
"""Where an encoded histogram's digits, lowest and highest value stand."""
_LIMIT_BYTES = 1 << 18
"""More than every counter of the range takes, so that a small text cannot become a large one."""


class UnreadableHistogram(ValueError):
    """Text that is no histogram of this range and resolution."""


class Histogram:
    """Counts of latencies. Values are seconds; what is outside the range counts at its end."""

    def __init__(self, counts: HdrHistogram | None = None) -> None:
        self._counts = counts or HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @classmethod
    def of(cls, latencies_s: Iterable[float]) -> Histogram:
        """The histogram of these latencies."""
        found = cls()
        for latency_s in latencies_s:
            found._counts.record_value(min(HIGHEST_US, max(LOWEST_US, round(latency_s * _US))))
        return found

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """One histogram that counts the latencies of all of these."""
        found = cls()
        for histogram in histograms:
            found._counts.add(histogram._counts)
        return found

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """Read what `encode` wrote. Raises `UnreadableHistogram`."""
        try:
            raw = base64.b64decode(text, validate=True)
            inflating = zlib.decompressobj()
            settings = _SETTINGS.unpack_from(inflating.decompress(raw[_WRAPPER:], _LIMIT_BYTES))
            if inflating.unconsumed_tail or settings != (DIGITS, LOWEST_US, HIGHEST_US):
                raise UnreadableHistogram(f"digits, lowest and highest value are {settings}")
            return cls(HdrHistogram.decode(text.encode()))
        except UnreadableHistogram:
            raise
        except (ValueError, struct.error, zlib.error, IndexError, TypeError, OverflowError) as error:
            raise UnreadableHistogram(str(error)) from error
        except (HdrCookieException, HdrLengthException) as error:
            raise UnreadableHistogram(str(error) or "it is not in the V2 format") from error

    def encode(self) -> str:
        """As text: V2, compressed, base64."""
        encoded: bytes = self._counts.encode()
        return encoded.decode()

    @property
    def count(self) -> int:
        """How many latencies are counted."""
        return int(self._counts.get_total_count())

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """For each of the increasing shares the latency that at least so many do not exceed (nearest rank),
        in seconds, within 0.1 % or 1 µs; empty for none.
        """
        if not (count := self.count):
            return []
        counts, found, upto, index = self._counts.counts, [], 0, -1
        for share in shares:
            wanted = rank(count, share)
            while upto < wanted:
                index += 1
                upto += counts[index]
            lowest_us = self._counts.get_value_from_index(max(0, index))
            found.append(self._counts.get_highest_equivalent_value(lowest_us) / _US)
        return found


def rank(count: int, share: float) -> int:
    """The nearest rank, from 1: the smallest one that covers at least `share` of `count` values."""
    return max(1, math.ceil(count * share - 1e-9))  # 0.99 * 100 is not quite 99 in floating point
