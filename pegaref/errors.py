"""What the server and its client raise. Every refusal carries its gRPC status name and its values."""

from __future__ import annotations


class RegistryError(Exception):
    """The root of all refusals: a call was not carried out, or its outcome is not known.

    `code` is the name of a gRPC status, `field` the request's field at fault ('' if none), and
    `retry_after_s` how long a caller should wait before it tries again (None: no advice).
    """

    code = "INTERNAL"

    def __init__(
        self, message: str, *, code: str | None = None, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidCommand(RegistryError):
    """Raised when the request can never be carried out as it is; `field` names the field at fault."""

    code = "INVALID_ARGUMENT"


class AlreadyExists(RegistryError):
    """Raised by a register for a context that is already registered."""

    code = "ALREADY_EXISTS"


class MailboxFull(RegistryError):
    """Raised at once when the commands that wait for a device have reached the limit on their number or
    bytes."""

    code = "RESOURCE_EXHAUSTED"


class DeviceUnavailable(RegistryError):
    """Raised when no actor can work for the device; the command was not run."""

    code = "UNAVAILABLE"


class DeviceWedged(DeviceUnavailable):
    """Raised at once for a register on a device whose actor hangs. `hang` is the kind of hang."""

    def __init__(self, message: str, *, hang: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.hang = hang


class DeviceLost(DeviceUnavailable):
    """Raised when the device's actor died before the command reached it."""


class ShuttingDown(DeviceUnavailable):
    """Raised for every command that waits or arrives while the handle is closing."""


class OutcomeUnknown(RegistryError):
    """Raised when the actor had a command and never answered. It is undone before its key can be used
    again."""

    code = "UNAVAILABLE"


class DeadlineExpired(RegistryError):
    """Raised when a command was still waiting for the actor at its deadline; it was not run."""

    code = "DEADLINE_EXCEEDED"


class Superseded(RegistryError):
    """Raised for a register that was still waiting when its instance was dropped; it was not run."""

    code = "ABORTED"


class CleanupPending(RegistryError):
    """Raised when a cleanup outlasts its caller's deadline. It stays queued as operation `operation_id`."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, *, operation_id: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.operation_id = operation_id


class ActorRefused(RegistryError):
    """Raised when the actor refused a command, with the actor's own code and message."""


class DeviceMissing(RegistryError):
    """Raised by an actor that cannot start because CUDA does not see the GPU that it is to serve."""

    code = "FAILED_PRECONDITION"


class TorchMissing(RegistryError):
    """Raised by open_placement when torch is not installed, so that no actor could ever start."""

    code = "FAILED_PRECONDITION"


class UnknownPlacement(RegistryError):
    """Raised for a placement name that does not exist."""

    code = "INVALID_ARGUMENT"


class ClientError(Exception):
    """Raised by pegaref.client when a call was not carried out.

    `code` is the name of the gRPC status, such as ALREADY_EXISTS.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
