from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransferMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSFER_MODE_DIRECT: _ClassVar[TransferMode]
    TRANSFER_MODE_KERNEL: _ClassVar[TransferMode]
TRANSFER_MODE_DIRECT: TransferMode
TRANSFER_MODE_KERNEL: TransferMode

class ResponseStatus(_message.Message):
    __slots__ = ("ok", "message")
    OK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ok: bool
    message: str
    def __init__(self, ok: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class RegisterContextRequest(_message.Message):
    __slots__ = ("instance_id", "namespace", "tp_rank", "tp_size", "world_size", "device_id", "layer_names", "wrapper_bytes", "num_blocks", "bytes_per_block", "kv_stride_bytes", "segments", "pp_rank", "client_version", "transfer_mode", "page_first", "layer_group_ids")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TP_RANK_FIELD_NUMBER: _ClassVar[int]
    TP_SIZE_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    LAYER_NAMES_FIELD_NUMBER: _ClassVar[int]
    WRAPPER_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_BLOCK_FIELD_NUMBER: _ClassVar[int]
    KV_STRIDE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PP_RANK_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_MODE_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIRST_FIELD_NUMBER: _ClassVar[int]
    LAYER_GROUP_IDS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    namespace: str
    tp_rank: int
    tp_size: int
    world_size: int
    device_id: int
    layer_names: _containers.RepeatedScalarFieldContainer[str]
    wrapper_bytes: _containers.RepeatedScalarFieldContainer[bytes]
    num_blocks: _containers.RepeatedScalarFieldContainer[int]
    bytes_per_block: _containers.RepeatedScalarFieldContainer[int]
    kv_stride_bytes: _containers.RepeatedScalarFieldContainer[int]
    segments: _containers.RepeatedScalarFieldContainer[int]
    pp_rank: int
    client_version: str
    transfer_mode: TransferMode
    page_first: bool
    layer_group_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, instance_id: _Optional[str] = ..., namespace: _Optional[str] = ..., tp_rank: _Optional[int] = ..., tp_size: _Optional[int] = ..., world_size: _Optional[int] = ..., device_id: _Optional[int] = ..., layer_names: _Optional[_Iterable[str]] = ..., wrapper_bytes: _Optional[_Iterable[bytes]] = ..., num_blocks: _Optional[_Iterable[int]] = ..., bytes_per_block: _Optional[_Iterable[int]] = ..., kv_stride_bytes: _Optional[_Iterable[int]] = ..., segments: _Optional[_Iterable[int]] = ..., pp_rank: _Optional[int] = ..., client_version: _Optional[str] = ..., transfer_mode: _Optional[_Union[TransferMode, str]] = ..., page_first: _Optional[bool] = ..., layer_group_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class RegisterContextResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ResponseStatus
    def __init__(self, status: _Optional[_Union[ResponseStatus, _Mapping]] = ...) -> None: ...

class UnregisterRequest(_message.Message):
    __slots__ = ("instance_id",)
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    def __init__(self, instance_id: _Optional[str] = ...) -> None: ...

class UnregisterResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ResponseStatus
    def __init__(self, status: _Optional[_Union[ResponseStatus, _Mapping]] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("instance_id", "namespace", "tp_size", "world_size")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TP_SIZE_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    namespace: str
    tp_size: int
    world_size: int
    def __init__(self, instance_id: _Optional[str] = ..., namespace: _Optional[str] = ..., tp_size: _Optional[int] = ..., world_size: _Optional[int] = ...) -> None: ...

class SessionEvent(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ResponseStatus
    def __init__(self, status: _Optional[_Union[ResponseStatus, _Mapping]] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ResponseStatus
    def __init__(self, status: _Optional[_Union[ResponseStatus, _Mapping]] = ...) -> None: ...
