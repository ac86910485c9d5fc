"""Environments: the packages that a target requires, in a virtual environment of their own.

An environment is built once and kept in the user's cache directory under a hash of everything that it is made
from: the requirements, the contents of the requirement files they name, and the interpreter. Its python is
the target's `{python}`. pip's own settings (an index, a folder of wheels, a proxy) apply as usual.

With `surroundings` the environment also sees the packages of the environment that runs `wedge`, so packages
that are there already (torch has several gigabytes) are not installed again. They are then part of the hash.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import site
import sys
import sysconfig
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from faults import Controller, FaultsError
from scenarios.errors import CouldNotRun, Malformed
from scenarios.spec.target_file import LoadedTarget

log = logging.getLogger(__name__)

Say = Callable[[str], None]

_BUILD_WITHIN_S = 3600.0
_LOOK_EVERY_S = 0.1
_COMPLETE = ".complete"
_TOLD = re.compile(r"^(Collecting |Downloading |Building wheel|Installing collected packages)")
_OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Max retries exceeded"
    r"|Temporary failure in name resolution|Network is unreachable|Failed to establish a new connection"
)
_NOT_FOR_PIP = ("PIP_NO_DEPS", "PIP_PREFIX", "PIP_TARGET", "PIP_USER", "PYTHONHOME", "PYTHONPATH")
_FORMAT = 1
_FILE = re.compile(r"^(?:-r|--requirement)[ =]?(.+)$")
_NESTED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]?(.+)$")


class RequirementsFailed(CouldNotRun):
    """The environment that a target requires could not be made; `target` is the target's name."""

    def __init__(self, target: str, problem: str) -> None:
        self.target, self.problem = target, problem
        super().__init__(f"target {target}: requires: {problem}")


def cache_folder() -> Path:
    """Where environments are kept: `wedge/environments` under XDG_CACHE_HOME, or under `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "wedge" / "environments"


async def prepare_interpreter(
    loaded: LoadedTarget, say: Say | None = None, *, cache: Path | None = None
) -> str:
    """The target's python: that of its environment, or the running one if it requires nothing.

    Builds the environment if it does not exist; `say` is called with lines about the progress. If several
    processes call this at the same time, one builds and the others wait. Raises `RequirementsFailed`, and
    `Malformed` for invalid requirements.
    """
    wanted = recipe(loaded)
    if wanted is None:
        return sys.executable
    cache = cache if cache is not None else cache_folder()
    folder = cache / wanted.key
    python = folder / "bin" / "python"
    if not _whole(folder, python):
        say = say or log.info
        cache.mkdir(parents=True, exist_ok=True)
        async with _locked(folder.with_suffix(".lock"), wanted, say):
            if not _whole(folder, python):
                say(f"{wanted.target}: building its environment once: {wanted} (kept in {folder})")
                await _build(wanted, folder, python, say)
                say(f"{wanted.target}: its environment is ready")
    return str(python)


def _whole(folder: Path, python: Path) -> bool:
    return (folder / _COMPLETE).is_file() and python.exists()


@asynccontextmanager
async def _locked(path: Path, wanted: Recipe, say: Say) -> AsyncIterator[None]:
    """Hold the lock of one environment; the kernel lets go of it if this process dies."""
    with path.open("w") as file:
        told = False
        async with asyncio.timeout(_BUILD_WITHIN_S):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        say(f"{wanted.target}: another run builds its environment; waiting")
                        told = True
                await asyncio.sleep(_LOOK_EVERY_S)  # flock has no event to wait for beside other things
        yield


async def _build(wanted: Recipe, folder: Path, python: Path, say: Say) -> None:
    """Build the environment where it stays, since one cannot be moved; `.complete` is written last."""
    shutil.rmtree(folder, ignore_errors=True)  # what is left of a build that was ended
    try:
        async with asyncio.timeout(_BUILD_WITHIN_S):
            shared = _has_pip()
            venv = [sys.executable, "-m", "venv", *(["--without-pip"] if shared else []), str(folder)]
            said = await _run(wanted, venv, None)
            if said is not None:
                raise RequirementsFailed(
                    wanted.target, f"no virtual environment can be made: {_last(said)} (is venv installed?)"
                )
            if wanted.surroundings:
                _open_to_surroundings(folder)
            pip = [sys.executable, "-m", "pip", "--python", str(python)] if shared else [python, "-m", "pip"]
            options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "2"]
            said = await _run(wanted, [*map(str, pip), "install", *options, *wanted.arguments], say)
            if said is not None:
                raise RequirementsFailed(wanted.target, _why(wanted, said))
    except TimeoutError:
        raise RequirementsFailed(
            wanted.target, f"pip was not done within {_BUILD_WITHIN_S:g} s; is the index slow?"
        ) from None
    made_from = {"requires": [*wanted.packages, *(name for name, _ in wanted.files)], "python": sys.version}
    (folder / _COMPLETE).write_text(json.dumps(made_from) + "\n")


async def _run(wanted: Recipe, command: Sequence[str], say: Say | None) -> list[str] | None:
    """Run a command that must not outlive this process. Returns its output if it failed, else None."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PIP}
    output: deque[str] = deque(maxlen=400)
    try:
        async with Controller() as controller:
            launched = await controller.launch(
                command,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert launched.stdout is not None
            async for line in launched.stdout:
                text = line.decode(errors="replace").strip()
                output.append(text)
                if say is not None and _TOLD.match(text):
                    say(f"{wanted.target}: {text}")
            return None if await launched.wait() == 0 else list(output)
    except FaultsError as error:
        raise RequirementsFailed(wanted.target, str(error)) from error


def _has_pip() -> bool:
    """Whether there is a pip here that can install elsewhere (`--python`, from 22.3 on).

    Giving each environment a pip of its own takes ten times as long as the environment itself.
    """
    try:
        major, minor = metadata.version("pip").split(".")[:2]
        return (int(major), int(minor)) >= (22, 3)
    except (metadata.PackageNotFoundError, ValueError):
        return False


def _why(wanted: Recipe, said: list[str]) -> str:
    if any(_OFFLINE.search(line) for line in said):
        return (
            f"no package index can be reached for {wanted}: go online once, or point pip at a folder of "
            "wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER); what is built once needs no network"
        )
    return f"pip could not install {wanted}: {_last(said)}"


def _last(said: list[str]) -> str:
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    return next((line for line in [*reversed(errors), *reversed(said)] if line), "it did not say why")


def _open_to_surroundings(folder: Path) -> None:
    """Write a `.pth` file that adds the running environment's packages behind the environment's own."""
    inside = next((folder / "lib").glob("python*/site-packages"))
    lines = [f"import site; site.addsitedir({str(path)!r})" for path in package_folders()]
    (inside / "wedge_surroundings.pth").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made from. `files`: requirement files and all they include, with contents."""

    target: str
    packages: tuple[str, ...]
    requirement_files: tuple[Path, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    surroundings: bool = False

    @property
    def key(self) -> str:
        """The name of the environment's folder; the same for the same ingredients."""
        made_from = {
            "format": _FORMAT,
            "packages": sorted(self.packages),
            "files": sorted(content for _, content in self.files),
            "python": [sys.version, str(Path(sys.executable).resolve())],
            "surroundings": _surrounding_packages() if self.surroundings else None,
        }
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]

    @property
    def arguments(self) -> list[str]:
        """What pip is asked to install."""
        return [*self.packages, *(part for file in self.requirement_files for part in ("-r", str(file)))]

    def __str__(self) -> str:
        return ", ".join([*self.packages, *(file.name for file in self.requirement_files)])


