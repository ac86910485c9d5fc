"""A client of the server: shares memory, registers it, holds a session. Needs no torch.

    with Client("127.0.0.1:50055") as client, SharedTensor(1 << 20) as tensor:
        with client.session("instance") as session:
            client.register("instance", {"layer.0": tensor})
            ...
            client.unregister("instance")

Without a session, what is registered stays until it is unregistered; with one, it is gone with the session,
even when this process is killed.
"""

from typing import TYPE_CHECKING, Any

from pegaref.client.tensors import SharedCudaTensor, SharedTensor
from pegaref.errors import ClientError

if TYPE_CHECKING:
    from pegaref.client.connection import Client, Session

__all__ = ["Client", "ClientError", "Session", "SharedCudaTensor", "SharedTensor"]


def __getattr__(name: str) -> Any:
    # Sharing memory needs no gRPC, which takes longer to load than everything else together.
    if name in __all__:
        from pegaref.client import connection

        return getattr(connection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
