"""A device's snapshot, put together from what its parts have in memory."""

from __future__ import annotations

from collections import Counter

from pegaref.registry.book import Book
from pegaref.registry.entry import OPERATION_NAMES, Cleanup, Entry
from pegaref.registry.keeper import Keeper
from pegaref.registry.mailbox import Mailbox
from pegaref.registry.snapshot import DeviceSnapshot
from pegaref.registry.tally import Tally


def observe(
    device_id: int,
    now_s: float,
    *,
    keeper: Keeper,
    mailbox: Mailbox,
    running: Entry | Cleanup | None,
    book: Book,
    tally: Tally,
) -> DeviceSnapshot:
    """How the device is now; asks nobody."""
    in_flight: Counter[str] = Counter()
    oldest = [] if (waiting_s := mailbox.oldest_s()) is None else [waiting_s]
    if mailbox.register_count:
        in_flight["register"] = mailbox.register_count
    for cleanup in mailbox.cleanups():
        in_flight[OPERATION_NAMES[type(cleanup.command)]] += 1
    if running is not None:
        in_flight[OPERATION_NAMES[type(running.command)]] += 1
        oldest.append(running.submitted_s)
    return DeviceSnapshot(
        device_id=device_id,
        phase=keeper.phase,
        ready=keeper.able,
        reason=keeper.reason(),
        hang=keeper.hang,
        hang_age_s=0.0 if keeper.hang is None else now_s - keeper.hang_since_s,
        traceback=keeper.traceback,
        epoch=keeper.epoch,
        pid=keeper.pid,
        mailbox_depth=mailbox.register_count,
        mailbox_bytes=mailbox.register_bytes,
        cleanup_depth=mailbox.cleanup_count,
        oldest_command_age_s=max((now_s - submitted_s for submitted_s in oldest), default=0.0),
        contexts=len(book),
        tensors=book.tensors,
        bytes=book.bytes,
        in_flight=dict(in_flight),
        finished=dict(tally.finished),
        respawns=keeper.respawns,
        rejected=tally.rejected,
        rolled_back=tally.rolled_back,
        lost_replies=tally.lost_replies,
    )