def recipe(loaded: LoadedTarget) -> Recipe | None:
    """What the target requires, or None where it requires nothing. Raises `Malformed`."""
    start = loaded.start
    if not start.requires:
        return None
    packages, requirement_files, files = [], [], []
    for entry in (" ".join(entry.split()) for entry in start.requires):
        if found := _FILE.match(entry):
            file = loaded.folder / found[1].strip()
            requirement_files.append(file)
            files += list(_contents(loaded, file))
        elif not entry or entry.startswith("-"):
            raise _malformed(
                loaded, f"{entry!r} is no package; options other than `-r FILE` belong into pip's settings"
            )
        elif entry.startswith((".", "/", "~", "file:")) or "@ file:" in entry:
            raise _malformed(
                loaded,
                f"{entry!r} is a path, whose contents may change unseen; install it where `wedge` is "
                "installed, and leave it out",
            )
        else:
            packages.append(entry)
    return Recipe(loaded.name, tuple(packages), tuple(requirement_files), tuple(files), start.surroundings)


def _contents(
    loaded: LoadedTarget, file: Path, seen: frozenset[Path] = frozenset()
) -> Iterator[tuple[str, str]]:
    """A requirement file and those it includes, each once."""
    file = file.resolve()
    if file in seen:
        return
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise _malformed(loaded, f"{file} cannot be read: {error.strerror}") from error
    yield str(file), text
    for line in text.splitlines():
        if found := _NESTED.match(line.strip()):
            yield from _contents(loaded, file.parent / found[1].strip(), seen | {file})


def _malformed(loaded: LoadedTarget, problem: str) -> Malformed:
    return loaded.document.malformed(("target", "requires"), problem)


def package_folders() -> list[Path]:
    """Where the packages of the environment that runs this lie."""
    own = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    others = [Path(folder) for folder in site.getsitepackages() if folder in sys.path]
    return [folder for folder in dict.fromkeys([*own, *others]) if folder.is_dir()]


def _surrounding_packages() -> list[str]:
    """The package folders of the running environment, and the names and versions of the packages in them."""
    return [
        entry
        for folder in package_folders()
        for entry in [str(folder), *sorted(path.name for path in folder.glob("*.dist-info"))]
    ]
