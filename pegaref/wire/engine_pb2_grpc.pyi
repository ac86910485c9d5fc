# Types for the generated stubs, which have none of their own. The server builds its handlers from the
# descriptor (pegaref/serving/rpc.py), so only the client's half is typed here.
from typing import Any

import grpc
import grpc.aio

class EngineStub:
    # Multi-callables of grpc or grpc.aio, according to the channel.
    RegisterContextBatch: Any
    UnregisterContext: Any
    Session: Any
    Shutdown: Any
    Health: Any
    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None: ...
