"""Streaming calls against a real gRPC and a real HTTP server: answered, held, broken, stuck."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection

from scenarios.errors import CallFailed, CouldNotRun, Malformed
from scenarios.spec import GrpcCall, HttpCall, target_file
from scenarios.traffic import proto
from scenarios.traffic.caller import Caller
from scenarios.traffic.concurrent_calls import ConcurrentCalls

PROTO = """
syntax = "proto3";
package feed;
service Feed {
  rpc Say(Word) returns (Word);
  rpc Watch(Word) returns (stream Word);
  rpc Gather(stream Word) returns (Word);
  rpc Talk(stream Word) returns (stream Word);
}
message Word { string text = 1; uint32 count = 2; }
"""
HERE = Path(__file__).parent
WITHIN_S = 30.0
DEADLINE_S = 0.4


class Feed:
    """The server's side. `open` counts streams under way; `ended` is set when the last of them is gone."""

    def __init__(self, word: Any) -> None:
        self._word = word
        self.open = 0
        self.ended = asyncio.Event()

    async def say(self, request: Any, context: Any) -> Any:
        return self._word(text=request.text, count=1)

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """As many words as `count`, then what the text says."""
        self.open += 1
        try:
            if request.text == "refuse":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
            if request.text != "silent":
                await context.send_initial_metadata(())
            for i in range(request.count):
                yield self._word(text="tick", count=i)
            if request.text in ("hang", "silent"):
                await asyncio.Event().wait()
            if request.text == "break":
                await context.abort(grpc.StatusCode.INTERNAL, "out of words")
        finally:
            self.open -= 1
            if not self.open:
                self.ended.set()

    async def gather(self, requests: AsyncIterator[Any], context: Any) -> Any:
        texts = [request.text async for request in requests]
        return self._word(text=" ".join(texts), count=len(texts))

    async def talk(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._word(text=request.text.upper())


@asynccontextmanager
async def feed(folder: Path, *, reflects: bool = False) -> AsyncIterator[tuple[Feed, Caller]]:
    file = folder / "feed.proto"
    file.write_text(PROTO)
    pool = proto.compiled(file)
    kind = proto.method(pool, "feed.Feed/Say").request
    served = Feed(kind)
    codec = (kind.FromString, kind.SerializeToString)
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(served.say, *codec),
        "Watch": grpc.unary_stream_rpc_method_handler(served.watch, *codec),
        "Gather": grpc.stream_unary_rpc_method_handler(served.gather, *codec),
        "Talk": grpc.stream_stream_rpc_method_handler(served.talk, *codec),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("feed.Feed", handlers),))
    if reflects:
        reflection.enable_server_reflection(["feed.Feed"], server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    example = target_file.load(HERE / "servers" / "tiny-loop.toml").spec
    caller = Caller(example, folder, {"feed": f"127.0.0.1:{port}"})
    try:
        async with asyncio.timeout(WITHIN_S):
            yield served, caller
    finally:
        await caller.close()
        await server.stop(0)


def call(method: str, **keys: Any) -> GrpcCall:
    keys.setdefault("proto", None if "raw" in keys else "feed.proto")
    return GrpcCall(name=method, address="{feed}", method=f"feed.Feed/{method}", **keys)


def watch(text: str, count: int = 2, **keys: Any) -> GrpcCall:
    return call("Watch", message={"text": text, "count": count}, **keys)


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (watch("hang"), "open, 1 message"),
        (watch("hang", 0, until="headers"), "open, 0 messages"),
        (watch("end", 3, until="end", answer={"text": "tick"}), "OK, 3 messages"),
        (watch("hang", 3, hold_s=0.3), "open for 0.3 s, 3 messages"),
        (watch("hang", 0, until="headers", hold_s=0.1), "open for 0.1 s, 0 messages"),
        (watch("end", 3, hold_s=WITHIN_S), "OK, 3 messages"),
        (call("Gather", messages=[{"text": "a"}, {"text": "b"}], answer={"text": "a b"}), "OK, 1 message"),
        (call("Gather", message={"text": "a"}, answer={"count": 1}), "OK, 1 message"),
        (call("Talk", messages=[{"text": "a"}, {"text": "b"}], answer={"text": "A"}), "open, 1 message"),
        (call("Talk", messages=[{"text": "a"}, {"text": "b"}], until="end"), "OK, 2 messages"),
        (call("Talk", message={"text": "a"}, hold_s=0.2), "open for 0.2 s, 1 message"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
async def test_a_stream_is_answered_by_what_the_call_says(
    tmp_path: Path, wanted: GrpcCall, word: str
) -> None:
    async with feed(tmp_path) as (_, caller):
        assert await caller.make(wanted, 1) == word


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (watch("refuse"), "RESOURCE_EXHAUSTED: too many"),
        (watch("refuse", until="headers"), "RESOURCE_EXHAUSTED: too many"),
        (watch("break", 2, until="end"), "INTERNAL: out of words after 2 messages"),
        (watch("break", 2, hold_s=WITHIN_S), "INTERNAL: out of words after 2 messages"),
        (watch("break", 0), "INTERNAL: out of words after it opened"),
        (watch("hang", 2, until="end"), "DEADLINE_EXCEEDED: no end within 0.4 s after 2 messages"),
        (watch("hang", 0), "DEADLINE_EXCEEDED: no message within 0.4 s after it opened"),
        (watch("silent", 0, until="headers"), "DEADLINE_EXCEEDED: not opened within 0.4 s"),
        (watch("end", 0), "the stream ended without a message"),
        (watch("hang", answer={"text": "tock"}), 'answered \'text: "tick"'),
        (call("Gather", messages=[{"text": "a"}], answer={"count": 2}), 'answered \'text: "a"'),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
async def test_a_stream_that_goes_wrong_says_how_and_how_far_it_came(
    tmp_path: Path, wanted: GrpcCall, says: str
) -> None:
    async with feed(tmp_path) as (_, caller):
        with pytest.raises(CallFailed) as failed:
            await caller.make(wanted, 1, DEADLINE_S)
    assert str(failed.value).startswith(says)


async def test_the_time_that_a_stream_is_held_is_not_taken_from_its_deadline(tmp_path: Path) -> None:
    async with feed(tmp_path) as (_, caller):
        assert "open for 1 s" in await caller.make(watch("hang", hold_s=1.0), 1, 0.9)


async def test_a_stream_is_over_for_the_server_too_once_it_has_answered(tmp_path: Path) -> None:
    async with feed(tmp_path) as (served, caller):
        await caller.make(watch("hang"), 1)
        await served.ended.wait()


async def test_streams_that_opened_and_then_hang_are_pending_in_a_pile_until_it_is_abandoned(
    tmp_path: Path,
) -> None:
    async with feed(tmp_path) as (served, caller):
        pile = ConcurrentCalls(caller, watch("hang", 2, until="end"), 3)
        good = ConcurrentCalls(caller, watch("hang"), 3)
        assert await good.ended(WITHIN_S)
        assert (good.answered, pile.pending, served.open >= 3) == (3, 3, True)
        await pile.abandon()
        await served.ended.wait()


@pytest.mark.parametrize(
    ("method", "keys", "word"),
    [
        ("Say", {}, "OK, 1 message"),
        ("Watch", {"until": "message"}, "open, 1 message"),
        ("Watch", {"until": "headers"}, "open, 0 messages"),
        ("Watch", {"until": "message", "hold_s": 0.2}, "open for 0.2 s, 2 messages"),
        ("Gather", {}, "OK, 1 message"),
    ],
)
async def test_raw_bytes_need_neither_a_proto_nor_reflection(
    tmp_path: Path, method: str, keys: Any, word: str
) -> None:
    raw = base64.b64encode(b"\x0a\x04hang\x10\x02").decode()  # text = "hang", count = 2
    async with feed(tmp_path) as (_, caller):
        assert await caller.make(call(method, raw=f"base64:{raw}", **keys), 1) == word


async def test_raw_bytes_that_the_server_cannot_read_fail_as_it_says(tmp_path: Path) -> None:
    async with feed(tmp_path) as (_, caller):
        with pytest.raises(CallFailed, match="Wire format was corrupt"):
            await caller.make(call("Say", raw="\x0a"), 1)
        with pytest.raises(CouldNotRun, match="not base64"):
            await caller.make(call("Say", raw="base64:???"), 1)


async def test_reflection_tells_that_a_method_streams(tmp_path: Path) -> None:
    async with feed(tmp_path, reflects=True) as (_, caller):
        assert await caller.make(watch("hang", proto=None), 1) == "open, 1 message"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (call("Say", messages=[{"text": "a"}]), "takes one request"),
        (call("Say", hold_s=1.0), "gives one answer"),
        (call("Gather", until="headers"), "gives one answer"),
    ],
)
async def test_what_the_method_does_not_do_is_told(tmp_path: Path, wanted: GrpcCall, says: str) -> None:
    async with feed(tmp_path) as (_, caller):
        with pytest.raises(CouldNotRun, match=says):
            await caller.make(wanted, 1)


