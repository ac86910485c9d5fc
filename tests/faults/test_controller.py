"""How a controller selects processes, what it refuses, and who may connect to it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults import (
    BadParameter,
    BadTrigger,
    Controller,
    FaultsError,
    LeaseTooLong,
    NoSuchProcess,
    NotArmed,
    NotOpen,
    Selector,
    State,
    UnknownFault,
    UnknownParameter,
    UnknownSelector,
    UnknownSite,
    validate,
)
from faults.agent.wedge_agent import protocol
from tests.faults.bench import DEADLINE_S, LaunchedTarget, launched, until

FAMILY = """
import subprocess, sys
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, sys.argv[0], "worker"], stdin=subprocess.PIPE)
    sys.stdin.read()
    child.communicate()
else:
    import colorsys
    sys.stdin.read()
"""

# Linux resets a connection that is closed with something unread in it, and ends one that was read (unix(7)).
STRANGER = """
import json, os, socket
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect("agent.sock")
fields = {"version": 2, "pid": os.getpid(), "python": "3.11.0"}
hello = json.dumps({"type": "hello", "number": 0, "fds": 0, "fields": fields}).encode()
sock.sendall(len(hello).to_bytes(4, "big") + hello)
print("said hello", flush=True)
try:
    print(sock.recv(1) or "read", flush=True)
except ConnectionResetError:
    print("not read", flush=True)
