"""A target file over its base: what merges, what replaces, and whose line a mistake is told with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest

from scenarios import spec
from scenarios.errors import Malformed
from scenarios.onboarding.schema import schema
from scenarios.server.environment import recipe
from scenarios.spec import target_file
from scenarios.spec.placeholders import fill

BASE = """
[target]
name = "base"
command = ["{python}", "{here}/app.py", "--port", "{port:http}"]
env = { A = "1", B = "1" }
ready = { url = "http://127.0.0.1:{port:http}/health" }

[[probe]]
kind = "http"
name = "health"
url = "http://127.0.0.1:{port:http}/health"
expect = { body = "ok" }

[[call]]
name = "make"
kind = "grpc"
address = "127.0.0.1:{port:grpc}"
proto = "a.proto"
method = "a.A/Make"
message = { key = "{n}", amount = 1 }

[[call]]
name = "drop"
kind = "http"
url = "http://127.0.0.1:{port:http}/drop"

[sites]
gpu = "app:gpu"

[processes]
server = { main = true }
"""
TOP = """
base = "base.toml"

[target]
name = "top"
"""


def files(folder: Path, **texts: str) -> None:
    (folder / "a.proto").touch()
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def laid(folder: Path, top: str = TOP, base: str = BASE, **others: str) -> spec.Target:
    files(folder, base=base, top=top, **others)
    return target_file.load(folder / "top.toml").spec


def wrong(folder: Path, top: str = TOP, base: str = BASE, **others: str) -> Malformed:
    with pytest.raises(Malformed) as raised:
        laid(folder, top, base, **others)
    return raised.value


def test_what_a_file_does_not_say_its_base_says(tmp_path: Path) -> None:
    top = laid(tmp_path)
    base = target_file.load(tmp_path / "base.toml").spec
    assert (top.name, top.probe, top.call, top.sites) == ("top", base.probe, base.call, base.sites)


def test_args_go_behind_the_command_of_the_base_and_behind_its_args(tmp_path: Path) -> None:
    middle = 'base = "base.toml"\n[target]\nname = "middle"\nargs = ["--slow"]\n'
    top = TOP.replace("base.toml", "middle.toml") + 'args = ["--port", "{port:other}"]\n'
    command = laid(tmp_path, top, middle=middle).start.command
    assert command[2:] == ("--port", "{port:http}", "--slow", "--port", "{port:other}")


def test_a_command_of_its_own_replaces_the_base_s(tmp_path: Path) -> None:
    assert laid(tmp_path, TOP + 'command = ["other"]\nargs = ["-v"]\n').start.command == ("other", "-v")


def test_args_need_no_base(tmp_path: Path) -> None:
    files(tmp_path, alone=BASE.replace("env =", 'args = ["-v"]\nenv ='))
    assert target_file.load(tmp_path / "alone.toml").start.command[-1] == "-v"


def test_tables_merge_key_by_key(tmp_path: Path) -> None:
    more = '[target.env]\nB = "2"\nC = "2"\n[sites]\ncpu = "app:cpu"\n'
    top = laid(tmp_path, TOP + more)
    assert top.start.env == {"A": "1", "B": "2", "C": "2"}
    assert top.sites == {"gpu": "app:gpu", "cpu": "app:cpu"}


def test_probes_calls_and_clients_merge_by_name_and_new_ones_are_added(tmp_path: Path) -> None:
    more = '[[call]]\nname = "new"\nkind = "http"\nurl = "/"\n'
    more += '[[call]]\nname = "make"\nmessage = { amount = 2 }\n'
    more += '[[probe]]\nname = "health"\nbudget_s = 5\n[[client]]\nname = "c"\ncommand = ["c"]\n'
    top = laid(tmp_path, TOP + more)
    assert [call.name for call in top.call] == ["make", "drop", "new"]
    assert isinstance(top.call[0], spec.GrpcCall)
    assert top.call[0].message == {"key": "{n}", "amount": 2}
    assert [(probe.name, probe.budget_s) for probe in top.probe] == [("health", 5)]
    assert [client.name for client in top.client] == ["c"]


def test_one_of_another_kind_takes_the_place_of_the_base_s(tmp_path: Path) -> None:
    top = laid(tmp_path, TOP + '[[probe]]\nkind = "grpc"\nname = "health"\naddress = "127.0.0.1:1"\n')
    assert top.probe == (spec.GrpcProbe("health", "127.0.0.1:1"),)


def test_a_base_in_another_folder_keeps_its_own_paths(tmp_path: Path) -> None:
    there, here = tmp_path / "{there}", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "needs.txt").write_text("requests\n")
    files(there, base=BASE.replace("env =", 'requires = ["-r needs.txt"]\nenv ='))
    (here / "top.toml").write_text(TOP.replace("base.toml", "../{there}/base.toml"))
    loaded = target_file.load(here / "top.toml")
    start, call = loaded.start, loaded.spec.call[0]
    assert isinstance(call, spec.GrpcCall)
    filled = fill([start.command[1], start.cwd], {"here": str(here)})
    assert filled == [str(there / "app.py"), str(there)]
    assert call.proto == str(there / "a.proto")
    found = recipe(loaded)
    assert found is not None
    assert found.files == ((str(there / "needs.txt"), "requests\n"),)


def test_a_shipped_target_is_a_base_by_its_name(tmp_path: Path) -> None:
    top = laid(tmp_path, TOP.replace("base.toml", "pegaref-process") + 'args = ["--workers", "4"]\n')
    base = target_file.load(target_file.find("pegaref-process")).spec
    assert top.start.command == (*base.start.command, "--workers", "4")


@pytest.mark.parametrize(
    ("top", "line", "words"),
    [
        (TOP.replace("base.toml", "bse.toml"), 2, "did you mean base.toml"),
        (TOP.replace("base.toml", "top.toml"), 2, "ends up being its own base"),
        (TOP.replace('"base.toml"', "3"), 2, "must be a file's path"),
        (TOP.replace('name = "top"', ""), 4, "give it a `name` of its own"),
        (TOP + "args = 3\n", 6, "target.args: Expected `array`"),
        (TOP + 'args = ["-v", "{htp}"]\n', 6, "target.args[1]: unknown placeholder"),
        (TOP + '[[call]]\nurl = "/"\n', 6, "it says which call of base.toml this changes"),
        (TOP + '[[call]]\nname = "drop"\nulr = "/"\n', 8, "call[0].ulr: unknown key; did you mean url"),
        (TOP + '[[call]]\nname = "drop"\nundo = "mak"\n', 8, "call[0].undo: no call is named 'mak'"),
        (TOP + '[[call]]\nname = "drop"\n[[call]]\nname = "drop"\n', 9, "a second call is named 'drop'"),
        (TOP + '[[probe]]\nname = "health"\nexpect = { body = "(" }\n', 8, "not a regular expression"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_itself_is_told_with_its_line(
    tmp_path: Path, top: str, line: int, words: str
) -> None:
    error = wrong(tmp_path, top)
    assert (error.path.name, error.line) == ("top.toml", line)
    assert words in str(error)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("env =", "evn =", 5, "target.evn: unknown key"),
        ("{port:http}/drop", "{htp}/drop", 25, "call[1].url: unknown placeholder"),
        ('body = "ok"', 'body = "("', 12, "probe[0].expect.body: not a regular expression"),
        ('"app:gpu"', '"app.gpu"', 28, "sites.gpu: 'app.gpu' is not module:qualname"),
        ("[[call]]", "[[call", 14, "not TOML"),
    ],
)
def test_a_mistake_in_the_base_is_told_with_the_base_s_file_and_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in BASE
    change = '[[probe]]\nname = "first"\nkind = "http"\nurl = "http://127.0.0.1:{port:http}/"\n'
    change += '[[probe]]\nname = "health"\nexpect = { status = [204] }\n[[call]]\nname = "drop"\n'
    error = wrong(tmp_path, TOP + change, BASE.replace(old, new))
    assert (error.path.name, error.line or line) == ("base.toml", line)
    assert words in str(error)


def test_the_schema_asks_a_file_with_a_base_for_its_name_only() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    change = '[[call]]\nname = "drop"\nurl = "/"\n[[client]]\nname = "c"\n'
    assert list(validator.iter_errors(tomllib.loads(TOP + change))) == []
    for missing in (TOP.replace('name = "top"', ""), TOP + '[[call]]\nurl = "/"\n', TOP.partition("[")[0]):
        assert list(validator.iter_errors(tomllib.loads(missing))) != []
    without = tomllib.loads(TOP.replace('base = "base.toml"', "") + change)
    assert {error.message for error in validator.iter_errors(without)} >= {"'command' is a required property"}
