"""Calls: HTTP, gRPC from a .proto or from reflection, placeholders, set-up and clean-up; piles of them;
clients.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest
from grpc_reflection.v1alpha import reflection

from faults import Controller
from scenarios.errors import CallFailed, CouldNotRun, TargetFailed
from scenarios.spec import GrpcCall, HttpCall, LoadedTarget, target_file
from scenarios.spec.document import Document
from scenarios.spec.target import Client
from scenarios.traffic import proto
from scenarios.traffic.caller import Caller
from scenarios.traffic.client import client_process
from scenarios.traffic.concurrent_calls import ConcurrentCalls

PROTO = """
syntax = "proto3";
package shop;
service Shop { rpc Buy(Order) returns (Receipt); rpc Watch(Order) returns (stream Receipt); }
message Item { string name = 1; bytes secret = 2; }
message Order { string key = 1; repeated Item items = 2; uint64 amount = 3; bytes blob = 4; }
message Receipt { bool ok = 1; string key = 2; bytes blob = 3; }
"""


@pytest.fixture
def shop_proto(tmp_path: Path) -> Path:
    path = tmp_path / "shop.proto"
    path.write_text(PROTO)
    return path


@asynccontextmanager
async def shop(proto_file: Path, *, reflects: bool = False) -> AsyncIterator[str]:
    """A gRPC server that echoes an order's key and blob; the key `never` is never answered."""
    method = proto.method(proto.compiled(proto_file), "shop.Shop/Buy")

    async def buy(order: object, context: object) -> object:
        if order.key == "never":  # type: ignore[attr-defined]
            await asyncio.Event().wait()
        if order.key == "broken":  # type: ignore[attr-defined]
            await context.abort(grpc.StatusCode.INTERNAL, "out of stock")  # type: ignore[attr-defined]
        return method.response(ok=order.key != "sold", key=order.key, blob=order.blob)  # type: ignore[attr-defined]

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        buy,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", {"Buy": handler}),))
    if reflects:
        pool = proto.compiled(proto_file)
        reflection.enable_server_reflection(["shop.Shop"], server, pool=pool)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def loaded(folder: Path, *calls: GrpcCall | HttpCall) -> LoadedTarget:
    example = target_file.load(Path(__file__).parent / "servers" / "tiny-loop.toml").spec
    path = folder / "t.toml"
    return LoadedTarget(path, msgspec.structs.replace(example, call=calls), Document(path, ""))


def buy(key: str, proto: str | None = None) -> GrpcCall:
    return GrpcCall(
        name="buy",
        address="{shop}",
        method="shop.Shop/Buy",
        message={"key": key},
        answer={"ok": True},
        proto=proto,
    )


@asynccontextmanager
async def caller(target: LoadedTarget, **names: str) -> AsyncIterator[Caller]:
    made = Caller(target.spec, target.folder, names)
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        await made.close()


async def test_a_call_is_made_from_a_proto_with_its_placeholders_filled(shop_proto: Path) -> None:
    call = GrpcCall(
        name="buy",
        address="{shop}",
        method="shop.Shop/Buy",
        proto="shop.proto",
        message={"key": "k{n}", "blob": "base64:{blob}", "amount": "7", "items": [{"secret": "text"}]},
        answer={"ok": True, "key": "k3", "blob": base64.b64encode(b"\x00x").decode()},
    )
    async with shop(shop_proto) as address:
        blob = base64.b64encode(b"\x00x").decode()
        async with caller(loaded(shop_proto.parent, call), shop=address, blob=blob) as made:
            assert await made.make(call, 3) == "OK"


async def test_without_a_proto_the_server_s_reflection_tells_the_message(shop_proto: Path) -> None:
    async with shop(shop_proto, reflects=True) as address:
        async with caller(loaded(shop_proto.parent), shop=address) as made:
            assert await made.make(buy("k"), 1) == "OK"


