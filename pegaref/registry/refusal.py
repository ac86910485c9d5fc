"""An actor's refusal, which is data, as the exception that its caller gets."""

from __future__ import annotations

from pegaref.errors import ActorRefused, AlreadyExists, InvalidCommand, RegistryError
from pegaref.messages import Refused

_KINDS: dict[str, type[RegistryError]] = {
    AlreadyExists.code: AlreadyExists,
    InvalidCommand.code: InvalidCommand,
}


def as_error(refused: Refused) -> RegistryError:
    """The exception of the refusal's code, with its message and its field."""
    return _KINDS.get(refused.code, ActorRefused)(refused.message, code=refused.code, field=refused.field)
