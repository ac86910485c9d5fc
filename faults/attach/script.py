"""The script that the process runs: it loads the agent and records the result.

The script is a file in a directory of its own below the controller's private one. The process renames it
before it runs it, so the script is either withdrawn or run, never both. A process that comes late (because
its GIL was held) does nothing, and one that finishes late has nowhere to write.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from faults.agent import AGENT_DIRECTORY
from faults.directory import AGENT_SOCKET

_LOOK_EVERY_S = 0.01
_FINISH_WITHIN_S = 5.0

# Written for Python 3.8. It runs in a module of its own and leaves no name in the program's modules.
_TEXT = """\
import os
import sys

def load(directory, address):
    sys.path.insert(0, directory)
    try:
        import wedge_agent
    finally:
        sys.path.remove(directory)
    return wedge_agent.start(address)

def tell(word, path):
    with open(path + ".new", "w") as answer:
        answer.write(word)
    os.rename(path + ".new", path)

try:
    os.rename({path}, {path} + ".taken")
except OSError:
    pass
else:
    try:
        outcome = load({directory}, {address})
    except BaseException as error:
        outcome = "failed: " + type(error).__name__ + ": " + str(error)
    try:
        tell(outcome, {answer})
    except OSError:
        pass
"""


class Script:
    """The script for one process, which can be run inside the `with` block."""

    def __init__(self, private: Path, pid: int) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"attach-{pid}-", dir=private))
        self.path = self._directory / "load.py"
        self._answer = self._directory / "answer"
        self._text = _TEXT.format(
            path=json.dumps(str(self.path)),
            directory=json.dumps(str(AGENT_DIRECTORY)),
            address=json.dumps(str(private / AGENT_SOCKET)),
            answer=json.dumps(str(self._answer)),
        )

    def __enter__(self) -> Self:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(self._text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        over = self._directory.with_suffix(".over")  # by its old name, nothing more can be put into it
        self._directory.rename(over)
        shutil.rmtree(over, ignore_errors=True)

    @property
    def source(self) -> str:
        """Statements that run the script if it is still there, bind no name and raise nothing."""
        path = json.dumps(str(self.path))
        run = f"with open({path}) as file: text = file.read()\nexec(compile(text, {path}, 'exec'))"
        return (
            f"try:\n    exec({json.dumps(run)}, {{'__name__': 'wedge_attach'}})\nexcept OSError:\n    pass\n"
        )

    async def outcome(self, within_s: float) -> str | None:
        """`loaded`, `already`, `unreachable` or `failed: …`; None if the script did not start in time, after
        which it never will.
        """
        answer = await self._answered(within_s)
        if answer is not None:
            return answer
        try:
            self.path.unlink()
        except FileNotFoundError:  # taken just before: it will not take long now
            return await self._answered(_FINISH_WITHIN_S) or "failed: it began and did not end"
        return None

    async def _answered(self, within_s: float) -> str | None:
        give_up = time.monotonic() + within_s
        while True:
            if self._answer.exists():
                return self._answer.read_text()
            if time.monotonic() >= give_up:
                return None
            await asyncio.sleep(_LOOK_EVERY_S)
