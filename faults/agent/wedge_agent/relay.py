"""A relay in front of a port, which passes bytes both ways unless a fault changes that. Runs in the sidecar.

A fault gives it a `RelayPolicy` for its connections. Bytes are never lost or made up: held bytes wait, so a
connection continues where it stood when the fault ends, unless it was reset.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Coroutine

    from .fault import InjectedFault

_CHUNK_BYTES = 65536
_BACKLOG = 512
_START_WITHIN_S = 5.0
_SLICES_PER_S = 20  # of a slowed stream
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without time: close(2) sends RST (socket(7))


class RelayPolicy:
    """How a relay treats its connections under a fault."""

    def __init__(
        self,
        fault: InjectedFault,
        *,
        holds: bool = False,
        resets: bool = False,
        delay_s: float = 0.0,
        bytes_per_s: int = 0,
    ) -> None:
        self.fault, self.holds, self.resets = fault, holds, resets
        self.delay_s, self.bytes_per_s = delay_s, bytes_per_s


class Relay:
    """Listens on `listen` and connects to `to`, both (host, port). `address` is the bound one. Raises
    OSError."""

    def __init__(self, to: tuple[str, int], listen: tuple[str, int]) -> None:
        self.to = to
        self._listener = socket.create_server(listen, backlog=_BACKLOG)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._policies: list[RelayPolicy] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_WITHIN_S):
            raise OSError(errno.ETIMEDOUT, "its thread does not start")

    def add_policy(self, policy: RelayPolicy) -> None:
        """Apply a policy to all connections, besides those of other faults; returns once it is in effect."""
        self._ask(self._change([*self._policies, policy]))

    def remove_policy(self, policy: RelayPolicy) -> None:
        """Stop applying a policy; returns once it is no longer in effect."""
        self._ask(self._change([other for other in self._policies if other is not policy]))

    def _ask(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_WITHIN_S)

    def close(self) -> None:
        """End the relay and all its connections."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_START_WITHIN_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over, self._changed = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._listener)
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _change(self, policies: list[RelayPolicy]) -> None:
        self._policies = policies
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self._latest(lambda policy: policy.resets):
            for writer in [*self._writers]:
                self._reset(writer)

    def _latest(self, does: Callable[[RelayPolicy], object]) -> RelayPolicy | None:
        """The latest policy for which `does` is true; None if there is none."""
        return next((policy for policy in reversed(self._policies) if does(policy)), None)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: of one made from a coroutine by the server, asyncio tells when it is cancelled.
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end, or to the relay's."""
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            if self._latest(lambda policy: policy.resets):
                self._reset(writer)
                return
            await self._wait_while_held()
            answers, upstream = await asyncio.open_connection(*self.to)
            self._writers.add(upstream)
            both = self._pump(reader, upstream), self._pump(answers, writer)
            pumps += [asyncio.ensure_future(pump) for pump in both]
            await asyncio.gather(*pumps)
        except OSError:  # one side is gone, or nobody is there: the other side hears of it as a reset
            self._reset(writer)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in filter(None, (writer, upstream)):
                self._writers.discard(end)
                if self._over.is_set():  # nobody is left to send on what is still to be sent
                    end.transport.abort()
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            received = await reader.read(_CHUNK_BYTES)
            await self._wait_while_held()
            if not received:
                writer.write_eof()
                return
            while received:
                size = await self._slow_down(len(received))
                await self._wait_while_held()
                writer.write(received[:size])
                received = received[size:]
                await writer.drain()

    async def _wait_while_held(self) -> None:
        """Wait while a policy holds the bytes."""
        while policy := self._latest(lambda policy: policy.holds):
            inside = policy.fault.count_call() and policy.fault.enter()
            try:
                while policy in self._policies:
                    await self._changed.wait()
            finally:
                if inside:
                    policy.fault.leave()

    async def _slow_down(self, size: int) -> int:
        """Wait for the time that the next bytes take; returns how many may pass, `size` at most."""
        policy = self._latest(lambda policy: policy.delay_s or policy.bytes_per_s)
        if policy is None or not policy.fault.count_call():
            return size
        if policy.bytes_per_s:
            size = min(size, max(1, policy.bytes_per_s // _SLICES_PER_S))
        late_s = policy.delay_s + (size / policy.bytes_per_s if policy.bytes_per_s else 0.0)
        until_s = self._loop.time() + late_s
        while policy in self._policies:  # what other faults come and go meanwhile does not make it less late
            try:
                await asyncio.wait_for(self._changed.wait(), until_s - self._loop.time())
            except asyncio.TimeoutError:
                break
        return size

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        if sock is not None and not writer.transport.is_closing():
            if policy := self._latest(lambda policy: policy.resets):
                policy.fault.count_call()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


_relays: dict[int, Relay] = {}


def open_relay(fault: InjectedFault) -> None:
    """Run a relay while the fault lasts, and report its address. Refuses an address that it cannot listen
    on."""
    to, listen = _endpoint(fault, "to"), _endpoint(fault, "listen")
    try:
        relay = Relay(to, listen)
    except OSError as error:
        fault.refuse(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}")
    port = relay.address[1]
    _relays[port] = relay
    fault.undo(lambda: _relays.pop(port).close())
    fault.details["address"] = f"{relay.address[0]}:{port}"
    fault.details["port"] = port
    fault.notes.append(f"a relay listens on {relay.address[0]}:{port} for {to[0]}:{to[1]}")


def policy_change(fault: InjectedFault, policy: RelayPolicy) -> Callable[[], None]:
    """A function that applies `policy`, until release, to the relay that the fault names. Refuses if the
    fault does not name exactly one.
    """
    wanted = fault.params["relay"]
    ports = [port for port in _relays if wanted in (0, port)]
    if len(ports) != 1:
        there = f"open relays: {', '.join(map(str, _relays))}" if _relays else "no relay is open"
        fault.refuse(f"relay={wanted} names no single relay ({there}); arm net.relay first")
    relay = _relays[ports[0]]
    fault.details["address"] = f"{relay.address[0]}:{ports[0]}"

    def change() -> None:
        fault.undo(lambda: relay.remove_policy(policy) if ports[0] in _relays else None)
        relay.add_policy(policy)

    return change


def _endpoint(fault: InjectedFault, name: str) -> tuple[str, int]:
    host, _, port = fault.params[name].rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        fault.refuse(f"{name}={fault.params[name]} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)
