"""Ports for a server that cannot choose one itself."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from scenarios.spec import placeholders
from scenarios.spec.placeholders import free_ports


def outgoing_from() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_each_name_gets_a_free_port_of_its_own_that_no_outgoing_connection_can_take() -> None:
    found = free_ports([[f"--a={{port:{n}}}" for n in range(200)], "{port:0} again", "{n}"])
    ports = {int(port) for port in found.values()}
    assert len(found) == len(ports) == 200
    assert all(10_000 <= port < outgoing_from() for port in ports)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_machine_without_such_ports_gives_any_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = tmp_path / "range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(placeholders, "_OUTGOING", everything)
    (port,) = free_ports("{port:http}").values()
    socket.create_server(("127.0.0.1", int(port))).close()
