"""The actor's work on one request, the same in every placement."""

from __future__ import annotations

import gc
import logging
from typing import Protocol

from pegaref.actor.heartbeat import PulsePage
from pegaref.errors import RegistryError
from pegaref.messages import (
    Answer,
    Clear,
    DropContext,
    DropInstance,
    Dropped,
    Ready,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
)

logger = logging.getLogger(__name__)


class TensorRegistry(Protocol):
    """What an actor owns: the tensors of one device. Each method carries out one command."""

    def register_layers(self, command: RegisterLayers) -> Registered:
        """Map a context's layers, all or none."""
        ...

    def drop_instance(self, command: DropInstance) -> Dropped:
        """Release an instance's contexts."""
        ...

    def drop_context(self, command: DropContext) -> Dropped:
        """Release one context."""
        ...

    def clear(self) -> Dropped:
        """Release everything."""
        ...

    def device_failure(self) -> str:
        """Why the device can do no more work; '' while it can."""
        ...


class ReplySender(Protocol):
    """How the actor's answers reach the control process: by a pipe, or by the event loop if they share a
    process."""

    def send_reply(self, reply: Reply) -> None:
        """Send one answer."""
        ...


class ActorLoop:
    """Carries out requests one at a time and answers each; an error is an answer too."""

    def __init__(self, registry: TensorRegistry, page: PulsePage, sender: ReplySender) -> None:
        self._registry = registry
        self._page = page
        self._sender = sender

    def handle(self, request: Request) -> None:
        """Carry out one request and send its answer."""
        self._page.begin(request.serial)
        answer = self._answer(request)
        self._sender.send_reply(Reply(request.serial, answer))
        self._page.finish(request.serial)

    def device_failure(self) -> str:
        """Why the device can do no more work; '' while it can."""
        return self._registry.device_failure()

    def _answer(self, request: Request) -> Answer:
        command = request.command
        expected: type[Registered] | type[Dropped] = Dropped
        answer: object
        try:
            if isinstance(command, RegisterLayers):
                expected = Registered
                answer = self._registry.register_layers(command)
            elif isinstance(command, DropInstance):
                answer = self._registry.drop_instance(command)
            elif isinstance(command, DropContext):
                answer = self._registry.drop_context(command)
            else:
                assert isinstance(command, Clear)
                answer = self._registry.clear()
        except RegistryError as error:
            return Refused(error.code, error.message, error.field)
        except Exception as error:
            logger.exception("request %d failed", request.serial)
            return Refused("INTERNAL", f"the actor failed: {type(error).__name__}: {error}")
        if not isinstance(answer, expected):
            logger.error("request %d: expected %s, got %r", request.serial, expected.__name__, type(answer))
            return Refused("INTERNAL", f"the registry gave a {type(answer).__name__} for {expected.__name__}")
        return answer


def load_actor(
    device_id: int, device_type: str, page: PulsePage, sender: ReplySender
) -> tuple[ActorLoop, Ready]:
    """Import torch and, for device type `cuda`, take the GPU: it takes seconds. For `cpu` CUDA is not asked.

    Raises ImportError if torch cannot be loaded, DeviceMissing if the GPU does not exist, and RuntimeError if
    CUDA cannot open it.
    """
    gc.disable()  # what torch makes of itself is no garbage, and looking for some takes a tenth of the time
    try:
        import torch

        from pegaref.actor.tensors import CudaTensorRegistry, take_device
    finally:
        gc.enable()
    torch.set_num_threads(1)
    if device_type == "cuda":
        take_device(device_id)
    registry = CudaTensorRegistry(device_id, device_type, page.step)
    gc.collect()
    gc.freeze()  # torch's own objects are never garbage: a collection after a release need not look at them
    return ActorLoop(registry, page, sender), Ready(str(torch.__version__), device_type)
