"""What one connection may have of grpc.aio while others want some too: streams, frames, bytes of messages.

None of it is refused as long as it can wait: who wants more waits, and is told when its turn has come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from pegaref.serving.frames import Allowance
from pegaref.serving.metrics import RelayCounters
from pegaref.serving.refusal import TooMany

_MOST_CALLS: Final = 4096  # taken up and not ended, of all connections together; beyond it each has
_FEW_CALLS: Final = 16  # this many, so that a probe is not refused for what others have open

_MOST_UNTAKEN: Final = 64  # streams that were handed on and not taken up yet, of all connections
_MOST_UNTAKEN_OF_ONE: Final = 32
_FIRST_STREAMS: Final = (
    4  # of a connection go before others, as a probe's do, and have as many places of their own
)

_FRAMES_PER_S: Final = 2048  # that bring no call on, of one connection
FRAMES_AT_ONCE: Final = 1024
_FRAMES_PER_S_OF_ALL: Final = 8192
FRAMES_PER_STREAM: Final = 8  # more, for each stream
_FIRST_FRAMES: Final = 64  # of a connection are not counted against what all may send
TINY_BYTES: Final = 64  # a DATA frame below that, of an unfinished message, is such a frame
_THROTTLE_S: Final = 0.02

_MESSAGES_OF_ONE: Final = 8  # times the largest message: what one connection may have sent of unfinished ones
_MESSAGES_OF_ALL: Final = 16


class Share:
    """What one connection has. `resume` and `refuse` are the connection's own."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}  # that are open, and what has come of an unfinished message
        self.partial_bytes = 0
        self.opened = 0  # streams that were handed on
        self.taken = 0  # and taken up
        self.taken_before = 0  # when `give_up` was last called
        self.untaken = 0
        self.resets = 0  # streams that the client has reset and that may not have been taken up
        self.calls = 0  # taken up and not ended
        self.frames = Allowance(_FRAMES_PER_S, FRAMES_AT_ONCE)
        self.passed = 0  # frames that brought no call on

    def resume(self) -> None:
        """Go on with what was held."""
        raise NotImplementedError

    def refuse(self) -> None:
        """Close a connection that has sent more than it may."""
        raise NotImplementedError


class Shares:
    """The shares of all connections."""

    def __init__(self, message_bytes: int, counters: RelayCounters) -> None:
        self._message_bytes = message_bytes
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._untaken = 0
        self._calls = 0
        self._partial_bytes = 0
        self._partial: set[Share] = set()  # those that have sent unfinished messages
        self._first: deque[Share] = deque()  # wait to hand on one of their first streams
        self._later: deque[Share] = deque()
        self._turn: Share | None = None
        self._frames = Allowance(_FRAMES_PER_S_OF_ALL, 2 * FRAMES_AT_ONCE)
        self._throttled: list[Share] = []

    def may_open(self, share: Share) -> bool:
        """Whether the connection may hand on another stream now. Otherwise it is told when it may."""
        is_first = share.opened < _FIRST_STREAMS
        waiting = self._first if is_first else self._later
        most = 2 * _MOST_UNTAKEN if is_first else _MOST_UNTAKEN
        its_turn, self._turn = self._turn is share, None
        if share.untaken >= _MOST_UNTAKEN_OF_ONE or self._untaken >= most or (waiting and not its_turn):
            waiting.append(share)
            return False
        share.opened += 1
        share.untaken += 1
        self._untaken += 1
        return True

    def take_up(self, share: Share) -> None:
        """Note that grpc.aio took up a call."""
        share.taken += 1
        if share.untaken:
            self.drop_untaken(share, 1)
            self.grant()

    def open_call(self, share: Share) -> None:
        """Count a call that was taken up, until `end_call`. Raises TooMany."""
        if self._calls >= _MOST_CALLS and share.calls >= _FEW_CALLS:
            raise TooMany(f"{self._calls} calls are open, {share.calls} of them yours", retry_after_s=1.0)
        self._calls += 1
        share.calls += 1

    def end_call(self, share: Share) -> None:
        """Note that a call that was counted has ended."""
        self._calls -= 1
        share.calls -= 1

    def give_up(self, share: Share) -> None:
        """Stop waiting for streams of which none was taken up since this was last called: grpc has ended them
        itself, and no more will come."""
        if share.untaken and share.taken == share.taken_before:
            self.drop_untaken(share, share.untaken)
        share.taken_before = share.taken

    def settle(self, share: Share) -> None:
        """Note that a stream was ended by grpc, which it may have done without the call being taken up."""
        excess = share.untaken - len(share.streams) - share.resets
        if excess > 0:
            self.drop_untaken(share, excess)
            self.grant()

    def drop_untaken(self, share: Share, count: int) -> None:
        """Wait for so many streams less."""
        share.untaken -= count
        self._untaken -= count
        if not share.untaken:
            share.resets = 0

    def grant(self) -> None:
        """Tell those that wait that they may hand on a stream, as far as there are places."""
        for waiting, most in ((self._first, 2 * _MOST_UNTAKEN), (self._later, _MOST_UNTAKEN)):
            for _ in range(len(waiting)):  # each at most once, since one that may not comes back
                if self._untaken >= most:
                    break
                self._turn = share = waiting.popleft()
                share.resume()
        self._turn = None

    # ---- frames and bytes

    def may_send(self, share: Share, frames: int) -> bool:
        """Whether the connection may pass on frames that bring no call on. If not, it is told when it may."""
        if share.frames.take(frames):
            share.passed += frames
            if share.passed <= _FIRST_FRAMES or self._frames.take(frames):
                return True
            share.frames.give(frames)
        if not self._throttled:
            self._loop.call_later(_THROTTLE_S, self._unthrottle)
        self._throttled.append(share)
        self._counters.throttled += 1
        return False

    def count_partial(self, share: Share, more_bytes: int) -> None:
        """Count what has come of messages that are unfinished, and close the connection with the most if it
        is too much."""
        share.partial_bytes += more_bytes
        self._partial_bytes += more_bytes
        if share.partial_bytes:
            self._partial.add(share)
        else:
            self._partial.discard(share)
        if more_bytes <= 0:
            return
        if share.partial_bytes > _MESSAGES_OF_ONE * self._message_bytes:
            share.refuse()
        elif self._partial_bytes > _MESSAGES_OF_ALL * self._message_bytes:
            max(self._partial, key=lambda other: other.partial_bytes).refuse()

    def _unthrottle(self) -> None:
        throttled, self._throttled = self._throttled, []
        for share in throttled:
            share.resume()
