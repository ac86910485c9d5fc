"""Connections through a relay are held, slowed or reset; other connections are not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest

from faults import ArmFailed, Controller, NeverHit
from tests.faults.bench import DEADLINE_S, LaunchedTarget, pending, until

ECHO = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
def answer(connection):
    with connection:
        while data := connection.recv(65536): connection.sendall(data)
def serve():
    while True: threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
"""


class Client:
    """One connection that says something and waits for the echo."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echo(self, said: bytes) -> bytes:
        """What comes back, as long as what was said."""
        self.writer.write(said)
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(len(said))


class Ports:
    """The echo server's own port, and the relay's in front of it."""

    def __init__(self, direct: int, relayed: int) -> None:
        self.direct, self.relayed = direct, relayed
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, port: int) -> Client:
        """A new connection."""
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(writer)
        return Client(reader, writer)

    async def close(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def ports(
    controller: Controller, target: LaunchedTarget, capfd: pytest.CaptureFixture[str]
) -> AsyncIterator[Ports]:
    """An echo server in the workbench, behind a relay that has nothing to complain of."""
    await target.do(ECHO)
    direct = await target.ask("server.getsockname()[1]")
    async with controller.arm("net.relay", process="bench", params={"to": f"127.0.0.1:{direct}"}) as relay:
        await relay.wait_biting(timeout_s=5)
        opened = Ports(direct, relay.status().details["port"])
        yield opened
        await opened.close()
    assert capfd.readouterr().err == ""


async def test_a_relay_closes_its_live_connections_without_a_word(
    controller: Controller, ports: Ports, capfd: pytest.CaptureFixture[str]
) -> None:
    to = {"to": f"127.0.0.1:{ports.direct}"}
    async with controller.arm("net.relay", process="bench", params=to) as relay:
        port = relay.status().details["port"]
        talking, idle = await ports.connect(port), await ports.connect(port)
        assert await talking.echo(b"alive") == b"alive"
        held = controller.arm("net.half_open", process="bench", params={"relay": port})
        await held.arm()
        talking.writer.write(b"on its way")
        await held.wait_biting(timeout_s=DEADLINE_S)
    for client in (talking, idle):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(len(b"on its way"))
    await held.release()
    assert capfd.readouterr().err == ""


async def test_a_relay_alone_changes_nothing(ports: Ports) -> None:
    client = await ports.connect(ports.relayed)
    said = os.urandom(1 << 20)
    assert await client.echo(said) == said
    client.writer.write_eof()
    assert await client.reader.read() == b""


async def test_half_open_connections_carry_nothing_and_then_all_of_it(
    controller: Controller, ports: Ports
) -> None:
    client, direct = await ports.connect(ports.relayed), await ports.connect(ports.direct)
    await client.echo(b"before")
    async with controller.arm("net.half_open", process="bench") as fault:
        waiting = asyncio.ensure_future(client.echo(b"during"))
        await fault.wait_biting(timeout_s=5)
        newcomer = asyncio.ensure_future((await ports.connect(ports.relayed)).echo(b"new"))
        assert await pending(waiting)
        assert not newcomer.done()
        assert await direct.echo(b"past the relay") == b"past the relay"
        await until(lambda: fault.status().inside == 2)
    assert await waiting == b"during"
    assert await newcomer == b"new"
    assert fault.status().inside == 0


async def test_an_idle_relay_cannot_be_half_open(controller: Controller, ports: Ports) -> None:
    async with controller.arm("net.half_open", process="bench") as fault:
        with pytest.raises(NeverHit):
            await fault.wait_biting(timeout_s=0.1)


async def test_a_slow_connection_is_late_by_so_much(controller: Controller, ports: Ports) -> None:
    client = await ports.connect(ports.relayed)
    async with controller.arm("net.slow", process="bench", params={"delay": 0.1}) as fault:
        began = time.monotonic()
        await client.echo(b"slowly")
        assert time.monotonic() - began >= 0.2
        await fault.wait_biting(timeout_s=5)


async def test_a_slow_connection_carries_so_many_bytes_a_second(controller: Controller, ports: Ports) -> None:
    client = await ports.connect(ports.relayed)
    async with controller.arm("net.slow", process="bench", params={"delay": 0, "rate": "10k"}):
        began, said = time.monotonic(), os.urandom(5 << 10)
        assert await client.echo(said) == said
        assert time.monotonic() - began >= 0.5


async def test_release_ends_the_waiting_of_a_slow_connection(controller: Controller, ports: Ports) -> None:
    client = await ports.connect(ports.relayed)
    async with controller.arm("net.slow", process="bench", params={"delay": 60}) as fault:
        late = asyncio.ensure_future(client.echo(b"late"))
        await fault.wait_biting(timeout_s=5)
        assert not late.done()
    assert await late == b"late"
    assert await client.echo(b"swiftly") == b"swiftly"


@pytest.mark.parametrize("other", ["net.half_open", "net.slow"])
async def test_a_fault_that_comes_and_goes_does_not_end_the_delay_of_another(
    controller: Controller, ports: Ports, other: str
) -> None:
    client = await ports.connect(ports.relayed)
    async with controller.arm("net.slow", process="bench", params={"delay": 60}) as slow:
        late = asyncio.ensure_future(client.echo(b"late"))
        await slow.wait_biting(timeout_s=5)
        async with controller.arm(other, process="bench"):
            assert await pending(late)
        assert await pending(late)
    assert await late == b"late"


async def test_what_is_late_already_is_held_too(controller: Controller, ports: Ports) -> None:
    client = await ports.connect(ports.relayed)
    async with controller.arm("net.slow", process="bench", params={"delay": 0.2}) as slow:
        late = asyncio.ensure_future(client.echo(b"late"))
        await slow.wait_biting(timeout_s=5)
        async with controller.arm("net.half_open", process="bench") as held:
            await held.wait_biting(timeout_s=5)
            assert await pending(late)
            assert (held.status().hits, held.status().inside) == (1, 1)
    assert await late == b"late"


async def test_connections_are_reset_and_new_ones_too_until_release(
    controller: Controller, ports: Ports
) -> None:
    client, direct = await ports.connect(ports.relayed), await ports.connect(ports.direct)
    await client.echo(b"before")
    async with controller.arm("net.reset", process="bench") as fault:
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE_S):
                await client.reader.readexactly(1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await (await ports.connect(ports.relayed)).echo(b"new")
        await fault.wait_biting(timeout_s=5)
        assert await direct.echo(b"past the relay") == b"past the relay"
    assert await (await ports.connect(ports.relayed)).echo(b"after") == b"after"


@pytest.mark.parametrize("first", ["net.slow", "net.half_open"])
async def test_two_faults_on_one_relay_are_released_in_any_order(
    controller: Controller, ports: Ports, first: str
) -> None:
    client = await ports.connect(ports.relayed)
    slow = controller.arm("net.slow", process="bench", params={"delay": 60})
    held = controller.arm("net.half_open", process="bench")
    async with slow, held:
        waiting = asyncio.ensure_future(client.echo(b"through both"))
        await held.wait_biting(timeout_s=5)
        await (slow if first == "net.slow" else held).release()
        assert await pending(waiting)
    assert await waiting == b"through both"
    assert await client.echo(b"after") == b"after"


async def test_without_a_relay_a_net_fault_says_what_to_arm(
    controller: Controller, target: LaunchedTarget
) -> None:
    with pytest.raises(ArmFailed, match=r"arm net\.relay first"):
        await controller.arm("net.reset", process="bench").arm()


@pytest.mark.parametrize("to", ["nowhere", "127.0.0.1:http", "127.0.0.1:99999"])
async def test_an_endpoint_that_is_none_is_refused(
    controller: Controller, target: LaunchedTarget, to: str
) -> None:
    with pytest.raises(ArmFailed, match="is not HOST:PORT"):
        await controller.arm("net.relay", process="bench", params={"to": to}).arm()


async def test_a_port_in_use_is_refused(controller: Controller, ports: Ports) -> None:
    params = {"to": "127.0.0.1:1", "listen": f"127.0.0.1:{ports.direct}"}
    with pytest.raises(ArmFailed, match="cannot listen on"):
        await controller.arm("net.relay", process="bench", params=params).arm()