BODY = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"5\r\ntick\n\r\n"
END = b"0\r\n\r\n"


@asynccontextmanager
async def events(*pieces: bytes, hangs: bool) -> AsyncIterator[tuple[str, Caller]]:
    """An HTTP server that writes these pieces and then keeps the connection open, or closes it."""

    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if hangs:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    example = target_file.load(HERE / "servers" / "tiny-loop.toml")
    caller = Caller(example.spec, example.folder, {"http": f"127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    async with server, asyncio.timeout(WITHIN_S):
        yield "http://{http}/events", caller
        await caller.close()
        await asyncio.gather(*handlers)


@pytest.mark.parametrize(
    ("pieces", "hangs", "keys", "word"),
    [
        ([BODY, CHUNK], True, {"until": "message"}, "HTTP 200, open, 5 B"),
        ([BODY], True, {"until": "headers"}, "HTTP 200, open, 0 B"),
        ([BODY, CHUNK, CHUNK], True, {"until": "message", "hold_s": 0.3}, "HTTP 200, open for 0.3 s, 10 B"),
        ([BODY, CHUNK, END], True, {"until": "message", "hold_s": WITHIN_S}, "HTTP 200, ended, 5 B"),
        ([BODY, CHUNK, END], True, {}, "HTTP 200"),
    ],
)  # fmt: skip
async def test_an_http_stream_is_answered_by_what_the_call_says(
    pieces: list[bytes], hangs: bool, keys: Any, word: str
) -> None:
    async with events(*pieces, hangs=hangs) as (url, caller):
        assert await caller.make(HttpCall("events", url, **keys), 1) == word


@pytest.mark.parametrize(
    ("pieces", "hangs", "keys", "says"),
    [
        ([BODY, CHUNK], True, {}, "no answer within 0.4 s after HTTP 200 and 5 B"),
        ([BODY], True, {"until": "message"}, "no answer within 0.4 s after HTTP 200 and 0 B"),
        ([], True, {"until": "headers"}, "no answer within 0.4 s"),
        ([BODY, CHUNK], False, {"until": "message", "hold_s": WITHIN_S}, "RemoteProtocolError"),
        ([b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy"], True, {"until": "headers"}, "HTTP 503: busy"),
    ],
)  # fmt: skip
async def test_an_http_stream_that_goes_wrong_says_how_and_how_far_it_came(
    pieces: list[bytes], hangs: bool, keys: Any, says: str
) -> None:
    async with events(*pieces, hangs=hangs) as (url, caller):
        with pytest.raises(CallFailed) as failed:
            await caller.make(HttpCall("events", url, **keys), 1, DEADLINE_S)
    assert str(failed.value).startswith(says)
    if not hangs:
        assert str(failed.value).endswith("after HTTP 200 and 5 B")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ('message = { a = 1 }\nmessages = [{ a = 1 }]', "call[0].messages: is beside `message`"),
        ('raw = "x"\nproto = "a.proto"', "call[0].proto: says what `raw`"),
        ('raw = "x"\nanswer = { ok = true }', "call[0].answer: says what `raw`"),
        ('until = "end"\nhold_s = 1', "call[0].hold_s: nothing is left to hold"),
        ("hold_s = -1", "call[0].hold_s: Expected `float` >= 0.0"),
        ('until = "headers"\nanswer = { ok = true }', "call[0].answer: headers hold no answer"),
        ('until = "first"', "call[0].until: Invalid enum value 'first'"),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_told_with_their_line(tmp_path: Path, keys: str, says: str) -> None:
    head = '[[call]]\nname = "x"\nkind = "grpc"\naddress = "127.0.0.1:1"\nmethod = "a.A/B"\n'
    path = tmp_path / "t.toml"
    (tmp_path / "a.proto").touch()
    path.write_text(f'base = "pegaref-thread"\n[target]\nname = "t"\n{head}{keys}\n')
    with pytest.raises(Malformed, match="call") as raised:
        target_file.load(path)
    assert says in str(raised.value)
    assert raised.value.line == 9 + keys.count("\n")
