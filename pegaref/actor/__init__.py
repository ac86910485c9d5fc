"""The actor: what makes the GPU calls for one device, and the only part of pegaref that imports torch."""

from pegaref.actor.frames import FrameError, FrameWriter, answer_reader
from pegaref.actor.heartbeat import TRACEBACK_SIGNAL, Heartbeat, PulsePage, shared_page_fd
from pegaref.actor.loop import ActorLoop, load_actor

__all__ = [
    "TRACEBACK_SIGNAL",
    "ActorLoop",
    "FrameError",
    "FrameWriter",
    "Heartbeat",
    "PulsePage",
    "answer_reader",
    "load_actor",
    "shared_page_fd",
]
