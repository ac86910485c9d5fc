"""The pulse page: what one side writes the other reads, and neither can take it away."""

from __future__ import annotations

import os
import threading

import pytest

from pegaref.actor.heartbeat import PAGE_BYTES, Heartbeat, PulsePage, shared_page_fd
from pegaref.messages import Pulse
from tests.pegaref.shared import until


def test_what_one_side_writes_the_other_reads() -> None:
    fd = shared_page_fd()
    actor, control = PulsePage(fd), PulsePage(fd)
    os.close(fd)
    assert control.read() == Pulse(0, 0, 0, 0)
    assert not control.traceback_ready
    actor.beat()
    actor.begin(7)
    actor.step()
    actor.step()
    actor.finish(7)
    actor.enable_traceback()
    assert control.read() == Pulse(beat=1, started=7, finished=7, progress=2)
    assert control.traceback_ready


def test_a_process_that_has_the_page_can_neither_shrink_nor_grow_it() -> None:
    fd = shared_page_fd()
    try:
        for size in (0, 1, PAGE_BYTES * 2):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        assert os.fstat(fd).st_size == PAGE_BYTES
    finally:
        os.close(fd)


async def test_a_heart_beats_by_itself_until_it_is_stopped() -> None:
    page = PulsePage()
    heart = Heartbeat(page, "a test's heart")
    heart.start()
    await until(lambda: page.read().beat >= 2)
    heart.stop()
    await until(lambda: all(thread.name != "a test's heart" for thread in threading.enumerate()))
