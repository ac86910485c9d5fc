"""Messages and their frames: what is sent is what is read, however the stream is cut."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pegaref.actor.frames import (
    FrameError,
    FrameWriter,
    answer_reader,
    request_reader,
)
from pegaref.messages import (
    MAX_FRAME_BYTES,
    Clear,
    ContextKey,
    DropContext,
    DropInstance,
    Dropped,
    Layer,
    Ready,
    Refused,
    Registered,
    RegisterLayers,
    Reply,
    Request,
    merge_dropped,
)
from pegaref.registry.commands import command_bytes

whole = st.integers(0, 2**63 - 1)
names = st.text(max_size=20)
keys = st.builds(ContextKey, names, whole, whole, whole, whole)
layers = st.builds(Layer, names, st.binary(max_size=300), whole, whole, whole, whole)
registers = st.builds(RegisterLayers, keys, st.lists(layers, max_size=5).map(tuple))
commands = st.one_of(
    registers,
    st.builds(DropInstance, names, st.none() | st.lists(whole, max_size=3).map(tuple)),
    st.builds(DropContext, keys),
    st.just(Clear()),
)
answers = st.one_of(
    st.builds(Registered, whole, whole),
    st.builds(Dropped, st.lists(names, max_size=3).map(tuple), whole, whole, whole, names),
    st.builds(Refused, names, names, names),
)


def cut(stream: bytes, lengths: list[int]) -> list[bytes]:
    pieces = []
    for length in lengths:
        pieces.append(stream[:length])
        stream = stream[length:]
    return [*pieces, stream]


@given(st.lists(st.builds(Request, whole, commands), max_size=4), st.lists(st.integers(1, 50), max_size=40))
def test_requests_arrive_however_the_stream_is_cut(sent: list[Request], lengths: list[int]) -> None:
    writer, reader = FrameWriter(), request_reader()
    stream = b"".join(writer.frame(request) for request in sent)
    assert [request for piece in cut(stream, lengths) for request in reader.feed(piece)] == sent


@given(st.lists(st.builds(Reply, whole, answers), max_size=4), st.lists(st.integers(1, 50), max_size=40))
def test_answers_arrive_however_the_stream_is_cut(sent: list[Reply], lengths: list[int]) -> None:
    writer, reader = FrameWriter(), answer_reader()
    messages: list[Ready | Reply] = [Ready("2.0", "cpu"), *sent]
    stream = b"".join(writer.frame(message) for message in messages)
    assert [message for piece in cut(stream, lengths) for message in reader.feed(piece)] == messages


@given(registers)
def test_a_register_weighs_no_less_than_its_frame(command: RegisterLayers) -> None:
    assert command_bytes(command) >= len(FrameWriter().frame(Request(2**63 - 1, command)))


def test_a_frame_over_the_limit_is_refused_by_its_length_alone() -> None:
    with pytest.raises(FrameError, match="limit"):
        request_reader().feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
    assert request_reader().feed(struct.pack(">I", MAX_FRAME_BYTES)) == []


def test_an_answer_is_no_request() -> None:
    with pytest.raises(FrameError):
        request_reader().feed(FrameWriter().frame(Reply(1, Dropped())))


@given(st.binary(max_size=100))
def test_no_bytes_do_anything_but_wait_or_be_refused(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        answer_reader().feed(struct.pack(">I", len(data)) + data)


def test_dropped_parts_add_up() -> None:
    parts = (Dropped(("b",), 1, 2, 3), Dropped(("a", "b"), 10, 20, 30, "note"), Dropped())
    assert merge_dropped(parts) == Dropped(("a", "b"), 11, 22, 33, "note")


def test_keys_are_ordered_and_compared_as_tuples() -> None:
    assert ContextKey("a", 2, 0, 0, 0) > ContextKey("a", 1, 9, 9, 9)
    assert ContextKey("a", 1, 0, 0, 0) != ContextKey("a:1", 1, 0, 0, 0)
    assert len({ContextKey("a", 1, 0, 0, 0), ContextKey("a", 1, 0, 0, 0)}) == 1
