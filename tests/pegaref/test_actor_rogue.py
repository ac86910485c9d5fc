"""A child that breaks the protocol is killed; the control process runs on."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from pegaref.config import RegistrySettings
from pegaref.errors import OutcomeUnknown
from pegaref.messages import Dropped, Ending, Ready, Registered, Reply
from pegaref.placement import open_placement
from pegaref.registry import DeviceSnapshot, Phase, RegistryHandle
from tests.pegaref.shared import until
from tests.pegaref.simulation import key, register_of

SITE = """
import sys
if "pegaref.actor.child" in sys.orig_argv:
    import os, pathlib, signal
    folder = pathlib.Path({folder!r})
    if (folder / "say").exists():
        options = dict(word.lstrip("-").split("=") for word in sys.orig_argv if "=" in word)
        os.write(int(options["answers-fd"]), (folder / "say").read_bytes())
        while os.read(int(options["requests-fd"]), 65536):
            pass
        signal.pause()
"""


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def message(value: object) -> bytes:
    return frame(msgspec.msgpack.encode(value))


READY = message(Ready("rogue", "cpu"))


@dataclass(slots=True)
class Rogue:
    """A handle whose child says what `said` holds, and then nothing."""

    said: Path
    handle: RegistryHandle

    async def start(self, said: bytes) -> None:
        self.said.write_bytes(said)
        await self.handle.start()

    @property
    def device(self) -> DeviceSnapshot:
        return self.handle.snapshot().devices[0]


HOSTILE = {
    "garbage": b"\xde\xad\xbe\xef" * 64,
    "oversized": struct.pack(">I", 2**32 - 1),
    "empty frame": frame(b""),
    "no message": message({"what": "ever"}),
    "a request": message(["request", 1, ["clear"]]),
    "unknown tag": message(["exec", "rm -rf /"]),
    "too few fields": message(["reply"]),
    "wrong field": message(["reply", "one", ["dropped", [], 0, 0, 0, ""]]),
    "a tag that is no text": frame(b"\x91\xa3\x00\x00\x80"),
    "deep nesting": frame(b"\x91" * 100_000 + b"\xc0"),
    "garbage after an answer to nothing": READY + message(Reply(1, Registered(1, 1))) + frame(b"\xde\xad"),
}


@pytest.fixture
async def rogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rogue]:
    pytest.importorskip("torch", reason="the placement asks for it, and the child after the rogue loads it")
    (tmp_path / "sitecustomize.py").write_text(SITE.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = RegistrySettings(backoff_first_s=0.1)
    handle = RegistryHandle((0,), open_placement("process"), settings=settings)
    yield Rogue(tmp_path / "say", handle)
    await handle.close(grace_s=1)


@pytest.mark.promise("errors-as-data")
@pytest.mark.torch
@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_a_child_may_not_say_ends_it_and_nothing_else(said: bytes, rogue: Rogue) -> None:
    await rogue.start(said)
    pid = rogue.device.pid
    await until(lambda: rogue.device.respawns >= 1)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.promise("reply-twice")
@pytest.mark.torch
async def test_answers_that_nobody_asked_for_cost_the_child_nothing(rogue: Rogue) -> None:
    answers = message(Reply(1, Registered(1, 1))) + 2 * message(Reply(77, Dropped()))
    await rogue.start(READY + answers)
    await until(lambda: rogue.device.unexpected_replies == 3)
    assert (rogue.device.phase, rogue.device.epoch) == (Phase.READY, 1)


@pytest.mark.torch
async def test_the_child_that_comes_after_a_rogue_works(rogue: Rogue) -> None:
    await rogue.start(HOSTILE["garbage"])
    await until(lambda: rogue.device.respawns >= 1)
    rogue.said.unlink()
    await until(lambda: rogue.device.ready)
    await rogue.handle.clear(deadline_s=60)


@pytest.mark.torch
async def test_a_child_that_cannot_start_says_why_in_the_reason(rogue: Rogue) -> None:
    await rogue.start(message(Ending("it cannot start: there is no device 7 on this host")))
    await until(lambda: "there is no device 7" in rogue.device.reason)
    assert rogue.device.phase is not Phase.READY


@pytest.mark.torch
async def test_the_caller_of_a_child_that_never_answers_is_told_by_its_deadline(rogue: Rogue) -> None:
    await rogue.start(READY)
    await until(lambda: rogue.device.ready)
    with pytest.raises(OutcomeUnknown):
        await rogue.handle.register(register_of(key()), deadline_s=1)


@pytest.mark.torch
async def test_a_child_that_cannot_answer_the_traceback_signal_yet_is_not_killed_by_it(rogue: Rogue) -> None:
    rogue.handle._settings = RegistrySettings(start_within_s=0.5, wedge_after_s=0.5)
    await rogue.start(b"")
    await until(lambda: rogue.device.hang_age_s > 1.5)
    assert (rogue.device.phase, rogue.device.respawns) == (Phase.WEDGED, 0)
    assert rogue.device.traceback == ""
