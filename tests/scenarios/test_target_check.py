"""`wedge target check` tries a real server once and says what is missing, and only what is missing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from scenarios.cli.target import target_command
from scenarios.errors import TargetFailed
from scenarios.onboarding.check import check
from scenarios.onboarding.findings import TargetCheck
from scenarios.spec import target_file
from scenarios.spec.target_file import find

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "shared-pool"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The example with its target file, to be changed; the path of the target file."""
    shutil.copy(EXAMPLE / "app.py", tmp_path)
    return Path(shutil.copy(EXAMPLE / "shared-pool.toml", tmp_path / "mine.toml"))


def change(path: Path, *replacements: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


async def checked(path: Path) -> TargetCheck:
    return await check(target_file.load(path), lambda line: None)


async def test_a_complete_file_has_nothing_to_put_right(server: Path) -> None:
    found = await checked(server)

    assert found.problems == ()
    assert found.advice == ()
    assert [probe.name for probe in found.probes] == ["http /health", "http /health (kept-alive)"]
    assert [call.answer for call in found.calls] == ["HTTP 200"]
    version = ".".join(map(str, sys.version_info[:3]))
    assert [seen.agent for seen in found.processes] == [version]
    assert [site.reached_by for site in found.sites] == [("predict",)]


async def test_a_wrong_endpoint_and_a_failing_call_are_told_with_their_lines(server: Path) -> None:
    change(server, ('/health"\nexpect', '/healthz"\nexpect'), ('method = "GET"', 'method = "DELETE"'))

    found = await checked(server)

    assert found.problems == (
        "mine.toml:9: probe 'http /health' had no good answer: 404 Not Found",
        "mine.toml:9: probe 'http /health (kept-alive)' had no good answer: 404 Not Found",
        "mine.toml:16: call 'predict' failed: HTTP 405: Method Not Allowed",
    )


async def test_a_site_that_does_not_resolve_is_told_with_the_nearest_name(server: Path) -> None:
    change(server, ("app:score", "app:scores"))

    found = await checked(server)

    assert found.problems == (
        "mine.toml:23: 'gpu' resolves in no process: app has no 'scores'; did you mean score?",
    )


async def test_a_site_that_no_call_reaches_is_told(server: Path) -> None:
    change(server, ("app:score", "json:loads"))

    found = await checked(server)

    assert found.problems == ()
    assert found.advice == ("no call reaches site 'gpu': a fault in it would never bite",)


async def test_a_call_that_is_not_to_be_tried_is_left_alone(server: Path) -> None:
    change(server, ("[sites]", "check = false\n\n[sites]"), ('method = "GET"', 'method = "DELETE"'))

    found = await checked(server)

    assert (found.problems, found.calls) == ((), ())


async def test_a_client_of_scenarios_is_not_started_with_the_server(server: Path) -> None:
    absent = '[[client]]\nname = "later"\nwhen = "{}"\ncommand = ["no-such-program"]\n\n[sites]'
    change(server, ("[sites]", absent.format("scenario")))
    assert (await checked(server)).problems == ()

    change(server, ('"scenario"', '"server"'))
    with pytest.raises(TargetFailed, match="client later"):
        await checked(server)


@pytest.mark.torch
async def test_with_two_devices_each_actor_s_process_has_a_name_of_its_own() -> None:
    found = await check(target_file.load(find("pegaref-alert")), lambda line: None)

    assert found.problems == ()
    assert {len(pids) for pids in found.selected.values()} == {1}
    assert found.selected["registry"] == found.selected["registry-0"] != found.selected["registry-1"]
    assert "register-on-1" in {call.name for call in found.calls}


async def test_a_site_whose_module_nobody_has_imported_is_told_apart(server: Path) -> None:
    change(server, ("app:score", "mailbox:Mailbox.get"))

    found = await checked(server)

    assert found.advice == (
        "no call reaches site 'gpu' (its module is not imported yet): a fault in it would never bite",
    )


async def test_a_class_is_a_site_too_where_its_objects_die(server: Path) -> None:
    change(server, ("app:score", "starlette.requests:Request"))

    found = await checked(server)

    assert found.problems == ()
    assert [site.reached_by for site in found.sites] == [("predict",)]


async def test_a_wrong_name_is_told_though_another_process_has_not_imported_the_module(server: Path) -> None:
    change(server, ('"app:app"', '"app:app", "--workers", "2"'), ("app:score", "app:scores"))
    change(server, ("worker = { main = true }", 'worker = { parent = "server" }'))

    found = await checked(server)

    assert len([seen for seen in found.processes if seen.names == ("worker",)]) >= 2
    (problem,) = found.problems
    assert "'gpu' resolves in no process: app has no 'scores'; did you mean score?" in problem


async def test_a_name_that_selects_no_process_is_told_and_one_that_does_is_shown(server: Path) -> None:
    change(server, ("worker = { main = true }", 'worker = { parent = "server" }'))

    found = await checked(server)

    assert [seen.names for seen in found.processes] == [("server",)]
    (problem,) = found.problems
    assert problem.startswith("mine.toml:27: 'worker' selects no process; there are ")


async def test_a_server_without_an_agent_is_told_how_to_let_it_in(server: Path) -> None:
    change(
        server,
        ('"{python}", "-m"', '"{python}", "-P", "-s", "-E", "-m"'),
        ('"app:app"', '"--app-dir", ".", "app:app"'),
    )

    found = await checked(server)

    assert [seen.agent for seen in found.processes] == [None]
    (problem,) = found.problems
    assert problem.startswith("mine.toml:6: no process has an agent")
    assert "no -I, -E or -S" in problem


async def test_what_would_make_verdicts_say_more_is_suggested(server: Path) -> None:
    text = server.read_text(encoding="utf-8").partition("[[call]]")[0].replace('role = "liveness"\n', "")
    server.write_text(text, encoding="utf-8")

    found = await checked(server)

    assert found.problems == ()
    assert [line.partition(":")[0] for line in found.advice] == [
        'no probe has role = "liveness"',
        "there is no [[call]]",
        "give it 'server' in [processes] and 'worker' in [processes] and 'gpu' in [sites], and all of the "
        "suite for any server can run on it",
    ]


async def test_nothing_of_the_server_is_left_after_the_check(server: Path) -> None:
    found = await checked(server)

    assert [seen for seen in found.processes if Path(f"/proc/{seen.pid}").exists()] == []


async def test_a_server_that_does_not_start_ends_the_check_with_its_last_words(server: Path) -> None:
    change(server, ("app:app", "nothing:app"))

    with pytest.raises(TargetFailed, match=r'Could not import module "nothing"'):
        await checked(server)


def test_the_command_exits_0_when_nothing_is_missing_and_says_what_to_do_next(server: Path) -> None:
    result = CliRunner().invoke(target_command, ["check", str(server)])

    assert result.exit_code == 0
    assert "✓ http /health " in result.stdout
    assert result.stdout.rstrip().endswith(f"ready to be judged: wedge run --target {server}")


def test_the_command_exits_1_when_something_is_missing(server: Path) -> None:
    change(server, ("app:score", "app:scores"))

    result = CliRunner().invoke(target_command, ["check", str(server)])

    assert result.exit_code == 1
    assert "ready to be judged" not in result.stdout


def test_the_command_speaks_json(server: Path) -> None:
    result = CliRunner().invoke(target_command, ["check", "--json", str(server)])

    value = json.loads(result.stdout)
    assert value["target"] == "shared-pool"
    assert value["problems"] == []
    assert value["sites"][0]["reached_by"] == ["predict"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "shared-pool"', 'nmae = "shared-pool"', "4: target.nmae: unknown key; did you mean name?"),
        (
            '{port:http}/health"\nexpect',
            '{prot}/health"\nexpect',
            "12: probe[0].url: unknown placeholder {prot}",
        ),
        ('role = "liveness"', 'role = "live"', "14: probe[0].role: Invalid enum value 'live'"),
        ('gpu = "app:score"', 'gpu = "app.score"', "23: sites.gpu: 'app.score' is not module:qualname"),
        ("[sites]", 'requires = ["./mine"]\n[sites]', "22: call[0].requires: unknown key"),
    ],
)
def test_a_malformed_file_is_one_line_with_file_line_and_key_and_exit_code_2(
    refused: Callable[..., str], server: Path, old: str, new: str, said: str
) -> None:
    change(server, (old, new))

    (line,) = refused("target", "check", str(server)).splitlines()
    assert line.startswith(f"wedge: {server}:{said}")