"""


async def test_processes_are_told_apart_by_every_kind_of_selector(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    selectors = {
        "boss": Selector(main=True),
        "worker": Selector(cmdline=r"family\.py worker"),
        "colourful": Selector(imports="colorsys"),
        "below": Selector(parent="boss"),
        "colourful child of the boss": Selector(parent="boss", imports="colorsys"),
    }
    async with Controller(processes=selectors) as controller:
        boss = await controller.launch(
            [sys.executable, str(tmp_path / "family.py")], stdin=asyncio.subprocess.PIPE
        )
        found = {name: (await controller.wait_process(name, timeout_s=DEADLINE_S)).pid for name in selectors}
        assert found.pop("boss") == boss.pid
        assert set(found.values()) == {found["worker"]}
        assert found["worker"] != boss.pid
        with pytest.raises(NoSuchProcess, match="imports=wave"):
            await controller.wait_process(Selector(imports="wave"), timeout_s=0.1)


async def test_what_a_process_says_of_itself_is_what_the_kernel_says(
    controller: Controller, target: LaunchedTarget
) -> None:
    info = await controller.wait_process("bench")
    assert info.pid == target.pid
    assert info.argv[0] == sys.executable
    assert info.python == ".".join(map(str, sys.version_info[:3]))
    assert info.ppid == await target.ask("os.getppid()")


async def test_a_process_that_ended_is_forgotten(controller: Controller) -> None:
    async with launched(controller) as target:
        await controller.wait_process(Selector(pid=target.pid))
    await until(lambda: controller.processes() == ())


async def test_nobody_there_is_said_with_what_to_do(controller: Controller) -> None:
    with pytest.raises(
        NoSuchProcess, match=r"cmdline=workbench after 0\.05 s; no process has connected.*wedge exec"
    ):
        await controller.wait_process("bench", timeout_s=0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"name": "gil.hodl"}, UnknownFault, "did you mean gil.hold"),
        ({"name": "noop", "params": {"x": 1}}, UnknownParameter, "takes none"),
        ({"name": "call.stall"}, UnknownParameter, "needs the parameter 'site'"),
        ({"name": "call.stall", "params": {"siet": "a:b"}}, UnknownParameter, "did you mean site"),
        ({"name": "call.stall", "params": {"site": "wrok"}}, UnknownSite, "did you mean work"),
        ({"name": "call.stall", "params": {"site": "a:b", "gil": "kept"}}, BadParameter, "released or held"),
        ({"name": "gil.contend", "params": {"threads": -1}}, BadParameter, "a whole number"),
        ({"name": "gil.contend", "params": {"threads": 1.5}}, BadParameter, "a whole number"),
        ({"name": "call.delay", "params": {"site": "a:b", "delay": "long"}}, BadParameter, "seconds"),
        ({"name": "noop", "process": "bnech"}, UnknownSelector, "did you mean bench"),
        ({"name": "noop", "process": Selector(parent="nobody")}, UnknownSelector, "known ones are"),
        ({"name": "noop", "process": Selector(cmdline="(")}, FaultsError, "no regular expression"),
        ({"name": "noop", "lease_s": 0}, LeaseTooLong, "over 0 s"),
        ({"name": "noop", "lease_s": 301}, LeaseTooLong, "at most 300 s"),
        ({"name": "noop", "lease_s": float("nan")}, LeaseTooLong, "refused"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_any_process_hears_of_it(
    controller: Controller, arguments: dict[str, object], error: type[FaultsError], says: str
) -> None:
    with pytest.raises(error, match=says):
        controller.arm(**arguments)  # type: ignore[arg-type]


def test_a_selector_that_is_its_own_parent_is_refused() -> None:
    with pytest.raises(FaultsError, match="own parent"):
        Controller(processes={"a": Selector(parent="b"), "b": Selector(parent="a")})


async def test_a_controller_that_is_not_open_says_so() -> None:
    controller = Controller()
    with pytest.raises(NotOpen):
        controller.environment({})
    with pytest.raises(NotOpen):
        await controller.wait_process("main")
    with pytest.raises(NotArmed):
        await controller.arm("noop").wait_biting(timeout_s=1)


async def test_the_directory_and_the_socket_are_private_and_go_with_the_controller() -> None:
    async with Controller() as controller:
        path = controller.path
        sock = path / "agent.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(sock.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
async def test_another_user_who_reaches_the_socket_is_turned_away_before_a_word_is_read(
    controller: Controller,
) -> None:
    controller.path.chmod(0o711)
    (controller.path / "agent.sock").chmod(0o666)
    with subprocess.Popen(
        [sys.executable, "-I", "-c", STRANGER], cwd=controller.path, stdout=subprocess.PIPE, text=True
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "said hello\n"  # while the controller can do nothing yet
        try:
            ended = asyncio.get_running_loop().run_in_executor(None, stranger.stdout.readline)
            await until(lambda: ended.done() or controller.processes() != ())
            assert controller.processes() == ()
            assert await ended == "not read\n"
        finally:
            stranger.kill()


async def test_a_runtime_directory_that_others_can_open_is_refused(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path_factory.mktemp("w")  # short: a longer path than a socket's may be is not used
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (runtime / "faults").mkdir(mode=0o755)
    with pytest.raises(FaultsError, match="only this user"):
        async with Controller():
            raise AssertionError("it opened")


async def test_what_a_dead_controller_left_is_swept_and_what_a_live_one_has_is_not(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("w")))
    async with Controller() as first:
        dead = first.path.parent / f"{os.getpid()}-1-abcdef"
        dead.mkdir()
        async with Controller() as second:
            assert not dead.exists()
            assert first.path.exists()
            assert second.path.exists()


def framed(body: bytes) -> bytes:
    """A message as it goes over the connection."""
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"x",
        b"\xff" * 64,
        b"\0\0\0\5nojsn",
        b"\0\0\0\2[]",
        b'\0\0\0\x0b{"of": "x"}',
        framed(
            protocol.encode(protocol.Hello(version=protocol.VERSION + 1, pid=1, python="3.11.0", own_fds=[]))
        ),
        framed(b'{"type": "rumour", "number": 0, "fds": 0, "fields": {}}'),
    ],
)
async def test_a_connection_that_talks_nonsense_is_ended_and_harms_nobody(
    controller: Controller, target: LaunchedTarget, message: bytes
) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(controller.path / "agent.sock"))
        await loop.sock_sendall(sock, message)
        sock.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DEADLINE_S):
            assert await loop.sock_recv(sock, 1) == b""
    assert [info.pid for info in controller.processes()] == [target.pid]
    async with controller.arm("noop", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)


async def test_a_message_that_claims_to_be_huge_ends_the_connection_at_once(controller: Controller) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(controller.path / "agent.sock"))
        await loop.sock_sendall(sock, b"\xff\xff\xff\xff")
        async with asyncio.timeout(DEADLINE_S):
            assert await loop.sock_recv(sock, 1) == b""


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"name": "call.stal"}, UnknownFault),
        ({"name": "call.stall"}, UnknownParameter),
        ({"name": "call.stall", "params": {"site": "wrok"}}, UnknownSite),
        ({"name": "gil.hold", "trigger": {"times": 1}}, BadTrigger),
        ({"name": "gil.hold", "process": "bnech"}, UnknownSelector),
        ({"name": "gil.hold", "lease_s": 301}, LeaseTooLong),
    ],
)
def test_what_arm_would_refuse_is_refused_without_a_controller(
    asked: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        validate(**asked, processes={"bench": Selector(main=True)}, sites={"work": "workshop:work"})


def test_what_arm_would_take_is_valid() -> None:
    validate("gil.hold")
    validate("call.stall", params={"site": "work"}, trigger={"times": 1}, sites={"work": "workshop:work"})


async def test_processes_that_match_are_found_or_none(controller: Controller, target: LaunchedTarget) -> None:
    assert [info.pid for info in await controller.find_processes("bench")] == [target.pid]
    assert await controller.find_processes(Selector(imports="wave"), timeout_s=0.1) == ()
    with pytest.raises(UnknownSelector):
        await controller.find_processes("bnech")


async def test_ended_faults_are_remembered(controller: Controller, target: LaunchedTarget) -> None:
    async with controller.arm("noop", process="bench") as fault:
        await fault.wait_biting(timeout_s=5)
        assert [status.state for status in controller.statuses()] == [State.BITING]
    assert [status.state for status in controller.statuses()] == [State.RELEASED]
    assert controller.faults() == ()


async def test_the_times_of_a_life_are_in_order(controller: Controller, target: LaunchedTarget) -> None:
    await target.do("import workshop")
    async with controller.arm("call.stall", process="bench", params={"site": "work"}) as fault:
        stuck = target.start("workshop.work(1)")
        await fault.wait_biting(timeout_s=5)
    await stuck
    times = fault.status().times
    assert times.keys() == {"armed", "hit", "biting", "released"}
    assert times["armed"] <= times["hit"] <= times["biting"] <= times["released"]
