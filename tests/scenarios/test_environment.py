"""Packages of a target come into an environment of their own: built once, shared, or refused in one line."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scenarios.errors import Malformed
from scenarios.server.environment import RequirementsFailed, prepare_interpreter, recipe
from scenarios.spec import LoadedTarget, Target
from scenarios.spec.document import Document
from scenarios.spec.target import Launch, Ready


def wheel(folder: Path, name: str, version: str = "1.0") -> None:
    """A package of one module, `VERSION` in it, as a wheel in `folder`."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only place that pip looks in."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def target(folder: Path, *requires: str, surroundings: bool = False) -> LoadedTarget:
    ready = Ready(url="http://127.0.0.1:1/")
    start = Launch("mine", ("{python}",), ready, requires=requires, surroundings=surroundings)
    path = folder / "mine.toml"
    return LoadedTarget(path, Target(start, ()), Document(path, ""))


def run(python: str, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip()


async def test_what_is_required_is_there_and_what_surrounds_is_not(tmp_path: Path, index: Path) -> None:
    wheel(index, "little", "2.5")

    python = await prepare_interpreter(target(tmp_path, "little"), cache=tmp_path / "cache")

    assert run(python, "import little; print(little.VERSION)") == "2.5"
    assert "No module named 'msgspec'" in run(python, "import msgspec")


async def test_an_environment_is_built_once_even_if_two_ask_at_once(tmp_path: Path, index: Path) -> None:
    wheel(index, "little")
    said: list[str] = []
    loaded = target(tmp_path, "little")

    async def ask() -> str:
        return await prepare_interpreter(loaded, said.append, cache=tmp_path / "cache")

    first, second = await asyncio.gather(ask(), ask())
    third = await ask()

    assert first == second == third
    assert [line for line in said if "building" in line and "once" in line] == said[:1]
    assert len([line for line in said if "ready" in line]) == 1


async def test_what_surrounds_is_seen_where_it_is_asked_for_and_what_is_required_comes_first(
    tmp_path: Path, index: Path
) -> None:
    wheel(index, "little")
    wheel(index, "click", "0.0.1")
    loaded = target(tmp_path, "little", "click==0.0.1", "msgspec", surroundings=True)

    python = await prepare_interpreter(loaded, cache=tmp_path / "cache")

    assert run(python, "import little, msgspec, click; print(click.VERSION)") == "0.0.1"


async def test_a_build_that_was_ended_is_done_again(tmp_path: Path, index: Path) -> None:
    wheel(index, "little")
    loaded = target(tmp_path, "little")
    wanted = recipe(loaded)
    assert wanted is not None
    left = tmp_path / "cache" / wanted.key / "bin"
    left.mkdir(parents=True)
    (left / "python").write_text("half a file")

    python = await prepare_interpreter(loaded, cache=tmp_path / "cache")

    assert run(python, "import little; print('whole')") == "whole"


async def test_an_environment_gets_its_own_pip_where_there_is_none_to_share(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, "little")
    monkeypatch.setattr("scenarios.server.environment._has_pip", lambda: False)

    python = await prepare_interpreter(target(tmp_path, "little"), cache=tmp_path / "cache")

    assert run(python, "import little, pip; print('both')") == "both"


async def test_a_package_that_is_not_there_is_one_clear_line(tmp_path: Path, index: Path) -> None:
    with pytest.raises(RequirementsFailed) as caught:
        await prepare_interpreter(target(tmp_path, "no-such-thing==9"), cache=tmp_path / "cache")

    message = str(caught.value)
    assert message == (
        "target mine: requires: pip could not install no-such-thing==9: "
        "No matching distribution found for no-such-thing==9"
    )


async def test_an_index_that_cannot_be_reached_is_said_with_the_remedy(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens

    with pytest.raises(
        RequirementsFailed, match=r"no package index can be reached for little: go online once"
    ):
        await prepare_interpreter(target(tmp_path, "little"), cache=tmp_path / "cache")


async def test_a_target_that_requires_nothing_runs_on_the_python_at_hand(tmp_path: Path) -> None:
    assert await prepare_interpreter(target(tmp_path), cache=tmp_path / "cache") == sys.executable
    assert not (tmp_path / "cache").exists()


SERVER = """
import http.server, little, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TARGET = """
[target]
name = "mine"
command = ["{python}", "{here}/server.py", "{port:http}"]
requires = ["little"]
ready = { url = "http://127.0.0.1:{port:http}/" }

[[probe]]
kind = "http"
name = "http /"
url = "http://127.0.0.1:{port:http}/"
expect = { status = [204] }

[processes]
server = { main = true }
"""


def test_a_run_says_that_it_builds_an_environment_before_it_says_anything_else(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, "little")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "mine.toml").write_text(TARGET)
    command = [sys.executable, "-m", "scenarios", "run", "noop@*", "--target", str(tmp_path / "mine.toml")]

    done, again = (
        subprocess.run(command, capture_output=True, text=True, timeout=120, check=False) for _ in range(2)
    )

    assert (done.returncode, again.returncode) == (0, 0)
    said = [line for line in done.stderr.splitlines() if line.startswith("… ")]
    assert said[0].startswith("… mine: building its environment once: little (kept in ")
    assert said[-1] == "… mine: its environment is ready"
    assert done.stderr.startswith(said[0])
    assert "…" not in again.stderr


def test_the_contents_of_a_requirement_file_and_of_those_it_includes_are_part_of_the_hash(
    tmp_path: Path,
) -> None:
    (tmp_path / "requirements.txt").write_text("-c pins.txt\nlittle\n")
    (tmp_path / "pins.txt").write_text("little==1\n")
    loaded = target(tmp_path, "-r requirements.txt")
    before, same = recipe(loaded), recipe(loaded)
    (tmp_path / "pins.txt").write_text("little==2\n")
    after = recipe(loaded)

    assert before is not None
    assert same is not None
    assert after is not None
    assert before.key == same.key != after.key


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("--index-url http://127.0.0.1/", "options other than `-r FILE` belong into pip's settings"),
        ("./server", "is a path, whose contents may change unseen"),
        ("thing @ file:///tmp/thing", "is a path, whose contents may change unseen"),
        ("-r missing.txt", "missing.txt cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_held_to_a_hash_is_refused_with_file_line_and_key(
    tmp_path: Path, entry: str, said: str
) -> None:
    text = f'[target]\nname = "mine"\nrequires = ["{entry}"]\n'
    loaded = target(tmp_path, entry)
    loaded = dataclasses.replace(loaded, document=Document(loaded.path, text))

    with pytest.raises(Malformed) as caught:
        recipe(loaded)

    message = str(caught.value)
    assert message.startswith(f"{loaded.path}:3: target.requires: ")
    assert said in message
    assert "\n" not in message
