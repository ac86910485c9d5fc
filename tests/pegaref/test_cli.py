"""The command line: it teaches, it refuses in one line with a remedy, and it says where it listens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import pegaref
from pegaref.cli import cli, server_config
from pegaref.config import PLACEMENTS, ServerConfig
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, LINE


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pegaref", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, **(environment or {})},
    )


def refusal(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """The one line on stderr of a command that exits with 2 and says nothing on stdout."""
    ended = command(*arguments, environment=environment)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert ended.stderr.startswith("pegaref: ")
    assert ended.stderr.endswith("\n")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_help_names_every_placement_the_line_and_a_way_to_try_it() -> None:
    text = command("serve", "--help").stdout
    for placement in PLACEMENTS:
        assert f"  {placement}" in text
    assert "pegaref listening http=127.0.0.1:9091 grpc=127.0.0.1:50055 pid=42" in text
    assert "curl http://127.0.0.1:9091/ready" in text


def test_every_flag_has_a_help_text() -> None:
    for option in cli.commands["serve"].params:
        assert getattr(option, "help", ""), option.name


def test_no_flags_are_the_default_configuration() -> None:
    context = cli.commands["serve"].make_context("serve", [])
    assert server_config(**context.params) == ServerConfig()


def test_every_flag_lands_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef")
    flags = (
        "--placement=pool --devices=0,3 --device-type=cpu --http-addr=127.0.0.1:0 --addr=[::1]:0 "
        "--workers=7 --wedge-after=1.5 "
        "--on-wedge=respawn --max-deadline=9 --mailbox-commands=5 --mailbox-bytes=6 --max-message-bytes=7 "
        "--max-header-bytes=8 --max-connections=9 --header-timeout=12 --max-sessions=11 --client-version=1.* "
        f"--token-file={tmp_path / 'token'} --tls-cert=c.pem --tls-key=k.pem --tls-client-ca=a.pem "
        "--shutdown-grace=1 --log-level=debug"
    ).split()
    given = server_config(**cli.commands["serve"].make_context("serve", flags).params)
    default = ServerConfig()
    for name in ServerConfig.__dataclass_fields__:
        assert getattr(given, name) != getattr(default, name), name
    for name in type(default.limits).__dataclass_fields__:
        assert getattr(given.limits, name) != getattr(default.limits, name), name
    for name in ("wedge_after_s", "on_wedge", "mailbox_commands", "mailbox_bytes"):
        assert getattr(given.registry, name) != getattr(default.registry, name), name


def test_version_is_that_of_the_package() -> None:
    assert command("--version").stdout.strip().endswith(pegaref.__version__)
    assert pegaref.__version__ == version("pegaref")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["serve", "--placement", "proces"], "did you mean 'process'"),
        (["serve", "--placement", "gpu"], "choose one of inline, pool, thread, process"),
        (["serve", "--on-wedge", "restart"], "report, respawn"),
        (["serve", "--devices", "0,0"], "name it once"),
        (["serve", "--devices", "gpu0"], "such as 0,1"),
        (["serve", "--device-type", "gpu"], "choose one of auto, cuda, cpu"),
        (["serve", "--client-version", "any", "--client-version", "1.*"], "leave the others out"),
        (["serve", "--http-addr", "9091"], "write HOST:PORT"),
        (["serve", "--addr", "host:99999"], "0 to 65535"),
        (["serve", "--workers", "0"], "x>=1"),
        (["serve", "--wedge-after", "0"], "0<x"),
        (["serve", "--wedge-after", "soon"], "not a valid float"),
        (["serve", "--plcement", "pool"], "--placement"),
        (["serve", "extra"], "unexpected extra argument"),
        (["serv"], "serv"),
        (["serve", "--token-file", "/no/such/file"], "name a readable text file"),
        (["serve", "--tls-cert", "c.pem"], "add --tls-key"),
        (["serve", "--tls-client-ca", "c.pem"], "add --tls-cert and --tls-key"),
        (["serve", "--tls-cert", "no.pem", "--tls-key", "no.pem"], "two PEM files that belong together"),
        (["serve", "--http-addr", "no-such-host.invalid:0"], "there is no such host"),
        (["serve", "--http-addr", "192.0.2.1:0", "--addr", "127.0.0.1:0"], "choose another"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_a_remedy(arguments: list[str], remedy: str) -> None:
    assert remedy in refusal(*arguments)


def test_what_is_slow_to_load_is_not_loaded_before_the_server_listens() -> None:
    probe = (
        "import sys, pegaref.cli, pegaref.server; print({'torch', 'prometheus_client'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.stdout == "set()\n", ended


@pytest.mark.parametrize("flag", ["--http-addr", "--addr"])
def test_a_port_in_use_is_refused_in_one_line_with_a_remedy(flag: str) -> None:
    other = {"--http-addr": "--addr", "--addr": "--http-addr"}[flag]
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        line = refusal("serve", flag, taken, other, "127.0.0.1:0")
    assert f"{flag} {taken}" in line
    assert "Address already in use" in line
    assert "0 picks a free one" in line


def test_a_missing_torch_is_refused_in_one_line_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    line = refusal(
        "serve", "--http-addr=127.0.0.1:0", "--addr=127.0.0.1:0", environment={"PYTHONPATH": str(tmp_path)}
    )
    assert "pip install 'pegaref[torch]'" in line


@pytest.mark.torch
def test_the_first_line_says_where_it_listens_and_how(serve: Serve) -> None:
    server = serve("--devices=0,1", "--placement=thread", ready=False)
    match = LINE.fullmatch(server.line.rstrip("\n"))
    assert match
    assert (match["placement"], match["devices"], int(match["pid"])) == ("thread", "0,1", server.process.pid)
    assert match["types"] == "cpu,cpu"
    assert server.get("/health").text == "ok"
    with server.client() as client:
        client.health()


@pytest.mark.torch
def test_logs_go_to_stderr_and_stdout_has_the_one_line(serve: Serve) -> None:
    server = serve(loads=False)
    server.process.terminate()
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    assert server.process.wait(DEADLINE_S) == 0
    assert "INFO" in server.log()
