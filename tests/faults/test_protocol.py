"""The messages between controller and agent: what one side writes the other side reads, or refuses."""

from __future__ import annotations

import _socket
import json
import socket
from typing import Any

import pytest

from faults import Controller
from faults.agent import wedge_agent
from faults.agent.wedge_agent import protocol
from faults.agent.wedge_agent.service import Service
from tests.faults.bench import LaunchedTarget

ARM = protocol.Arm(
    fault="f1",
    name="call.drop",
    params={"site": "a:b", "what": None},
    trigger={"hits": [1, 3]},
    source="NAME = 'ü'",
    origin="x.py",
    function="arm",
    targets=[(1, 2)],
    until_ns=1 << 60,
)
MESSAGES: list[protocol.Message] = [
    protocol.Ping(),
    protocol.FindImported(names=["torch"]),
    protocol.Start(fault="f1", when_done=True),
    protocol.Release(fault="f1"),
    protocol.ReadStacks(),
    protocol.Done(),
    protocol.Imported(names=[]),
    protocol.Armed(notes=["patched"], details={"port": 1}),
    protocol.Released(notes=["x"]),
    protocol.Stacks(threads=[(1, [("f", "x.py", 3, "f()")])]),
    protocol.Refusal(kind=protocol.UNKNOWN_SITE, message="no", near=["near"]),
    protocol.Hello(version=protocol.VERSION, pid=1, python="3.8.1", own_fds=[3, 4]),
    protocol.Failed(fault="f1", kind=protocol.ARM_FAILED, message="no", near=[]),
    protocol.Expired(fault="f1", notes=[]),
    ARM,
]


def fields(message: protocol.Message) -> Any:
    """Its fields as JSON has them."""
    return json.loads(protocol.encode(message))["fields"]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.NAME)
def test_a_message_arrives_as_it_was_sent(message: protocol.Message) -> None:
    envelope = protocol.Envelope(protocol.encode(message, number=3, fds=2))
    assert (envelope.number, envelope.fds) == (3, 2)
    read = envelope.message()
    assert type(read) is type(message)
    assert fields(read) == fields(message)


def test_every_message_is_tried() -> None:
    kinds = {kind for base in protocol.Message.__subclasses__() for kind in base.__subclasses__()}
    assert {type(message) for message in MESSAGES} == kinds


def body(kind: str, fields: str = "{}") -> bytes:
    """A request of that type."""
    return f'{{"type": "{kind}", "number": 7, "fds": 0, "fields": {fields}}}'.encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"[]", "is no message"),
        (b'{"type": "ping"}', "is no message: KeyError"),
        (body("pong"), "no message is called 'pong'; there are answer"),
        (body("ping", '{"x": 1}'), "'ping' has no fields; what came has x"),
        (body("release"), "'release' has fault; what came has none"),
    ],
)
def test_what_is_no_message_is_an_error_that_says_why(text: bytes, complaint: str) -> None:
    with pytest.raises(protocol.ProtocolError, match=complaint):
        protocol.Envelope(text).message()


@pytest.mark.parametrize("name", ["pong", "done"])
def test_an_agent_refuses_what_is_no_request_and_serves_on(name: str) -> None:
    sent: list[bytes] = []
    service = Service(sent.append)
    service.handle(body(name), [])
    service.handle(protocol.encode(protocol.Ping(), number=8), [])
    refusal, done = map(protocol.Envelope, sent)
    answer = refusal.message()
    assert isinstance(answer, protocol.Refusal)
    assert (refusal.number, answer.kind) == (7, protocol.ERROR)
    assert name in answer.message
    assert (done.number, type(done.message())) == (8, protocol.Done)


def test_the_hello_that_the_agent_writes_by_hand_is_the_protocols() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        agent = wedge_agent.Agent(_socket.socket(fileno=theirs.detach()))
        agent.hello()
        length = int.from_bytes(ours.recv(4), "big")
        hello = protocol.Envelope(ours.recv(length)).message()
        agent.end()
    assert isinstance(hello, protocol.Hello)
    assert hello.version == protocol.VERSION == wedge_agent.PROTOCOL_VERSION


async def test_a_controller_reads_a_refusal_as_the_agent_raised_it(
    controller: Controller, target: LaunchedTarget
) -> None:
    (link,) = await controller._processes.matching(controller._processes.selector("bench"))
    with pytest.raises(protocol.Refused) as refused:
        await link.ask(ARM, protocol.Armed, within_s=5)  # without its two descriptors
    assert refused.value.kind == protocol.ERROR
    await link.ask(protocol.Ping(), protocol.Done, within_s=5)