async def test_without_proto_and_reflection_the_remedy_is_named(shop_proto: Path) -> None:
    async with shop(shop_proto) as address:
        async with caller(loaded(shop_proto.parent), shop=address) as made:
            with pytest.raises(CouldNotRun, match="give the call a `proto`"):
                await made.make(buy("k"), 1)


@pytest.mark.parametrize(
    ("key", "says"),
    [("sold", "answered"), ("broken", "INTERNAL: out of stock"), ("never", "DEADLINE_EXCEEDED")],
)
async def test_a_call_that_goes_wrong_says_how(shop_proto: Path, key: str, says: str) -> None:
    async with shop(shop_proto) as address:
        async with caller(loaded(shop_proto.parent), shop=address) as made:
            with pytest.raises(CallFailed, match=says):
                await made.make(buy(key, proto="shop.proto"), 1, 0.3)


def test_a_field_or_a_method_that_does_not_exist_is_told_with_the_nearest(shop_proto: Path) -> None:
    pool = proto.compiled(shop_proto)
    with pytest.raises(CouldNotRun, match="did you mean Buy"):
        proto.method(pool, "shop.Shop/Bui")
    with pytest.raises(CouldNotRun, match=r"no gRPC service 'shop\.Shopp'"):
        proto.method(pool, "shop.Shopp/Buy")
    with pytest.raises(CouldNotRun, match="did you mean amount"):
        proto.build(proto.method(pool, "shop.Shop/Buy").request, {"amonut": 3})


def test_a_proto_that_does_not_compile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.proto"
    path.write_text("syntax = 'proto9';")
    with pytest.raises(CouldNotRun, match="does not compile"):
        proto.compiled(path)


async def test_a_pile_tells_pending_answered_and_failed_calls_apart(shop_proto: Path) -> None:
    async with shop(shop_proto) as address:
        target = loaded(shop_proto.parent)
        async with caller(target, shop=address) as made:
            good = ConcurrentCalls(made, buy("k", proto="shop.proto"), 3)
            stuck = ConcurrentCalls(made, buy("never", proto="shop.proto"), 2)
            bad = ConcurrentCalls(made, buy("sold", proto="shop.proto"), 2)
            assert await good.ended(5)
            assert await bad.ended(5)
            assert not await stuck.ended(0.1)
            counts = [(pile.pending, pile.answered, pile.errors) for pile in (good, stuck, bad)]
            await stuck.abandon()
    assert counts == [(0, 3, 0), (2, 0, 0), (0, 0, 2)]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("print('hello', flush=True); import sys; sys.stdin.read()", "must print one JSON object"),
        ("import sys; sys.exit('no GPU')", "no GPU"),
        ("import time; time.sleep(60)", "said nothing within 1 s"),
    ],
)
async def test_a_client_that_does_not_get_ready_is_told(tmp_path: Path, script: str, says: str) -> None:
    wanted = Client("owner", ("{python}", "-c", script), ready_within_s=1)
    async with asyncio.timeout(30), Controller() as controller:
        with pytest.raises(TargetFailed, match=says):
            async with client_process(controller, loaded(tmp_path), wanted, {"python": "python3"}):
                raise AssertionError("it must not get here")


async def test_a_client_s_line_becomes_placeholders_and_its_stdin_ends_it(tmp_path: Path) -> None:
    left = tmp_path / "left"
    script = (
        'import sys, pathlib; print(\'{{"key": "k", "n": 3}}\', flush=True); '
        f"sys.stdin.read(); pathlib.Path({str(left)!r}).touch()"
    )
    wanted = Client("owner", ("{python}", "-c", script))
    async with asyncio.timeout(30), Controller() as controller:
        async with client_process(controller, loaded(tmp_path), wanted, {"python": "python3"}) as made:
            assert made.names == {"owner.key": "k", "owner.n": "3"}
            assert not left.exists()
        assert left.exists()
