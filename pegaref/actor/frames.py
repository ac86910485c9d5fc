"""Length-prefixed msgpack frames between the control process and an actor's process.

A frame is a four-byte big-endian length followed by one msgpack value of that many bytes. Each side accepts
only the types that the other may send. Anything else is a FrameError, and the stream cannot be used after it.
"""

from __future__ import annotations

import os
import struct
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from pegaref.messages import MAX_FRAME_BYTES, Ending, Ready, Reply, Request

FromActor: TypeAlias = Ready | Reply | Ending

HEADER: Final = struct.Struct(">I")

# msgspec raises UnicodeDecodeError for text that is not UTF-8 and RecursionError for endless nesting.
UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Incoming = TypeVar("Incoming")


class FrameError(Exception):
    """Raised when the other side sent something that the protocol does not allow."""


class FrameWriter:
    """Encodes messages into frames."""

    __slots__ = ("_encode",)

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode

    def frame(self, message: Request | FromActor) -> bytes:
        """One message, encoded, with its length in front."""
        payload = self._encode(message)
        return HEADER.pack(len(payload)) + payload


class AnswerPipe:
    """The actor's end of the pipe that carries its answers. Writing blocks while the pipe is full."""

    __slots__ = ("_fd", "_writer")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._writer = FrameWriter()

    def send_state(self, message: Ready | Ending) -> None:
        """Say that requests are read from now on, or that none is any more. Raises BrokenPipeError."""
        self._write(self._writer.frame(message))

    def send_reply(self, reply: Reply) -> None:
        """Send one answer. Raises BrokenPipeError if the control process no longer reads the pipe."""
        self._write(self._writer.frame(reply))

    def _write(self, frame: bytes) -> None:
        while frame:  # a signal may cut a long write short
            frame = frame[os.write(self._fd, frame) :]


class FrameReader(Generic[Incoming]):
    """Cuts a byte stream into messages of the given type."""

    __slots__ = ("_buffer", "_decode", "_limit_bytes", "_needed")

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[Incoming], limit_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        self._decode = decoder.decode
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._needed = HEADER.size

    def feed(self, data: bytes) -> list[Incoming]:
        """Take `data` in; return the messages now complete. Raises FrameError for an overlong or invalid
        one."""
        if not self._buffer and len(data) >= HEADER.size:
            (length,) = HEADER.unpack_from(data)
            # nearly always: exactly one whole frame
            if length == len(data) - HEADER.size <= self._limit_bytes:
                return [self._read(data[HEADER.size :])]
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        messages: list[Incoming] = []
        start = 0
        self._needed = HEADER.size
        while len(data) - start >= HEADER.size:
            (length,) = HEADER.unpack_from(data, start)
            if length > self._limit_bytes:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self._limit_bytes}")
            end = start + HEADER.size + length
            if end > len(data):
                self._needed = end - start
                break
            messages.append(self._read(memoryview(data)[start + HEADER.size : end]))
            start = end
        if start < len(data):
            self._buffer += memoryview(data)[start:]
        return messages

    def _read(self, payload: bytes | memoryview) -> Incoming:
        try:
            return self._decode(payload)
        except UNDECODABLE as error:
            raise FrameError(f"a frame that is no message: {error}") from None


def request_reader() -> FrameReader[Request]:
    """A reader for the actor's side, which receives requests."""
    return FrameReader(msgspec.msgpack.Decoder(Request))


def answer_reader() -> FrameReader[FromActor]:
    """A reader for the control process's side, which receives answers."""
    return FrameReader(msgspec.msgpack.Decoder(FromActor))
