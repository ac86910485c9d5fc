"""The page "Test your own server in ten minutes", done as it says: files, commands, and what they print.

In the page a comment before a fenced block says what the block is: `file: NAME`, `append: NAME`, or `run`
(with `exits N`). What a command is shown to print must be printed, in that order; other lines may stand
between, and numbers and spacing may differ.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "test-your-own-server.md"
BLOCK = re.compile(r"^<!-- (\w+)(?:: (.+?))? -->\n```\w*\n(.*?)^```$", re.M | re.S)
WITHIN_S = 180


class Command(NamedTuple):
    """A command of the page, what it is shown to print, and its exit code."""

    line: str
    shown: tuple[str, ...]
    exits: int


def commands(text: str, exits: int) -> Iterator[Command]:
    """The commands of one console block. Only the last of a block may fail."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    for i, part in enumerate(parts):
        line, *shown = part.splitlines()
        last = i == len(parts) - 1
        yield Command(line, tuple(text for text in shown if text.strip()), exits if last else 0)


def run(command: Command, folder: Path) -> str:
    """What the command printed. Fails the test when it exits otherwise than the page says."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == command.exits, f"$ {command.line}\n{printed}"
    return done.stdout


def plain(line: str) -> str:
    """The line without what differs from run to run: numbers, spacing, the name of the interpreter."""
    return re.sub(r"\d+(\.\d+)*", "N", " ".join(line.split())).replace("pythonN", "python")


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """The shown lines that were not printed in this order."""
    rest = iter([plain(line) for line in printed.splitlines()])
    return [line for line in shown if not any(plain(line) == other for other in rest)]


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) > 10

    for kind, argument, text in blocks:
        if kind == "file":
            (folder / argument).write_text(text, encoding="utf-8")
        elif kind == "append":
            with (folder / argument).open("a", encoding="utf-8") as file:
                file.write(text)
        else:
            assert kind == "run"
            exits = int(argument.removeprefix("exits ")) if argument else 0
            for command in commands(text, exits):
                printed = run(command, folder)
                assert missing(command.shown, printed) == [], f"$ {command.line}\n{printed}"
    assert (folder / "report.html").stat().st_size > 1000


def test_the_server_of_the_page_is_the_example() -> None:
    shown = {
        name: text for kind, name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == "file"
    }

    assert shown["app.py"] == (DOCS / "examples" / "shared-pool" / "app.py").read_text(encoding="utf-8")


def test_what_is_shown_is_compared_line_by_line_and_in_order() -> None:
    printed = "a 1.5 s\nb   lit 12/40\nc\n"

    assert missing(("a 9 s", "c"), printed) == []
    assert missing(("c", "a 1.5 s"), printed) == ["a 1.5 s"]
    assert missing(("b dark 12/40",), printed) == ["b dark 12/40"]


@pytest.mark.parametrize("page", ["test-your-own-server.md", "ci.md", "examples/README.md"])
def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    path = DOCS / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
