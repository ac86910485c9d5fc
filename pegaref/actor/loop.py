"""The actor's work on one request, the same in every placement."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from pegaref.actor.heartbeat import PulsePage
from pegaref.errors import RegistryError
from pegaref.messages import (
    Answer,
    Clear,
    DropContext,
    DropInstance,
    Dropped,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
)

logger = logging.getLogger(__name__)

Post = Callable[[Reply], None]


class Releasing(Protocol):
    """The part of a registry that releases."""

    def drop_instance(self, command: DropInstance) -> Dropped:
        """Release an instance's contexts."""
        ...

    def drop_context(self, command: DropContext) -> Dropped:
        """Release one context."""
        ...

    def clear(self) -> Dropped:
        """Release everything."""
        ...


class Registry(Releasing, Protocol):
    """What an actor owns."""

    def register_layers(self, command: RegisterLayers) -> Registered:
        """Map a context's layers, all or none."""
        ...


def deliver(post: Post, reply: Reply) -> None:
    """Hand one reply back to the handle. Every reply of every placement goes through here, once."""
    post(reply)


class ActorLoop:
    """Answers requests one at a time; errors are answers too."""

    def __init__(self, registry: Registry, page: PulsePage, post: Post) -> None:
        self._registry = registry
        self._page = page
        self._post = post

    def handle(self, request: Request) -> None:
        """Carry out one request and deliver its answer."""
        self._page.begin(request.serial)
        answer = self._answer(request)
        deliver(self._post, Reply(request.serial, answer))
        self._page.finish(request.serial)

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
